"""The embedded runtime at work: where processes run, what they share, what they are told, how they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from testbed.errors import InputError, TestbedError
from testbed.runtime.base import NodeSpec, ProcessSpec
from testbed.runtime.host.cgroups import CgroupsV1, detect
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes import discovery
from testbed.runtime.processes.child import LOG_BYTES
from testbed.runtime.processes.zygote import Call
from tests.emulation.netns_lab import PROGRAM, bring_up, facts, number, of_this_process, process, runtime, wait_for

pytestmark = pytest.mark.root

UE = NodeSpec("ue1", "ue", cpus=0.25, quota_host_cores=0.25)
EDGE = NodeSpec("edge", "edge", cpus=0.8, quota_host_cores=0.8)
CONTROLLER = NodeSpec("controller", "controller", network=False)


@pytest.fixture
def lab() -> Iterator[NetnsRuntime]:
    made = runtime(of_this_process("netnsrt-work"))
    made.remove()
    yield made
    made.remove()
    assert discovery.list_owned(made.lab) == []


def test_forked_and_launched_processes_are_in_their_place(lab: NetnsRuntime) -> None:
    lab.create([UE, EDGE, CONTROLLER])
    lab.start([process(lab, "ue1", needs_torch=True, convolve=True), process(lab, "edge"), process(lab, "controller")])
    said = {name: facts(lab, name) for name in ("ue1", "edge", "controller")}
    host = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
    assert said["controller"]["namespace"] == host
    assert len({host, said["ue1"]["namespace"], said["edge"]["namespace"]}) == 3
    for name in ("ue1", "edge"):
        assert f"/testbed/{lab.lab}/{name}\n" in str(said[name]["cgroups"])
        assert said[name]["node"] == name
        assert said[name]["run_id"] == "run-1"
        assert said[name]["omp"] == "1"
    assert said["ue1"]["first_output"] == 27.0
    wait_for(lambda: lab.logs("ue1").read_text() == "up\n", "what the program says after its facts")
    assert lab.cpu_seconds("ue1") > 0


def test_an_agent_shares_what_was_loaded_before_the_fork(
    lab: NetnsRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nrt_shared.py").write_text(
        "import os\nloaded = []\n"
        "def load(name, seed):\n    loaded.append((name, seed, os.getpid()))\n"
        "def main(config):\n    print(loaded, os.getppid())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    lab.prewarm(calls=[Call("nrt_shared:load", ("a-model", 7))])
    lab.create([UE])
    lab.start([ProcessSpec("ue1", "nrt_shared", tmp_path / "none.json", needs_torch=True)])
    wait_for(lambda: lab.logs("ue1").exists() and "\n" in lab.logs("ue1").read_text(), "output")
    loaded, parent = lab.logs("ue1").read_text().rstrip().rsplit(" ", 1)
    assert loaded == f"[('a-model', 7, {parent})]"


def test_a_model_that_cannot_load_is_told_with_its_reason(lab: NetnsRuntime) -> None:
    lab.prewarm(calls=[Call("tests.emulation.netns_lab:no_such_function")])
    lab.create([UE])
    with pytest.raises(TestbedError, match="no_such_function"):
        lab.start([process(lab, "ue1", needs_torch=True)])


@pytest.mark.parametrize("needs_torch", [True, False])
def test_ends_are_recorded(lab: NetnsRuntime, needs_torch: bool) -> None:
    names = ["exits", "raises", "killed"]
    lab.create([NodeSpec(name, "ue") for name in names])
    lab.start(
        [
            process(lab, "exits", "exit", code=5, needs_torch=needs_torch),
            process(lab, "raises", "raise", needs_torch=needs_torch),
            process(lab, "killed", needs_torch=needs_torch),
        ]
    )
    os.kill(number(facts(lab, "killed")["pid"]), signal.SIGKILL)
    wait_for(lambda: all(status.exit_code is not None for status in lab.processes()), "three ends")
    assert {status.node: status.exit_code for status in lab.processes()} == {"exits": 5, "raises": 1, "killed": -9}
    assert "RuntimeError: the program's own error" in lab.logs("raises").read_text()


def test_what_was_started_is_known_at_once_however_slow_its_launcher(
    lab: NetnsRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import sys, time\ntime.sleep(0.7 * ('testbed.runtime.netns.launch' in sys.orig_argv))\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    monkeypatch.syspath_prepend(str(tmp_path))
    lab.create([UE, CONTROLLER])
    lab.start([process(lab, "ue1"), process(lab, "controller", "exit", code=5)])
    assert {status.node for status in lab.processes()} == {"ue1", "controller"}


def test_a_program_that_cannot_be_launched_is_told_with_its_reason(
    lab: NetnsRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (
        "import os, sys\nif 'testbed.runtime.netns.launch' in sys.orig_argv:\n    os.write(2, b'no\\n'); os._exit(1)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(broken)
    monkeypatch.syspath_prepend(str(tmp_path))
    lab.create([UE])
    with pytest.raises(TestbedError, match="'ue1' could not be started: no"):
        lab.start([process(lab, "ue1")])


def test_a_torn_record_of_processes_hides_nothing_else(lab: NetnsRuntime) -> None:
    lab.create([UE, EDGE])
    lab.start([process(lab, "ue1")])
    with (lab.lab_directory / "processes.jsonl").open("ab") as stream:
        stream.write(b'{"kind":"start","node":"\xff')  # a full disk, or the host's end
    lab.start([process(lab, "edge")])
    assert {status.node for status in lab.processes() if status.running} == {"ue1", "edge"}


def test_a_program_that_talks_on_does_not_fill_the_memory(lab: NetnsRuntime) -> None:
    lab.create([UE, EDGE])
    lab.start([process(lab, "ue1", "talk", needs_torch=True), process(lab, "edge", "talk")])
    for name in ("ue1", "edge"):
        facts(lab, name)
        wait_for(partial(_is_cut, lab.logs(name)), "its log is cut, and ends as before")


def _is_cut(log: Path) -> bool:
    text = log.read_text()
    return text.startswith("(what was before") and text.endswith("talk \nup\n") and len(text) < LOG_BYTES


def test_a_lab_outlives_its_zygote_and_gets_a_new_one(lab: NetnsRuntime) -> None:
    bring_up(lab, [UE], needs_torch=True)
    first = number(facts(lab, "ue1")["pid"])
    zygote = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(zygote, signal.SIGKILL)
    wait_for(lambda: Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[0] == "Z", "its end")
    assert [status.running for status in lab.processes()] == [True]
    bring_up(lab, [UE, NodeSpec("ue2", "ue")], needs_torch=True)
    assert [(status.node, status.running) for status in lab.processes()] == [
        ("ue1", True),
        ("ue1", True),
        ("ue2", True),
    ]


def test_another_command_finds_the_running_lab(lab: NetnsRuntime) -> None:
    bring_up(lab, [UE], needs_torch=True)
    other = runtime(lab.lab)
    assert [(status.node, status.program, status.running) for status in other.processes()] == [("ue1", PROGRAM, True)]
    other.start([process(other, "ue1", needs_torch=True)])
    assert len(lab.processes()) == 2


def test_exec_runs_inside_the_node(lab: NetnsRuntime, tmp_path: Path) -> None:
    lab.create([UE, CONTROLLER])
    out = tmp_path / "out"
    script = f"ip -o link > {out}; cat /proc/self/cgroup >> {out}; exit 7"
    assert lab.exec("ue1", ["sh", "-c", script]) == 7
    text = out.read_text()
    assert "1: lo: <LOOPBACK,UP,LOWER_UP>" in text
    assert "2:" not in [line[:2] for line in text.splitlines() if "mtu" in line]
    assert f"/testbed/{lab.lab}/ue1\n" in text
    assert lab.exec("controller", ["true"]) == 0
    assert lab.exec("ue1", ["no-such-command"]) == 127
    with pytest.raises(InputError, match="controller, ue1"):
        lab.exec("ue9", ["true"])


def test_the_cap_is_written_and_changed_in_place(lab: NetnsRuntime) -> None:
    cgroups = detect()
    if not isinstance(cgroups, CgroupsV1):
        pytest.skip("reads the files of cgroup v1; those of v2 are in tests/netem/guest_tests")
    lab.create([UE])
    group = cgroups.cpu_root / "testbed" / lab.lab / "ue1"
    assert (group / "cpu.cfs_period_us").read_text() == "10000\n"
    assert (group / "cpu.cfs_quota_us").read_text() == "2500\n"
    lab.set_cpu("ue1", 0.1)
    assert (group / "cpu.cfs_quota_us").read_text() == "1000\n"
    lab.set_cpu("ue1", 0)
    assert (group / "cpu.cfs_quota_us").read_text() == "-1\n"
    with pytest.raises(InputError, match=r"0\.05 host cores.*>= 0\.1"):
        lab.set_cpu("ue1", 0.05)


def test_memory_and_cpus_can_be_limited(lab: NetnsRuntime) -> None:
    if not isinstance(detect(), CgroupsV1):
        pytest.skip("reads the files of cgroup v1; those of v2 are in tests/netem/guest_tests")
    lab.create([NodeSpec("ue1", "ue", memory_bytes=64 << 20, cpu_list="0")])
    groups = {path.parts[4]: path for path in detect().groups(lab.lab, "ue1")}
    assert (groups["memory"] / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    bring_up(lab, [NodeSpec("ue1", "ue", memory_bytes=64 << 20, cpu_list="0")])
    assert os.sched_getaffinity(number(facts(lab, "ue1")["pid"])) == {0}


def test_a_node_that_wants_more_memory_than_it_may_have_is_killed_and_that_is_told(lab: NetnsRuntime) -> None:
    if not any(
        (tree.parent / "memory.limit_in_bytes").exists() or detect().version == "v2" for tree in detect().trees()
    ):
        pytest.skip("needs a memory controller")
    small = NodeSpec("ue1", "ue", memory_bytes=64 << 20, memory_by_default=True)
    bring_up(lab, [NodeSpec("ue2", "ue", memory_bytes=64 << 20)])
    lab.create([small])
    lab.start([process(lab, "ue1", "fill")])
    wait_for(lambda: any(one.exit_code is not None for one in lab.processes()), "the node is killed")
    ends = {one.node: one for one in lab.processes()}
    assert ends["ue1"].out_of_memory
    assert "used up its node's memory" in ends["ue1"].how_it_ended
    assert ends["ue2"].running
    assert not ends["ue2"].out_of_memory


def test_a_thread_of_another_process_is_not_made_realtime_for_a_node(lab: NetnsRuntime) -> None:
    bring_up(lab, [UE, EDGE])
    for stranger in (1, os.getpid(), number(facts(lab, "edge")["tid"])):
        with pytest.raises(TestbedError, match=f"thread {stranger} is none of ue1's"):
            lab.make_realtime("ue1", stranger, 5)


def test_up_is_idempotent(lab: NetnsRuntime) -> None:
    bring_up(lab, [UE])
    before = (discovery.list_owned(lab.lab), facts(lab, "ue1"))
    lab.create([UE])
    assert (discovery.list_owned(lab.lab), facts(lab, "ue1")) == before
