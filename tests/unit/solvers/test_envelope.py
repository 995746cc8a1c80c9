"""The envelope against minimum cuts on a grid of demands."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from dags import device_sets, random_graph
from markets import random_costs

from controller.solvers.dag.envelope import best_line, envelope, line_of
from controller.solvers.dag.mincut import CutGraph


def test_holds_the_best_cut_at_every_demand() -> None:
    rng = np.random.default_rng(1)
    kinks = 0
    for _ in range(60):
        size = int(rng.integers(6, 12))
        nodes, costs = random_graph(rng, size, 4), random_costs(rng, size)
        graph = CutGraph(nodes)
        lines = envelope(graph, costs, 1e-3, 1.0)
        every = [line_of(graph, costs, inside) for inside in device_sets(nodes)]
        for demand in np.geomspace(1e-3, 1.0, 40):
            best = min(line.seconds(demand) for line in every)
            assert best_line(lines, demand).seconds(demand) == pytest.approx(best, rel=3e-6)
        kinks += len(lines) - 1
    assert kinks > 40


def test_less_demand_leaves_more_on_the_device() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        size = int(rng.integers(8, 40))
        nodes, costs = random_graph(rng, size), random_costs(rng, size)
        lines = envelope(CutGraph(nodes), costs, 1e-4, 1.0)
        for fast, slow in itertools.pairwise(lines):
            assert fast.work_seconds > slow.work_seconds
            assert fast.constant_seconds < slow.constant_seconds


def test_sets_are_nested_where_decoding_is_free() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        size = int(rng.integers(8, 40))
        nodes, costs = random_graph(rng, size), random_costs(rng, size)
        costs.decode_work[:] = 0.0
        graph = CutGraph(nodes)
        sets = [graph.solve(costs.at(y)).on_device for y in np.geomspace(1.0, 1e4, 15)]
        for smaller, larger in itertools.pairwise(sets):
            assert not np.any(smaller & ~larger)


def test_demands_out_of_order_are_refused() -> None:
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="0 < least <= most"):
        envelope(CutGraph(random_graph(rng, 5)), random_costs(rng, 5), 1.0, 0.5)
