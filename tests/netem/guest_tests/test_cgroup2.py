"""Limits of nodes under cgroup v2: what is written, that it holds, and that it goes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import HostError, InputError
from testbed.runtime.base import NodeSpec
from testbed.runtime.host.cgroups import CgroupsV2, detect
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes import discovery
from tests.emulation.netns_lab import bring_up, facts, number, runtime

pytestmark = [pytest.mark.root, pytest.mark.netem]

ROOT = Path("/sys/fs/cgroup")
GROUP = ROOT / "testbed" / "netem-v2" / "ue1"


@pytest.fixture
def lab() -> Iterator[NetnsRuntime]:
    if not isinstance(detect(), CgroupsV2):
        pytest.skip("needs cgroup v2")
    made = runtime("netem-v2")
    made.remove()
    yield made
    made.remove()
    assert discovery.list_owned(made.lab) == []
    assert not (ROOT / "testbed").exists()


def test_the_cap_is_written_and_changed_in_place(lab: NetnsRuntime) -> None:
    lab.create([NodeSpec("ue1", "ue", quota_host_cores=0.25), NodeSpec("edge", "edge")])
    assert (GROUP / "cpu.max").read_text() == "2500 10000\n"
    assert (GROUP.with_name("edge") / "cpu.max").read_text() == "max 10000\n"
    lab.set_cpu("ue1", 0.1)
    assert (GROUP / "cpu.max").read_text() == "1000 10000\n"
    lab.set_cpu("ue1", 0)
    assert (GROUP / "cpu.max").read_text() == "max 10000\n"
    with pytest.raises(InputError, match=r"0\.05 host cores.*>= 0\.1"):
        lab.set_cpu("ue1", 0.05)


def test_weights_are_written(lab: NetnsRuntime) -> None:
    lab.create([NodeSpec("ue1", "ue"), NodeSpec("player", "player")])
    assert (GROUP / "cpu.weight").read_text() == "100\n"
    assert (GROUP.with_name("player") / "cpu.weight").read_text() == "400\n"
    assert (GROUP.parent / "cpu.weight").read_text() == "1000\n"


def test_memory_is_limited(lab: NetnsRuntime) -> None:
    lab.create([NodeSpec("ue1", "ue", memory_bytes=64 << 20)])
    assert (GROUP / "memory.max").read_text() == f"{64 << 20}\n"


def test_the_root_hands_down_what_it_did_before(lab: NetnsRuntime) -> None:
    handed_down = ROOT / "cgroup.subtree_control"
    before = handed_down.read_text()
    lab.create([NodeSpec("ue1", "ue", memory_bytes=64 << 20)])
    assert {"cpu", "memory"} <= set(handed_down.read_text().split())
    lab.remove()
    assert handed_down.read_text() == before
    assert before.split() == [], "nothing else in the guest uses a controller"


def test_a_controller_that_is_not_there_is_named(lab: NetnsRuntime) -> None:
    if "cpuset" in (ROOT / "cgroup.controllers").read_text().split():
        pytest.skip("this kernel has cpusets")
    with pytest.raises(HostError, match="cgroup v2 controller 'cpuset' is missing"):
        lab.create([NodeSpec("ue1", "ue", cpu_list="0")])


@pytest.mark.quiet
def test_a_node_gets_no_more_than_its_cap(lab: NetnsRuntime) -> None:
    bring_up(lab, [NodeSpec("ue1", "ue", quota_host_cores=0.25)], action="spin")
    pid = number(facts(lab, "ue1")["pid"])
    assert str(pid) in (GROUP / "cgroup.procs").read_text().split()
    before, start = _usage_seconds(), time.monotonic()
    time.sleep(3.0)
    used = (_usage_seconds() - before) / (time.monotonic() - start)
    assert used == pytest.approx(0.25, rel=0.1)
    lab.set_cpu("ue1", 0.5)
    before, start = _usage_seconds(), time.monotonic()
    time.sleep(3.0)
    used = (_usage_seconds() - before) / (time.monotonic() - start)
    assert used == pytest.approx(0.5, rel=0.1)


def test_what_is_said_of_real_time_is_what_a_node_gets(lab: NetnsRuntime) -> None:
    """A kernel with RT_GROUP_SCHED gives a group of version 2 no real-time run time, and the root group all of it."""
    bring_up(lab, [NodeSpec("ue1", "ue", quota_host_cores=0.2)])
    tid = number(facts(lab, "ue1")["tid"])
    assert lab.make_realtime("ue1", tid, 5) == lab.features["realtime"]
    assert (os.sched_getscheduler(tid) == os.SCHED_FIFO) == lab.features["realtime"]


def _usage_seconds() -> float:
    fields = dict(line.split() for line in (GROUP / "cpu.stat").read_text().splitlines())
    return int(fields["usage_usec"]) * 1e-6
