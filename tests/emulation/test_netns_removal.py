"""What is ours is found and removed; what is not is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.errors import InputError, TestbedError
from testbed.runtime.base import NodeSpec
from testbed.runtime.host import namespaces
from testbed.runtime.host.cgroups import detect
from testbed.runtime.netns.netns_runtime import NetnsRuntime
from testbed.runtime.processes import discovery
from tests.emulation.netns_lab import bring_up, facts, number, of_this_process, runtime, wait_for

pytestmark = pytest.mark.root

NODES = [NodeSpec("ue1", "ue", quota_host_cores=0.2), NodeSpec("controller", "controller", network=False)]


@pytest.fixture
def labs() -> Iterator[tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime]]:
    """Three labs whose names start alike."""
    name = of_this_process("netnsrt")
    made = runtime(name), runtime(f"{name}-a"), runtime(f"{name}-a-b")
    for lab in made:
        lab.remove()
    yield made
    for lab in made:
        lab.remove()


def kinds(lab: str) -> list[str]:
    return sorted({owned.kind for owned in discovery.list_owned(lab)})


def test_labs_with_a_common_prefix_stand_side_by_side(labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime]) -> None:
    for lab in labs:
        bring_up(lab, NODES)
    short, middle, long = labs
    before = discovery.list_owned(short.lab), discovery.list_owned(long.lab)
    assert {owned.lab for owned in discovery.list_owned()} >= {lab.lab for lab in labs}
    middle.remove()
    assert discovery.list_owned(middle.lab) == []
    assert (discovery.list_owned(short.lab), discovery.list_owned(long.lab)) == before
    assert all(status.running for lab in (short, long) for status in lab.processes())


def test_removal_twice_and_of_nothing(labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime]) -> None:
    lab = labs[0]
    bring_up(lab, NODES)
    assert kinds(lab.lab) == (["cgroup"] if detect().trees() else []) + ["directory", "namespace", "process"]
    lab.remove()
    lab.remove()
    runtime("netnsrt-never").remove()
    assert discovery.list_owned(lab.lab) == []


def test_foreign_namespaces_and_processes_stay(
    labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime], tmp_path: Path
) -> None:
    lab = labs[1]
    foreign = [f"{lab.lab}-foreign", f"xtb.{lab.lab}.ue1", f"tb.{lab.lab}x.ue1", f"tb-{lab.lab}"]
    bystander = subprocess.Popen(
        ["sleep", "60"], env={**os.environ, "TESTBED_LAB": f"{lab.lab}x", "OTHER": f"TESTBED_LAB={lab.lab}"}
    )
    try:
        for name in foreign:
            subprocess.run(["ip", "netns", "add", name], check=True)
        bring_up(lab, NODES)
        lab.remove()
        assert bystander.poll() is None
        assert set(namespaces.names("")) >= set(foreign)
        for name in foreign:
            assert namespaces.exists(name)
    finally:
        bystander.kill()
        bystander.wait()
        for name in foreign:
            subprocess.run(["ip", "netns", "del", name], check=True)


def test_after_the_command_line_was_killed(
    labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime],
) -> None:
    lab = labs[0]
    script = (
        "import time\n"
        "from tests.emulation.netns_lab import bring_up, runtime\n"
        "from testbed.runtime.base import NodeSpec\n"
        f"lab = runtime({lab.lab!r})\n"
        "lab.prewarm()\n"
        "bring_up(lab, [NodeSpec('ue1', 'ue', quota_host_cores=0.2)], needs_torch=True)\n"
        "print('serving', flush=True)\n"
        "time.sleep(3600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert command.stdout is not None
    with command:
        assert command.stdout.readline() == "serving\n"
        command.kill()
    # the lab goes on without it, until it is told to go
    assert [(status.node, status.running) for status in lab.processes()] == [("ue1", True)]
    lab.remove()
    assert discovery.list_owned(lab.lab) == []


def test_after_programs_and_records_were_lost(labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime]) -> None:
    lab = labs[0]
    bring_up(lab, NODES)
    os.kill(number(facts(lab, "ue1")["pid"]), signal.SIGKILL)
    controller = number(facts(lab, "controller")["pid"])
    wait_for(lambda: any(status.exit_code is not None for status in lab.processes()), "the end is recorded")
    subprocess.run(["rm", "-r", str(lab.lab_directory)], check=True)
    runtime(lab.lab).remove()
    assert discovery.list_owned(lab.lab) == []
    wait_for(lambda: not Path(f"/proc/{controller}").exists(), "the controller has gone")


def test_a_shell_opened_by_exec_goes_with_its_lab(
    labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime], tmp_path: Path
) -> None:
    lab, note = labs[0], tmp_path / "pid"
    lab.create(NODES)
    assert lab.exec("ue1", ["sh", "-c", f"sleep 3600 & echo $! > {note}"]) == 0
    sleeper = int(note.read_text())
    assert sleeper in discovery.processes(lab.lab)
    lab.remove()
    wait_for(lambda: sleeper not in discovery.processes(), "the shell's child has gone")


def test_a_process_without_the_marker_goes_with_its_lab(labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime]) -> None:
    lab, other, _ = labs
    for one in (lab, other):
        one.create(NODES)
    sleepers: dict[str, int] = {}
    for one in (lab, other):
        note = Path(f"/tmp/netnsrt-{os.getpid()}")
        assert one.exec("ue1", ["env", "-i", "/bin/sh", "-c", f"sleep 3600 & echo $! > {note}"]) == 0
        sleepers[one.lab] = int(note.read_text())
        note.unlink()
    assert sleepers[lab.lab] not in discovery.processes()
    try:
        runtime(lab.lab).remove()
        assert discovery.list_owned(lab.lab) == []
        wait_for(lambda: not Path(f"/proc/{sleepers[lab.lab]}").exists(), "it has gone")
        assert Path(f"/proc/{sleepers[other.lab]}").exists()
    finally:
        other.remove()


def test_a_name_for_the_hosts_namespace_makes_nobody_a_stray(
    labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime],
) -> None:
    lab = labs[0]
    lab.create(NODES)
    name = f"tb.{lab.lab}.ue2"
    subprocess.run(["ip", "netns", "attach", name, str(os.getpid())], check=True)
    assert discovery.strays(lab.lab) == set()
    lab.remove()
    assert not namespaces.exists(name)


def test_what_cannot_be_removed_keeps_nothing_else_and_is_told(
    labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = labs[0]
    bring_up(lab, NODES)

    def refuse(name: str) -> None:
        raise OSError(f"umount {name}: busy")

    with monkeypatch.context() as patch:
        patch.setattr(namespaces, "delete", refuse)
        with pytest.raises(TestbedError, match=rf"umount tb\.{lab.lab}\.ue1: busy"):
            discovery.remove(lab.lab)
    assert kinds(lab.lab) == ["namespace"]


def test_left_over_names_of_a_reboot_are_removed(labs: tuple[NetnsRuntime, NetnsRuntime, NetnsRuntime]) -> None:
    lab = labs[0]
    namespaces.create([])
    left = namespaces.NETNS_DIRECTORY / f"tb.{lab.lab}.ue1"
    lab.create(NODES)
    namespaces.delete(left.name)
    left.touch()
    assert not namespaces.exists(left.name)
    lab.create(NODES)
    assert namespaces.exists(left.name)
    namespaces.delete(left.name)
    left.touch()
    lab.remove()
    assert not left.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.b", "../x", "A", "a\n"])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        discovery.remove(name)
