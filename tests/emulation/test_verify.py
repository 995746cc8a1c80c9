"""``testbed verify`` on real wires and nodes: a sound lab passes, and what is not as it was told is found."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from testbed.lab.verify import loss_check
from testbed.runtime.base import namespace_name
from testbed.runtime.host import namespaces
from testbed.runtime.processes.discovery import list_owned
from testbed.wires import selftest
from testbed.wires.impairment import Impairment
from testbed.wires.selftest import Arrivals, Direction
from testbed.wires.wire import WireSpec
from tests.emulation.conftest import LABS, Bench
from tests.emulation.links_lab import wired

pytestmark = pytest.mark.root


def _verify(bench: Bench, *arguments: str, code: int | None = 0) -> dict[str, Any]:
    name = bench.name()
    lab = str(LABS / "tiny.yaml")
    answer = bench.call(
        "verify", lab, "--name", name, "--runtime", bench.runtime, "--duration", "5 s", "--json", *arguments, code=code
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    assert not list_owned(name), "nothing stays behind"
    return found


@pytest.mark.quiet
def test_a_sound_lab_passes_in_every_figure(bench: Bench) -> None:
    found = _verify(bench)
    assert found["ok"]
    figures = {(check["subject"], check["what"]): check for check in found["checks"]}
    ways = {f"ue{number} {way}" for number in (1, 2) for way in ("uplink", "downlink")}
    assert {subject for subject, what in figures if what == "rate"} == ways
    assert {subject for subject, what in figures if what == "delay"} == ways
    assert {subject for subject, what in figures if what == "loss"} == ways
    assert {subject for subject, what in figures if what == "stage"} == {"edge", "ue1", "ue2"}
    # 0.5 and 0.2 reference cores, half a core of the host each
    for node, speed in (("edge", 0.5), ("ue1", 0.2)):
        assert figures[node, "stage"]["requested"] == pytest.approx(2 * found["kernel_seconds"] / speed)


def test_a_lab_of_that_name_is_left_alone(bench: Bench) -> None:
    name = bench.name()
    namespaces.create([namespace_name(name, "edge")])
    answer = bench.call("verify", str(LABS / "tiny.yaml"), "--name", name, "--runtime", "netns", code=2)
    assert "is up" in answer.stderr
    assert namespaces.exists(namespace_name(name, "edge"))


@pytest.mark.quiet
def test_a_wire_that_carries_less_than_it_was_told_is_found() -> None:
    with wired("selftest", [WireSpec(0, "ue0", 8e6, 4e6)]) as lab:
        ways = selftest.directions(lab.wires, lab.name)
        found = selftest.saturate(ways, 1.0)
        assert {way.name for way in ways} == set(found)
        for way in ways:
            assert found[way.name].rate_bits_per_second == pytest.approx(way.rate_bits_per_second, rel=0.02)
        faster = [dataclasses.replace(way, rate_bits_per_second=2 * way.rate_bits_per_second) for way in ways]
        for name, arrivals in selftest.saturate(faster, 0.5).items():
            told = next(way.rate_bits_per_second for way in faster if way.name == name)
            assert arrivals.rate_bits_per_second < 0.6 * told


@pytest.mark.quiet
def test_delay_and_loss_of_each_direction_are_told_apart() -> None:
    from testbed.wires import capabilities

    if capabilities.probe().delayer is None:
        pytest.skip("needs sch_netem or vde2")
    wire = WireSpec(0, "ue0", 20e6, 20e6, up=Impairment(delay_seconds=0.02), down=Impairment(loss_ratio=0.2))
    with wired("selfdelay", [wire]) as lab:
        up, down = selftest.directions(lab.wires, lab.name)
        found = selftest.one_way([up, down], 200, 0.005, 0.3)
    delays = {way.name: sorted(found[way.name].seconds.values()) for way in (up, down)}
    middle = {name: values[len(values) // 2] for name, values in delays.items()}
    assert middle[up.name] == pytest.approx(0.02, abs=0.005)
    assert middle[down.name] < 0.005
    assert loss_check(up, found[up.name], 2).ok
    assert loss_check(down, found[down.name], 2).ok
    untold = dataclasses.replace(down, impairment=Impairment())
    assert not loss_check(untold, found[down.name], 2).ok


@pytest.mark.parametrize(
    ("wanted", "lost", "ok"), [(0.0, 0, True), (0.0, 1, False), (0.1, 20, True), (0.1, 50, False), (0.1, 0, False)]
)
def test_loss_is_judged_by_its_interval(wanted: float, lost: int, ok: bool) -> None:
    way = Direction("ue", "up", "", "", "", 1e6, Impairment(loss_ratio=wanted))
    check = loss_check(way, Arrivals(200, dict.fromkeys(range(200 - lost), 0.0)), 1)
    assert check.ok == ok
    assert check.achieved == lost / 200
    assert not math.isnan(check.limit)
