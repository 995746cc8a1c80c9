"""The seven stages of a task that alternates between sides, against a chain that is added up by hand."""

from __future__ import annotations

import itertools
import random

import pytest

from controller.contract import GraphNode, UeDecision, UeName
from testbed.mechanisms.uploading import upload_books
from testbed.mechanisms.uploading.timeline import WAKE_UP_SECONDS, Awaited, Timeline
from testbed.mechanisms.uploading.upload_run import Arrival, Flow, Run
from testbed.mechanisms.uploading.upload_sender import Transfer
from testbed.node import ledger
from testbed.node.ledger import Task

NODES = 5
OUT, BACK, QUEUED, ARRIVAL, START = 0.03, 0.02, 0.005, 99.5, 100.0


def chain_run(
    sides: tuple[int, ...], layers: list[float], costs: list[float]
) -> tuple[Run, dict[str, Transfer], dict[str, float]]:
    """A run of a chain (1: edge) whose layer k is at the edge at ``layers[k]``, and its stages added up by hand."""
    names = [f"n{number}" for number in range(NODES)]
    nodes = [GraphNode("input", (), (1,), 1, 0, 0)]
    nodes += [GraphNode(name, (before,), (1,), 4, 0, 4) for before, name in zip(["input", *names], names, strict=False)]
    task = Task(0, ARRIVAL, head_start_seconds=START)
    own = UeDecision(UeName("ue"), ("input",), 0.5, 1.0, 1.0, 0.5)
    on_edge = frozenset(name for name, side in zip(names, sides, strict=True) if side)
    run = Run(task, own, Flow(nodes), on_edge, (), lambda: None, Timeline(START))
    edge = Timeline(START)
    values: dict[str, Transfer] = {}
    stages = dict.fromkeys(("head", "tx_queue", "uplink", "tail", "downlink"), 0.0)
    now, side, before = START, 0, "input"
    for name, here, ready, cost in zip(names, sides, layers, costs, strict=True):
        value = layer = Awaited()
        if here and not side:
            values[before] = Transfer(0, "feature", before, (), now, released_seconds=now)
            values[before].wire_start_seconds = now + QUEUED
            stages["tx_queue"] += QUEUED
            stages["uplink"] += OUT
            now += QUEUED + OUT
            value = Awaited(before, now)
        elif side and not here:
            run.arrivals[before] = Arrival(before, now, now + BACK)
            stages["downlink"] += BACK
            now += BACK
            value = Awaited(before, now)
        if here:
            layer = Awaited(name, ready)
            stages["tx_queue"] += max(0.0, ready - now)
            now = max(now, ready)
        timeline = edge if here else run.timeline
        now = timeline.ran(name, cost, value, layer, cost / 2, 0.5)
        stages["tail" if here else "head"] += cost
        side, before = here, name
    if side:
        run.arrivals[before] = Arrival(before, now, now + BACK)
        stages["downlink"] += BACK
        now += BACK
    run.edge_segments = {segment.number: segment for segment in edge.segments}
    run.end_seconds = now
    return run, values, stages


@pytest.mark.parametrize("sides", list(itertools.product((0, 1), repeat=NODES)))
def test_stages_of_a_chain_are_those_added_up_by_hand(sides: tuple[int, ...]) -> None:
    rng = random.Random(str(sides))
    for _ in range(10):
        layers = sorted(START + rng.uniform(-0.1, 0.6) for _ in range(NODES))
        costs = [rng.choice((0.0, rng.uniform(0.001, 0.1))) for _ in range(NODES)]
        run, values, expected = chain_run(sides, layers, costs)
        found = upload_books.account(run, values)
        for stage, seconds in expected.items():
            assert found.stages[stage] == pytest.approx(seconds, abs=1e-7), (stage, layers, costs)
        assert found.targets["head"] == pytest.approx(expected["head"])
        assert found.targets["tail"] == pytest.approx(expected["tail"])
        record = upload_books.completed(run, values, "ue", 1000, 100)
        assert sum(ledger.stage_seconds(record).values()) == pytest.approx(run.end_seconds - ARRIVAL)
        assert ledger.stage_seconds(record)["ue_queue"] == pytest.approx(START - ARRIVAL)
        assert (record.wire_bytes, record.result_wire_bytes) == (1000, 100)


def test_nodes_that_follow_each_other_are_one_segment_and_lateness_is_that_of_what_crosses() -> None:
    timeline = Timeline(10.0)
    nothing = Awaited()
    assert timeline.ran("a", 0.1, nothing, nothing, 0.01, 0.5) == 10.1
    assert timeline.ran("b", 0.1, Awaited("x", 10.05), nothing, 0.01, 0.5, crosses_seconds=10.15) == pytest.approx(10.2)
    assert len(timeline.segments) == 1
    end = timeline.ran("c", 0.1, Awaited("y", 10.5), Awaited("c", 10.4), 0.01, 0.5, crosses_seconds=10.7)
    assert end == 10.7
    late = timeline.segments[1]
    assert (late.first, late.start_seconds, late.overrun, late.ready_seconds) == ("c", 10.5, True, 10.5)
    assert late.free_seconds == pytest.approx(10.2)
    timeline.ran("d", 0.1, nothing, nothing, 0.01, 0.5, crosses_seconds=10.8 + WAKE_UP_SECONDS / 2)
    assert [(one.first, one.last) for one in timeline.segments] == [("a", "b"), ("c", "d")]
    timeline.ran("e", 0.001, nothing, nothing, 0.01, 0.7, crosses_seconds=11.5)
    assert not timeline.segments[-1].overrun, "too short to be judged"
    assert timeline.segments[-1].share == 0.7, "a segment has one share"
