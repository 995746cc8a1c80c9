"""Inference while the model uploads: closed forms against an event simulation, plans against brute force, shares."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from controller.model.uploading import UploadWork
from controller.simulator.upload_task import Capacities, task_seconds
from controller.solvers.upload.graph import UploadGraph, graph_seconds, plan_graph_upload
from controller.solvers.upload.plan import (
    UploadChain,
    exhaustive,
    ionn_plans,
    pipelined_seconds,
    plan_upload,
    serial_optimum,
    serial_seconds,
    single_cut,
)
from controller.solvers.upload.shares import UploadUe, allocate_shares, equal_shares, proportional_shares, serial

EPSILON = 1e-12


def event_simulation(graph: UploadGraph, sites: list[int]) -> float:
    """Device, edge, uplink and downlink as servers; time goes from event to event. Nothing is computed in advance."""
    count = len(graph.inputs)
    where = {-1: 0, **dict(enumerate(sites))}
    finished = {-1: 0.0}
    queues = [[v for v in range(count) if sites[v] == side] for side in (0, 1)]
    over: set[tuple[int, int]] = set()  # (value, side that has it)
    over.add((-1, 0))
    # what crosses as soon as it is there; parameters in the order of the vertices
    uplink: list[tuple[str, int, list[float]]] = []
    downlink: list[tuple[int, list[float]]] = []
    asked: set[tuple[int, int]] = set()
    for vertex in range(count):
        for source in graph.inputs[vertex]:
            if where[source] != sites[vertex] and (source, sites[vertex]) not in asked:
                asked.add((source, sites[vertex]))
                if sites[vertex] == 1:
                    uplink.append(("feature", source, [graph.bits(source) / graph.up_bits_per_second]))
                else:
                    downlink.append((source, [graph.bits(source) / graph.down_bits_per_second]))
        if sites[vertex] == 1 and graph.parameter_bits[vertex] > 0:
            uplink.append(("parameters", vertex, [graph.parameter_bits[vertex] / graph.up_bits_per_second]))
    if sites[-1] == 1:
        downlink.append((count - 1, [graph.bits(count - 1) / graph.down_bits_per_second]))
    loaded = {vertex for vertex in range(count) if graph.parameter_bits[vertex] == 0}
    running: list[tuple[int, float] | None] = [None, None]
    now = 0.0
    while True:
        progress = True
        while progress:
            progress = False
            for side in (0, 1):
                if running[side] is None and queues[side]:
                    vertex = queues[side][0]
                    ready = all((source, side) in over for source in graph.inputs[vertex])
                    if ready and (side == 0 or vertex in loaded):
                        seconds = (graph.device_seconds, graph.edge_seconds)[side][vertex]
                        running[side] = (queues[side].pop(0), now + float(seconds))
                        progress = True
            # a feature that has waited longest, else parameters
            features = [job for job in uplink if job[0] == "feature" and job[1] in finished]
            loading = [job for job in uplink if job[0] == "parameters"]
            sending = min(features, key=lambda job: finished[job[1]], default=loading[0] if loading else None)
            if sending and sending[2][0] <= EPSILON:
                kind, value, _ = sending
                uplink.remove(sending)
                (over.add((value, 1)) if kind == "feature" else loaded.add(value))
                progress = True
            waiting = [job for job in downlink if job[0] in finished]
            fetching = min(waiting, key=lambda job: finished[job[0]], default=None)
            if fetching and fetching[1][0] <= EPSILON:
                over.add((fetching[0], 0))
                downlink.remove(fetching)
                progress = True
            for side in (0, 1):
                task = running[side]
                if task and task[1] <= now + EPSILON:
                    finished[task[0]] = now
                    over.add((task[0], side))
                    running[side] = None
                    progress = True
        if (count - 1, 0) in over:
            return now
        steps = [task[1] - now for task in running if task]
        steps += [sending[2][0]] if sending else []
        steps += [fetching[1][0]] if fetching else []
        step = min(steps)
        now += step
        if sending:
            sending[2][0] -= step
        if fetching:
            fetching[1][0] -= step


def random_chain(rng: np.random.Generator, layers: int) -> UploadChain:
    return UploadChain(
        device_seconds=rng.exponential(1.0, layers),
        edge_seconds=rng.exponential(0.1, layers),
        output_bits=rng.exponential(1.0, layers + 1),
        parameter_bits=rng.exponential(2.0, layers) * (rng.random(layers) < 0.8),
        up_bits_per_second=float(rng.uniform(1.0, 10.0)),
        down_bits_per_second=float(rng.uniform(1.0, 10.0)),
    )


def as_graph(chain: UploadChain) -> UploadGraph:
    layers = len(chain.device_seconds)
    return UploadGraph(
        inputs=tuple((layer - 1,) for layer in range(layers)),
        device_seconds=chain.device_seconds,
        edge_seconds=chain.edge_seconds,
        output_bits=chain.output_bits[1:],
        parameter_bits=chain.parameter_bits,
        input_bits=float(chain.output_bits[0]),
        up_bits_per_second=chain.up_bits_per_second,
        down_bits_per_second=chain.down_bits_per_second,
    )


def random_graph(rng: np.random.Generator, vertices: int) -> UploadGraph:
    """Every vertex reads one to three earlier ones and is read by a later one."""
    inputs = [set(rng.choice(np.arange(-1, v), size=min(v + 1, int(rng.integers(1, 4))), replace=False).tolist())
              for v in range(vertices)]  # fmt: skip
    for v in range(vertices - 1):
        if not any(v in inputs[later] for later in range(v + 1, vertices)):
            inputs[int(rng.integers(v + 1, vertices))].add(v)
    chain = random_chain(rng, vertices)
    return replace(as_graph(chain), inputs=tuple(tuple(sorted(sources)) for sources in inputs))


def as_work(graph: UploadGraph) -> UploadWork:
    count = len(graph.inputs)
    return UploadWork(
        names=tuple(f"n{v}" for v in range(count)),
        inputs=graph.inputs,
        device_seconds=graph.device_seconds,
        edge_seconds=graph.edge_seconds,
        output_bits=graph.output_bits,
        parameter_bits=graph.parameter_bits,
        parameter_bytes=np.ones(count, dtype=np.int64),
        input_bits=graph.input_bits,
        block_ends=(count - 1,),
        up_delay_seconds=graph.up_delay_seconds,
        down_delay_seconds=graph.down_delay_seconds,
    )


def test_two_layers_by_hand() -> None:
    # parameters need 3 s of uplink, the input 1 s: the edge starts at 4 s; the second layer's are there at 6 s
    device, edge, output, parameters = (np.array(x) for x in ([5.0, 9.0], [1.0, 2.0], [1.0, 2.0, 0.5], [3.0, 2.0]))
    chain = UploadChain(device, edge, output, parameters, 1.0, 1.0)
    assert pipelined_seconds(chain, [1, 1]) == 6 + 2 + 0.5
    assert serial_seconds(chain, [1, 1]) == (1 + 3 + 1) + (2 + 2) + 0.5
    assert pipelined_seconds(chain, [0, 1]) == max(5 + 2, 2 + 2) + 2 + 0.5
    assert pipelined_seconds(chain, [1, 0]) == 4 + 1 + 2 + 9
    assert pipelined_seconds(chain, [0, 0]) == 14
    assert pipelined_seconds(chain.cached([True, True]), [1, 1]) == 1 + 1 + 2 + 0.5


def test_closed_forms_are_what_an_event_simulation_gives() -> None:
    rng = np.random.default_rng(1)
    for number in range(10_000):
        chain = random_chain(rng, int(rng.integers(1, 9)))
        sites = rng.integers(0, 2, len(chain.device_seconds))
        graph = as_graph(chain)
        found = pipelined_seconds(chain, sites)
        assert found == pytest.approx(event_simulation(graph, sites.tolist()), rel=1e-9)
        assert serial_seconds(chain, sites) >= found * (1 - 1e-12)
        if number % 10 == 0:
            assert graph_seconds(graph, sites) == pytest.approx(found, rel=1e-12)


def test_schedules_of_graphs_are_what_an_event_simulation_gives() -> None:
    rng = np.random.default_rng(2)
    for _ in range(2000):
        graph = random_graph(rng, int(rng.integers(2, 9)))
        sites = rng.integers(0, 2, len(graph.inputs)).tolist()
        assert graph_seconds(graph, sites) == pytest.approx(event_simulation(graph, sites), rel=1e-9)


@pytest.mark.parametrize("delays", [(0.0, 0.0), (0.4, 0.1)])
def test_schedules_of_graphs_are_what_the_simulator_serves(delays: tuple[float, float]) -> None:
    """Whose discipline is that of UE and edge: what is ready first crosses first, parameters on what is left."""
    rng = np.random.default_rng(5)
    for _ in range(300):
        graph = random_graph(rng, int(rng.integers(2, 14)))
        graph = replace(graph, up_delay_seconds=delays[0], down_delay_seconds=delays[1])
        sites = rng.integers(0, 2, len(graph.inputs))
        uploads = [v for v in np.flatnonzero(sites).tolist() if graph.parameter_bits[v] > 0]
        served = task_seconds(
            as_work(graph),
            (sites == 1).tolist(),
            uploads,
            Capacities(1.0, 1.0, graph.up_bits_per_second, graph.down_bits_per_second),
        )
        assert graph_seconds(graph, sites) == pytest.approx(served, rel=1e-9)


def test_chain_plans_are_the_best_of_all() -> None:
    rng = np.random.default_rng(3)
    for _ in range(400):
        chain = random_chain(rng, int(rng.integers(4, 11)))
        layers = len(chain.device_seconds)
        every = ((np.arange(2**layers)[:, np.newaxis] >> np.arange(layers)) & 1).astype(np.int64)
        best = min(pipelined_seconds(chain, sites) for sites in every)
        plan = plan_upload(chain)
        assert plan.seconds == pytest.approx(best, rel=1e-12)
        assert pipelined_seconds(chain, plan.sites) == pytest.approx(plan.seconds, rel=1e-12)
        assert best <= plan_upload(chain, beam=2).seconds <= single_cut(chain).seconds
        serially = min(serial_seconds(chain, sites) for sites in every[:: max(1, len(every) // 64)])
        assert serial_optimum(chain).seconds <= serially * (1 + 1e-12)


def test_graph_plans_are_next_to_the_best_of_all() -> None:
    rng = np.random.default_rng(4)
    excess: list[float] = []
    for _ in range(200):
        graph = random_graph(rng, int(rng.integers(3, 8)))
        best = min(graph_seconds(graph, sites) for sites in itertools.product((0, 1), repeat=len(graph.inputs)))
        plan = plan_graph_upload(graph, beam=0)
        assert graph_seconds(graph, plan.sites) == plan.seconds
        assert best * (1 - 1e-12) <= min(plan.seconds, plan_graph_upload(graph, beam=4).seconds)
        excess.append(plan.seconds / best - 1)
    assert np.mean(np.array(excess) > 1e-9) < 0.03
    assert np.mean(excess) < 1e-3


def test_plans_of_ionn_grow_towards_all_that_helps() -> None:
    chain = random_chain(np.random.default_rng(8), 12)
    plans = ionn_plans(chain)
    np.testing.assert_array_equal(plans[-1], serial_optimum(chain.cached(np.ones(12))).sites)
    assert len(plans) > 1


def some_ues(rng: np.random.Generator, count: int, layers: int = 8) -> list[UploadUe]:
    return [
        UploadUe(
            device_seconds=rng.exponential(0.2, layers) * rng.uniform(0.5, 3.0),
            edge_work=rng.exponential(1.0, layers),
            output_bits=rng.exponential(2e6, layers + 1),
            parameter_bits=rng.exponential(8e6, layers),
            bits_per_second_per_hz=float(rng.uniform(2, 6)),
            down_bits_per_second=50e6,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("objective", ["mean", "max"])
def test_shares_are_no_worse_than_any_baseline(objective: str) -> None:
    rng = np.random.default_rng(5)
    for bandwidth in (2e6, 20e6, 80e6):
        ues = some_ues(rng, 6)
        by_serial = allocate_shares(ues, bandwidth, 200.0, objective=objective, planner=serial)  # type: ignore[arg-type]
        ours = allocate_shares(ues, bandwidth, 200.0, objective=objective, starts=[by_serial])  # type: ignore[arg-type]
        for other in (
            equal_shares(ues, bandwidth, 200.0),
            proportional_shares(ues, bandwidth, 200.0),
            equal_shares(ues, bandwidth, 200.0, serial),
            by_serial,
        ):
            assert ours.value(objective) <= other.value(objective) * (1 + 1e-12)  # type: ignore[arg-type]
        assert ours.bandwidth_hz.sum() <= bandwidth * (1 + 1e-9)
        assert ours.capacity.sum() <= 200.0 * (1 + 1e-9)
        assert np.all(ours.bandwidth_hz >= 0)
        assert np.all(ours.seconds <= [ue.local_seconds * (1 + 1e-12) for ue in ues])


def test_shares_leave_the_corner_where_nobody_offloads() -> None:
    ues = some_ues(np.random.default_rng(6), 12)
    equal = equal_shares(ues, 0.6e6, 12.0)
    assert np.allclose(equal.seconds, [ue.local_seconds for ue in ues])
    assert allocate_shares(ues, 0.6e6, 12.0).seconds.mean() < equal.seconds.mean()


def test_one_ue_that_has_everything_keeps_it() -> None:
    (ue,) = some_ues(np.random.default_rng(7), 1)
    alone = allocate_shares([ue], 80e6, 200.0)
    assert alone.moves == 0
    assert alone.bandwidth_hz[0] == 80e6
    idle = replace(ue, device_seconds=1e-6 * ue.device_seconds)  # gains nothing from the edge
    for objective in ("mean", "max"):
        found = allocate_shares([ue, idle], 80e6, 200.0, objective=objective)  # type: ignore[arg-type]
        assert found.seconds[0] == pytest.approx(alone.seconds[0])


def test_nobody_gets_less_than_the_least() -> None:
    ues = some_ues(np.random.default_rng(9), 6)
    free = allocate_shares(ues, 1e6, 12.0)
    kept = allocate_shares(ues, 1e6, 12.0, least_ratio=0.05)
    assert free.bandwidth_hz.min() < 0.05e6
    assert kept.bandwidth_hz.min() >= 0.05e6 * (1 - 1e-9)
    assert kept.capacity.min() >= 0.6 * (1 - 1e-9)
    assert kept.bandwidth_hz.sum() == pytest.approx(1e6)
    assert kept.capacity.sum() == pytest.approx(12.0)
    assert kept.seconds.mean() <= equal_shares(ues, 1e6, 12.0).seconds.mean()
    with pytest.raises(ValueError, match=r"6 UEs cannot have 0\.2 of everything"):
        allocate_shares(ues, 1e6, 12.0, least_ratio=0.2)


def test_rates_by_shannon() -> None:
    (ue,) = some_ues(np.random.default_rng(10), 1)
    by_power = replace(ue, quality_hz=30e6, up_delay_seconds=0.01, down_delay_seconds=0.02)
    chain = by_power.chain(10e6, 3.0)
    assert chain.up_bits_per_second == pytest.approx(10e6 * 2)
    assert (chain.up_delay_seconds, chain.down_delay_seconds) == (0.01, 0.02)


def test_delays_of_the_links_count_once_per_crossing() -> None:
    rng = np.random.default_rng(11)
    for _ in range(200):
        chain = random_chain(rng, 6)
        sites = rng.integers(0, 2, 6)
        far = replace(chain, up_delay_seconds=10.0, down_delay_seconds=100.0)
        ups = int(((sites == 1) & (np.concatenate([[0], sites[:-1]]) == 0)).sum())
        downs = ups  # it comes back, at the end if not before
        assert pipelined_seconds(far, sites) <= pipelined_seconds(chain, sites) + 10.0 * ups + 100.0 * downs + 1e-9
        assert pipelined_seconds(far, sites) >= 10.0 * ups + 100.0 * downs
        best = min(itertools.product((0, 1), repeat=6), key=lambda plan: pipelined_seconds(far, plan))
        assert plan_upload(far).seconds == pytest.approx(pipelined_seconds(far, best))
        cheapest = min(serial_seconds(far, plan) for plan in itertools.product((0, 1), repeat=6))
        assert serial_optimum(far).seconds == pytest.approx(cheapest)


def test_all_plans_can_be_tried_for_few_layers() -> None:
    rng = np.random.default_rng(12)
    for _ in range(20):
        chain = random_chain(rng, 10)
        assert exhaustive(chain).seconds == pytest.approx(plan_upload(chain).seconds)
    with pytest.raises(ValueError, match="too many to try; allowed: up to 20 layers"):
        exhaustive(random_chain(rng, 21))
