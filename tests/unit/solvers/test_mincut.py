"""The minimum cut against every device set, the scan of a chain, and networkx."""

from __future__ import annotations

import math

import networkx
import numpy as np
import pytest
from dags import chain, device_sets, node, random_blocks, random_costs, random_graph

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, GraphNode
from controller.model.cuts import canonical_cut, check_cut
from controller.solvers.dag.mincut import CutCosts, CutGraph
from controller.solvers.dag.runs import Runs


def literal_cost(nodes: tuple[GraphNode, ...], costs: CutCosts, inside: np.ndarray) -> float:
    """The cost of a device set, spelled out."""
    names = [found.name for found in nodes]
    cut = canonical_cut(nodes, [name for name, here in zip(names, inside, strict=True) if here])
    total = costs.remote if cut else 0.0
    for index, name in enumerate(names):
        total += costs.device[index] if inside[index] else costs.edge[index]
        total += costs.transfer[index] if name in cut else 0.0
    return float(total)


@pytest.mark.parametrize("edge_speed", [4.0, 1.0, 0.5])
def test_is_the_best_of_all_device_sets(edge_speed: float) -> None:
    rng = np.random.default_rng([1, int(10 * edge_speed)])
    remote = 0
    for _ in range(100):
        size = int(rng.integers(4, 12))
        nodes = random_graph(rng, size)
        costs = random_costs(rng, size, edge_speed)
        graph = CutGraph(nodes)
        found = graph.solve(costs)
        check_cut(nodes, found.cut)
        assert found.cost == pytest.approx(literal_cost(nodes, costs, found.on_device), rel=1e-12)
        assert found.cost == pytest.approx(min(literal_cost(nodes, costs, inside) for inside in device_sets(nodes)))
        remote += found.cut not in (ALL_ON_DEVICE, ALL_ON_EDGE)
    assert remote > 10  # not only the two ends


def test_a_chain_is_scanned() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        size = int(rng.integers(3, 60))
        costs = random_costs(rng, size, 4.0)
        ends = np.arange(1, size + 1)
        heads, tails = np.cumsum(costs.device), costs.edge.sum() - np.cumsum(costs.edge)
        every = heads + np.where(ends < size, tails + costs.transfer + costs.remote, 0.0)
        best = int(np.argmin(every))
        found = CutGraph(chain(size)).solve(costs)
        assert found.cost == pytest.approx(every[best])
        assert found.on_device.sum() == best + 1


def networkx_cost(nodes: tuple[GraphNode, ...], costs: CutCosts) -> float:
    """The same construction by another hand: no helpers' numbers, no integers, Boykov and Kolmogorov's algorithm."""
    graph = networkx.DiGraph()
    for index, found in enumerate(nodes):
        edge = costs.edge[index] + (costs.remote if index == len(nodes) - 1 else 0.0)
        graph.add_edge("DEVICE", found.name, capacity=edge if index else math.inf)
        graph.add_edge(found.name, "EDGE", capacity=costs.device[index])
        for name in found.inputs:
            graph.add_edge(name, ("carried", name), capacity=costs.transfer[[n.name for n in nodes].index(name)])
            graph.add_edge(("carried", name), found.name)  # without a capacity: infinite
            graph.add_edge(found.name, name)
    flow = networkx.algorithms.flow.boykov_kolmogorov
    return float(networkx.minimum_cut_value(graph, "DEVICE", "EDGE", flow_func=flow))


@pytest.mark.thorough
def test_agrees_with_networkx_on_larger_graphs() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        size = int(rng.integers(20, 60))
        nodes = random_graph(rng, size)
        costs = random_costs(rng, size, float(rng.choice([0.7, 1.5, 4.0])))
        assert CutGraph(nodes).solve(costs).cost == pytest.approx(networkx_cost(nodes, costs), rel=1e-7)


def test_agrees_with_networkx_on_graphs_as_models_have_them() -> None:
    rng = np.random.default_rng(6)
    several = shortened = 0
    for _ in range(150):
        nodes = random_blocks(rng, int(rng.integers(2, 9)))
        costs = random_costs(rng, len(nodes), float(rng.choice([0.7, 1.5, 4.0])))
        found = CutGraph(nodes).solve(costs)
        check_cut(nodes, found.cut)
        assert found.cost == pytest.approx(literal_cost(nodes, costs, found.on_device), rel=1e-12)
        assert found.cost == pytest.approx(networkx_cost(nodes, costs), rel=1e-7)
        several += len(found.cut) > 1
        shortened += len(runs_of(nodes)) < len(nodes) / 2
    assert several > 15
    assert shortened > 100


