"""SCHED_FIFO for stage threads: really set, in every node, and capped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import TestbedError
from testbed.runtime.base import NodeSpec
from testbed.runtime.host import realtime
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes import discovery
from tests.emulation.netns_lab import bring_up, facts, number, of_this_process, runtime

pytestmark = pytest.mark.root


@pytest.fixture
def lab() -> Iterator[NetnsRuntime]:
    made = runtime(of_this_process("netnsrt-fifo"))
    made.remove()
    assert made.features["realtime"], "this host refuses SCHED_FIFO, or another program has taken its run time"
    yield made
    made.remove()
    assert discovery.list_owned(made.lab) == []


def test_every_stage_thread_becomes_fifo_and_only_it(lab: NetnsRuntime) -> None:
    nodes = [NodeSpec(f"ue{index}", "ue", quota_host_cores=0.2) for index in range(8)]
    bring_up(lab, nodes)
    for node in nodes:
        said = facts(lab, node.name)
        tid, pid = number(said["tid"]), number(said["pid"])
        assert lab.make_realtime(node.name, tid, 5)
        assert os.sched_getscheduler(tid) == os.SCHED_FIFO
        assert os.sched_getparam(tid).sched_priority == 5
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        # again, with another priority
        assert lab.make_realtime(node.name, tid, 6)
        assert os.sched_getparam(tid).sched_priority == 6


def test_the_player_has_run_time_of_its_own(lab: NetnsRuntime) -> None:
    bring_up(lab, [NodeSpec("ue1", "ue"), NodeSpec("player", "player", network=False)])
    stage, player = number(facts(lab, "ue1")["tid"]), number(facts(lab, "player")["pid"])
    assert lab.make_realtime("ue1", stage, 5)
    assert lab.make_realtime("player", player, realtime.PLAYER_PRIORITY)
    if lab.features["cgroup"] == "v1":
        places = [_cpu_cgroup(tid) for tid in (stage, player)]
        assert places == ["/testbed/.stages", "/testbed/.player"]


def test_a_thread_that_has_gone_is_an_error(lab: NetnsRuntime) -> None:
    lab.create([NodeSpec("ue1", "ue")])
    with pytest.raises(TestbedError, match="none of ue1's"):
        lab.make_realtime("ue1", 2**22 - 1, 5)


@pytest.mark.quiet
def test_a_runaway_stage_leaves_a_tenth_of_its_core(lab: NetnsRuntime) -> None:
    bring_up(lab, [NodeSpec("ue1", "ue")], action="spin")
    tid = number(facts(lab, "ue1")["tid"])
    os.sched_setaffinity(tid, {0})
    assert lab.make_realtime("ue1", tid, 5)
    # a period of the cap is one second: over three, the part of a period at either end is a sixth at most
    before, start = _cpu_nanoseconds(tid), time.monotonic_ns()
    time.sleep(3.0)
    used = (_cpu_nanoseconds(tid) - before) / (time.monotonic_ns() - start)
    assert 0.3 < used < 0.95


def test_removal_takes_the_groups_of_fifo_threads_along(lab: NetnsRuntime) -> None:
    bring_up(lab, [NodeSpec("ue1", "ue")])
    assert lab.make_realtime("ue1", number(facts(lab, "ue1")["tid"]), 5)
    lab.remove()
    assert discovery.list_owned(lab.lab) == []


def _cpu_nanoseconds(tid: int) -> int:
    return int(Path(f"/proc/{tid}/schedstat").read_text().split()[0])


def _cpu_cgroup(tid: int) -> str:
    lines = Path(f"/proc/{tid}/cgroup").read_text().splitlines()
    return next(line.split(":")[2] for line in lines if "cpu" in line.split(":")[1].split(","))
