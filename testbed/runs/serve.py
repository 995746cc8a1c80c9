"""``up``: a lab that serves until it is taken down. Idempotent: repairs what is missing, says what differs."""

from __future__ import annotations

import contextlib
from typing import Any

from testbed.control import ControllerSilentError
from testbed.errors import InputError
from testbed.lab import Lab, existing, remove_labs
from testbed.links.plumbing import repair
from testbed.plan import STAGE_PRIORITY, CreateWires, make_plan
from testbed.prepare import Notify
from testbed.runs.execute import DRAIN_SECONDS, Order, bring_up


def serve(order: Order, notify: Notify) -> tuple[Lab, str]:
    """The lab, and what was done: "up", "already up", "repaired: ...". Raises InputError if it is up but differs."""
    name = order.topology.name
    if name in existing():
        lab = _standing(name)
        if lab is not None:
            _refuse_difference(lab, order)
            return lab, _repair(lab, order, notify)
        notify(f"removing what is left of an earlier lab {name!r}")
        for _ in remove_labs([name]):
            pass
    lab = bring_up(order, notify)
    lab.client.begin(None, DRAIN_SECONDS)
    return lab, "up"


def _standing(name: str) -> Lab | None:
    """The lab if its controller answers: without one there is nothing to repair."""
    with contextlib.suppress(InputError, ControllerSilentError):
        lab = Lab.find(name)
        lab.client.status()
        return lab
    return None


def _refuse_difference(lab: Lab, order: Order) -> None:
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


def _repair(lab: Lab, order: Order, notify: Notify) -> str:
    repaired: list[str] = []
    plan = make_plan(order.topology, order.runtime, lab.peak_states())
    lab.runtime.create(lab.state.nodes)
    wires = next(action.wires for action in plan.actions if isinstance(action, CreateWires))
    repaired += [f"wire of {wire.ue}" for wire in repair(wires, lab.runtime.netns_name)]
    dead = lab.dead_programs(plan)
    if dead:
        notify(f"restarting {', '.join(program.node for program in dead)}")
        lab.restart(dead, STAGE_PRIORITY)
        repaired += [program.node for program in dead]
    if lab.state.urls:
        from testbed.monitoring.bringup import repair_monitoring

        repaired += repair_monitoring(lab.runtime, lab.directory)
    return f"repaired: {', '.join(repaired)}" if repaired else "already up"