def test_of_equal_costs_the_smallest_device_set() -> None:
    """Small whole numbers, so that many sets cost the same; the minima of a cut are closed under intersection."""
    rng = np.random.default_rng(5)
    several = 0
    for _ in range(150):
        size = int(rng.integers(4, 11))
        nodes = random_graph(rng, size)
        device, edge, transfer = rng.integers(0, 3, (3, size)).astype(float)
        device[0] = edge[0] = 0.0
        costs = CutCosts(device, edge, transfer, 1.0)
        found = CutGraph(nodes).solve(costs, unit=1.0)
        every = {tuple(inside): literal_cost(nodes, costs, inside) for inside in device_sets(nodes)}
        least = [inside for inside, cost in every.items() if cost == min(every.values())]
        if min(every.values()) > 0:
            assert tuple(found.on_device) == tuple(np.logical_and.reduce(least))
            several += len(least) > 1
    assert several > 20


def runs_of(nodes: tuple[GraphNode, ...]) -> list[list[str]]:
    names = [found.name for found in nodes]
    runs = Runs.of([[names.index(name) for name in found.inputs] for found in nodes])
    return [[names[index] for index in run] for run in runs.runs]


def test_what_can_be_cut_at_one_place_only_is_one_run() -> None:
    skip = (node("input"), node("a", "input"), node("b", "a"), node("c", "b"), node("d", "a", "c"), node("e", "d"))
    assert runs_of(skip) == [["input", "a", "b", "c", "d", "e"]]
    dense = (node("input"), node("a", "input"), node("b", "input", "a"), node("c", "input", "a", "b"))
    assert runs_of(dense) == [["input", "a", "b", "c"]]


def test_branches_are_runs_of_their_own() -> None:
    assert runs_of(FORK) == [["input", "a"], ["b"], ["c"], ["d"]]
    long_skip = (*FORK, node("e", "d"), node("f", "a", "e"))  # f reads what was made before the fork
    assert runs_of(long_skip) == [["input", "a"], ["b"], ["c"], ["d", "e"], ["f"]]


def test_a_structure_is_used_again() -> None:
    rng = np.random.default_rng(4)
    nodes = random_graph(rng, 30)
    graph = CutGraph(nodes)
    for _ in range(5):
        costs = random_costs(rng, 30, 2.0)
        assert graph.solve(costs).cost == CutGraph(nodes).solve(costs).cost


# input - a - b, a - c, (b, c) - d: a has two readers
FORK = (node("input"), node("a", "input"), node("b", "a"), node("c", "a"), node("d", "b", "c"))


def test_a_value_with_two_readers_is_carried_once() -> None:
    costs = CutCosts.of([0, 1, 9, 9, 9], [0, 9, 1, 1, 1], [9, 2, 9, 9, 9])
    found = CutGraph(FORK).solve(costs)
    assert found.cut == ("a",)
    assert found.cost == 1 + 2 + 3


def test_data_never_returns() -> None:
    """Without the infinite reverse edges b runs on the edge and d, for which nothing then is paid, on the device."""
    costs = CutCosts.of([0, 0, 100, 0, 0], [0, 100, 1, 100, 100], [100, 1, 100, 100, 100])
    found = CutGraph(FORK).solve(costs)
    assert found.cut == ALL_ON_DEVICE
    assert found.cost == 100


def test_two_tensors_cross() -> None:
    costs = CutCosts.of([0, 1, 1, 1, 9], [0, 9, 9, 9, 1], [9, 9, 1, 1, 9])
    assert CutGraph(FORK).solve(costs).cut == ("b", "c")


def test_offloading_pays_the_way_back_once() -> None:
    without = CutCosts.of([0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [3.5, 9, 9, 9, 9])
    assert CutGraph(FORK).solve(without).cut == ALL_ON_EDGE
    within = CutCosts(without.device, without.edge, without.transfer, 0.4)
    assert CutGraph(FORK).solve(within).cost == pytest.approx(3.9)
    beyond = CutCosts(without.device, without.edge, without.transfer, 0.6)
    assert CutGraph(FORK).solve(beyond).cut == ALL_ON_DEVICE


def test_an_outage_leaves_everything_on_the_device() -> None:
    costs = CutCosts.of([0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [math.inf] * 5)
    assert CutGraph(FORK).solve(costs).cut == ALL_ON_DEVICE


def test_a_unit_that_does_not_fit_is_refused() -> None:
    costs = CutCosts.of([0, 3600, 0, 0, 0], [0, 9e9, 9e9, 9e9, 9e9], [1, 1, 1, 1, 1])
    with pytest.raises(OverflowError, match=r"3.6e[+]09 steps"):
        CutGraph(FORK).solve(costs, unit=1e-6)
    assert CutGraph(FORK).solve(costs, unit=1e-3).cost == 3600


@pytest.mark.parametrize(
    ("device", "transfer"),
    [([0, -1, 1, 1, 1], [1] * 5), ([0, math.nan, 1, 1, 1], [1] * 5), ([0, math.inf, 1, 1, 1], [math.inf] * 5)],
)
def test_impossible_costs_are_refused(device: list[float], transfer: list[float]) -> None:
    with pytest.raises(ValueError, match="cost"):
        CutGraph(FORK).solve(CutCosts.of(device, [0, 1, 1, 1, 1], transfer))


def test_a_graph_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="not before it"):
        CutGraph((node("input"), node("a", "b"), node("b", "input")))
