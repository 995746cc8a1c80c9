"""``up``: a lab that serves until it is taken down. Idempotent: repairs what is missing, says what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed.errors import InputError, TestbedError
from testbed.lab.create import prewarm
from testbed.lab.lab import Lab
from testbed.lab.plan import STAGE_PRIORITY, make_plan
from testbed.lab.prepare import RunOrder
from testbed.lab.removal import remove_lab
from testbed.lab.repair import dead_programs, end, restart
from testbed.lab.run import bring_up
from testbed.lab.state import LabUnreadableError, existing
from testbed.labfile.policy import Notify
from testbed.protocol.client import ControllerSilentError
from testbed.report.fidelity.limits import DRAIN_SECONDS
from testbed.runtime.docker.presence import list_containers
from testbed.runtime.processes.discovery import processes
from testbed.runtime.processes.lab_lock import lab_lock
from testbed.wires.plumbing import repair

#: What others are told meanwhile.
BRINGING_UP = "bringing this lab up"
#: A controller on a busy host answers later than at once.
PATIENCE_SECONDS = 5.0


def serve(order: RunOrder, notify: Notify) -> tuple[Lab, str]:
    """The lab, and what was done: "up", "already up", "repaired: ...".

    Raises InputError if it is up but differs, LabBusyError while another command works on it, TestbedError if it is up
    but its controller is silent.
    """
    with lab_lock(order.topology.name, BRINGING_UP):
        return _serve(order, notify)


def _serve(order: RunOrder, notify: Notify) -> tuple[Lab, str]:
    name = order.topology.name
    if name in existing():
        lab = _standing(name)
        if lab is not None:
            _refuse_difference(lab, order)
            return lab, _repair(lab, order, notify)
        notify(f"removing what is left of an earlier lab {name!r}")
        if left := remove_lab(name).left:
            raise TestbedError(f"what is left of an earlier lab {name!r} could not be removed: {left}")
    lab = bring_up(order, notify)
    try:
        lab.client.begin(None, DRAIN_SECONDS)
    except BaseException:
        lab.remove()
        raise
    return lab, "up"


def _standing(name: str) -> Lab | None:
    """The lab if it is up; None if there is nothing worth a repair: no controller, or one that was never begun.

    Raises TestbedError if a controller lives that does not answer: whatever ails it, its lab is not ours to destroy.
    """
    unreadable: LabUnreadableError | None = None
    lab: Lab | None = None
    try:
        lab = Lab.find(name)
    except LabUnreadableError as error:
        unreadable = error
    except InputError:
        pass
    where = _controller(name, lab)
    if not where:
        return None
    if lab is None:
        raise TestbedError(
            f"lab {name!r} is up (its controller, {where}, runs), but what it was made from cannot be read; nothing "
            f"was changed. Take it down with: testbed down {name}"
        ) from unreadable
    try:
        status = lab.client.status(PATIENCE_SECONDS)
    except ControllerSilentError as error:
        raise TestbedError(
            f"lab {name!r} is up, but its controller ({where}) has not answered for {PATIENCE_SECONDS:g} s; nothing "
            f"was changed. It may be stopped, or this host too busy: try again, see testbed logs controller, or take "
            f"the lab down with testbed down {name}"
        ) from error
    # we hold the lab's lock: whoever was to begin it has ended
    return None if status.state in ("waiting", "ready") else lab


def _controller(name: str, lab: Lab | None) -> str:
    """Where the lab's controller runs; empty if it does not."""
    for pid in processes(name):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "tb-controller":
                return f"pid {pid}"
        except OSError:
            continue
    if lab is not None and (found := lab.process_of("controller")) is not None and found.running:
        return f"pid {found.pid}"
    running = list_containers(name, running=True)
    return next((f"container {one.name}" for one in running if one.name == f"tb.{name}.controller"), "")


def _refuse_difference(lab: Lab, order: RunOrder) -> None:
    wanted = order.topology.normalised()
    differences = [
        f"{key} is {was!r}, the file says {want!r}" for key, was, want in _differences(lab.state.resolved_lab, wanted)
    ]
    if order.runtime != lab.state.runtime:
        differences.append(f"runtime is {lab.state.runtime!r}, asked for is {order.runtime!r}")
    if differences:
        raise InputError(
            f"a lab of this name is up and differs: {'; '.join(differences[:5])}",
            where=order.where,
            fix=f"Take it down first (testbed down {lab.state.name}), or use another --name.",
        )


def _differences(was: Any, want: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(want, dict):
        return [
            difference
            for name in sorted({*was, *want})
            for difference in _differences(was.get(name), want.get(name), f"{key}.{name}".lstrip("."))
        ]
    if isinstance(was, list) and isinstance(want, list) and len(was) == len(want):
        return [
            difference
            for number, (left, right) in enumerate(zip(was, want, strict=True))
            for difference in _differences(left, right, f"{key}.{number}")
        ]
    return [] if was == want else [(key, was, want)]


def _repair(lab: Lab, order: RunOrder, notify: Notify) -> str:
    repaired: list[str] = []
    prewarm(lab, order.topology, order.folder)
    plan = make_plan(order.topology, order.runtime, lab.peak_states())
    lab.runtime.create(lab.state.nodes)
    repaired += [f"wire of {wire.ue}" for wire in repair(plan.wires, lab.runtime.netns_name)]
    if repaired:
        # The player knows the wires that were, and what a new one does not know it would not be told.
        end(lab, "player")
    dead = dead_programs(lab, plan)
    if dead:
        notify(f"restarting {', '.join(program.node for program in dead)}")
        restart(lab, dead, STAGE_PRIORITY)
        repaired += [program.node for program in dead]
    if lab.state.urls:
        from testbed.monitoring.bringup import repair_monitoring

        repaired += repair_monitoring(lab.runtime, lab.directory)
    return f"repaired: {', '.join(repaired)}" if repaired else "already up"
