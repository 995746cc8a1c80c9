"""SCHED_FIFO for single threads, set from outside.

With cgroup v1 and RT_GROUP_SCHED a thread may only become SCHED_FIFO in a group that has a share of real-time run time,
the shares of sibling groups must sum to at most their parent's (0.95 at the root), and each share counts per CPU and
second. Dividing that among 50 nodes would leave each 19 ms a second, less than one inference, and a group that has used
its share up stands still until the next second. So all stage threads of all labs share one group: the cap protects the
host (at least a tenth of each core remains for everything else), and pacing, not the cap, keeps the UEs apart. The
trace player has a group of its own, so that stages that have used up their share cannot stop it.

Elsewhere (cgroup v2 without RT_GROUP_SCHED, no cgroup) the kernel's global 0.95 is the cap, unless that is off
(:func:`unlimited`).
"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from testbed.errors import HostError, TestbedError
from testbed.runtime.base import NodeSpec
from testbed.runtime.host.cgroups import TREE, Cgroups, CgroupsV1, CgroupsV2, write

#: Threads at this priority or above belong to the trace player.
PLAYER_PRIORITY = 10
PERIOD_MICROSECONDS = 1_000_000
#: Of all real-time threads, per CPU and period; -1: none.
LIMIT = Path("/proc/sys/kernel/sched_rt_runtime_us")
STAGE_MICROSECONDS = 850_000
PLAYER_MICROSECONDS = 50_000
#: With less than this per CPU and second real time would do more harm than good.
_MINIMUM_STAGE_MICROSECONDS = 200_000

# Names with a dot: no lab can have them.
_STAGES, _PLAYER, _TRIAL = ".stages", ".player", ".trial"


def make_fifo(cgroups: Cgroups, tid: int, priority: int) -> bool:
    """Make thread ``tid`` (as this process's /proc shows it) SCHED_FIFO. False where the host refuses.

    Raises TestbedError if there is no such thread.
    """
    if isinstance(cgroups, CgroupsV1) and (cgroups.cpu_root / "cpu.rt_runtime_us").exists():
        group = _group(cgroups, priority)
        if group is None:
            return False
        try:
            (group / "tasks").write_text(str(tid))
        except ProcessLookupError as error:
            raise TestbedError(f"thread {tid} does not exist") from error
        except OSError:
            return False
    try:
        os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(priority))
    except PermissionError:
        return False
    except ProcessLookupError as error:
        raise TestbedError(f"thread {tid} does not exist") from error
    return True


def unlimited() -> str:
    """What is to be said where the kernel does not limit real time (``sched_rt_runtime_us`` is -1); else empty."""
    try:
        if int(LIMIT.read_text()) >= 0:
            return ""
    except (OSError, ValueError):
        return ""
    return (
        "this kernel does not limit real-time threads (kernel.sched_rt_runtime_us is -1): a stage that never ends "
        "would take its core from everything else on this host"
    )


def available(cgroups: Cgroups) -> bool:
    """Whether :func:`make_fifo` works here, found by doing it to a thread of ours that then ends. Leaves nothing."""
    if isinstance(cgroups, CgroupsV2):
        return _available_in_a_group(cgroups)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, daemon=True)
    thread.start()
    try:
        return thread.native_id is not None and make_fifo(cgroups, thread.native_id, 1)
    finally:
        done.set()
        thread.join()
        cgroups.prune()


def _available_in_a_group(cgroups: CgroupsV2) -> bool:
    """With RT_GROUP_SCHED a group of version 2 has no real-time run time, and no file to give it some.

    Only the root group has it, where this process may well be: so a process in a group of its own tries.
    """
    (tree,) = cgroups.trees()
    with subprocess.Popen(["sleep", "10"]) as process:
        try:
            cgroups.create(_TRIAL, NodeSpec("node", "ue"))
            write(tree / _TRIAL / "node" / "cgroup.procs", process.pid)
            return make_fifo(cgroups, process.pid, 1)
        except HostError:
            return False
        finally:
            process.kill()
            process.wait()
            cgroups.remove(_TRIAL)


def _group(cgroups: CgroupsV1, priority: int) -> Path | None:
    tree = cgroups.cpu_root / TREE
    group = tree / (_PLAYER if priority >= PLAYER_PRIORITY else _STAGES)
    if _runtime_microseconds(group) > 0:
        return group
    spare = _runtime_microseconds(cgroups.cpu_root) - sum(
        _runtime_microseconds(sibling) for sibling in cgroups.cpu_root.iterdir() if sibling.is_dir() and sibling != tree
    )
    stages = min(STAGE_MICROSECONDS, spare - PLAYER_MICROSECONDS)
    if stages < _MINIMUM_STAGE_MICROSECONDS:
        return None
    try:
        for path, runtime in (
            (tree, stages + PLAYER_MICROSECONDS),
            (tree / _STAGES, stages),
            (tree / _PLAYER, PLAYER_MICROSECONDS),
        ):
            path.mkdir(parents=True, exist_ok=True)
            write(path / "cpu.rt_period_us", PERIOD_MICROSECONDS)
            write(path / "cpu.rt_runtime_us", runtime)
    except (OSError, HostError):
        return None
    return group


def _runtime_microseconds(group: Path) -> int:
    """Real-time run time per second and CPU; 0 if there is no such group."""
    try:
        runtime = int((group / "cpu.rt_runtime_us").read_text())
        period = int((group / "cpu.rt_period_us").read_text())
    except FileNotFoundError:
        return 0
    if runtime < 0:  # the root group of a kernel without a limit
        return PERIOD_MICROSECONDS
    return runtime * PERIOD_MICROSECONDS // period
