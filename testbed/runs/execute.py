"""One run: up, begin, wait, drain, stop, conclude, down. Whatever happens, what was recorded stays readable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed.checks import host_record
from testbed.control import ControllerSilentError
from testbed.errors import InputError, TestbedError
from testbed.lab import Lab, check_gpu, existing, runtime_of
from testbed.links.plumbing import link_backend
from testbed.links.wire import WireSpec
from testbed.messages import Event
from testbed.monitoring.config import MONITORING_NODES
from testbed.plan import CreateWires, RuntimeName
from testbed.prepare import Ingredients, Notify, prepare
from testbed.runs.conclude import conclude
from testbed.runs.idle_round_trips import record_round_trips
from testbed.runs.manifest import Manifest, close_manifest, describe_run, require_unused, write_manifest
from testbed.runs.summary import Summary
from testbed.runtime.lab_lock import lab_lock
from testbed.topology import Topology

#: What others are told meanwhile.
RUNNING = "running this lab"
#: After the arrivals end, what is in flight may finish; what has not by then is counted as in flight.
DRAIN_SECONDS = 10.0
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    topology: Topology
    where: str  # the lab file's name, for errors
    folder: Path  # the lab file's folder
    runtime: RuntimeName
    run_directory: Path | None
    duration_seconds: float | None  # of arrivals; None: until stopped


def bring_up(order: Order, notify: Notify) -> Lab:
    """Prepare and create the lab, and write the run's manifest.

    Raises InputError if a lab of that name exists or the run directory holds a run, HostError if the lab requires a
    GPU that its edge cannot have.
    """
    topology = order.topology
    if order.run_directory is not None:
        require_unused(order.run_directory)
    if topology.name in existing():
        raise InputError(
            "a lab of this name is up",
            where=order.where,
            value=topology.name,
            fix=f"Take it down first (testbed down {topology.name}), or give this one another name: --set name=NAME.",
        )
    check_gpu(order.runtime, topology.edge.gpu)
    ingredients = prepare(
        topology, order.where, order.folder, order.runtime, order.run_directory, order.duration_seconds, notify
    )
    runtime = runtime_of(order.runtime, topology.name, ingredients.run_id, gpu=topology.edge.gpu, notify=notify)
    lab = Lab.create(ingredients, runtime, notify)
    try:
        write_manifest(_manifest(order, ingredients, lab), ingredients.run_directory)
        record_round_trips(lab, topology, _wires(ingredients))
    except BaseException:
        lab.remove()
        raise
    return lab


def _manifest(order: Order, ingredients: Ingredients, lab: Lab) -> Manifest:
    topology = order.topology
    return describe_run(
        run_id=ingredients.run_id,
        lab=topology.normalised(),
        scenario=ingredients.scenario,
        seed=topology.seed,
        policy=topology.policy.name,
        policy_options=topology.policy.options,
        runtime=order.runtime,
        runtime_features={**lab.runtime.features, **lab.edge_device(), "realtime": lab.state.realtime},
        link_backend=_link_backend(ingredients),
        duration_seconds=order.duration_seconds,
        trace_folder=ingredients.run_directory / "traces",
        command_line=sys.argv,
        host=host_record(topology),
    )


def _link_backend(ingredients: Ingredients) -> str:
    return link_backend(_wires(ingredients))


def _wires(ingredients: Ingredients) -> tuple[WireSpec, ...]:
    return next(action.wires for action in ingredients.plan.actions if isinstance(action, CreateWires))


class View(AbstractContextManager["View"], Protocol):
    """Something that shows the run while it goes on."""

    def update(self) -> None: ...


def execute(order: Order, notify: Notify, view_of: Callable[[Lab], View]) -> Summary:
    """The whole run; the view is updated a few times a second. Ctrl-C (KeyboardInterrupt) tears the lab down.

    Raises LabBusyError while another command works on a lab of this name, and what :func:`bring_up` raises.
    """
    with lab_lock(order.topology.name, RUNNING):
        return _execute(order, notify, view_of)


def _execute(order: Order, notify: Notify, view_of: Callable[[Lab], View]) -> Summary:
    assert order.duration_seconds is not None
    lab = bring_up(order, notify)
    try:
        with view_of(lab) as view:
            lab.client.begin(order.duration_seconds, DRAIN_SECONDS)
            _wait(lab, order.duration_seconds, view)
        close_manifest(lab.run_directory)
    finally:
        notify("taking the lab down")
        try:
            lab.remove()
        finally:  # what was recorded is worth a report, whatever stays behind
            notify("writing tables and report")
            summary = conclude(lab.run_directory)
    return summary


class DeathWatch:
    """Records the death of a program during a run: a dead UE's tasks have then failed, and the run is invalid."""

    def __init__(self, lab: Lab, duration_seconds: float) -> None:
        self._lab = lab
        self._end = time.monotonic() + duration_seconds - 1.0  # before it a program has no reason to end
        self._known: set[str] = set()
        self._gone: set[str] = set()

    def look(self) -> None:
        """Called a few times a second."""
        processes = self._lab.runtime.processes()
        gone = [one for one in processes if not one.running and one.node not in MONITORING_NODES]
        # Its exit code is written a moment after it is gone; None for longer means that its parent was killed, too.
        dead = [p for p in gone if p.exit_code not in (0, None) or (p.exit_code is None and p.node in self._gone)]
        if self.early():  # an engine that goes away ends its containers in good order
            dead += [process for process in gone if process.exit_code == 0]
        self._gone = {process.node for process in gone}
        for process in dead:
            if process.node not in self._known:  # not its pid: the engine forgets those of the dead
                self._known.add(process.node)
                text = f"{process.program} (pid {process.pid}) died with exit code {process.exit_code}"
                self._lab.record(Event(time.monotonic(), process.node, "died", text))

    def early(self) -> bool:
        """Whether tasks should still be arriving."""
        return time.monotonic() < self._end


def _wait(lab: Lab, duration_seconds: float, view: View) -> None:
    """Until the controller says that it has stopped. Raises TestbedError when it dies, ends early or takes too long."""
    limit_seconds = duration_seconds + DRAIN_SECONDS + 30.0
    deadline = time.monotonic() + limit_seconds
    watch = DeathWatch(lab, duration_seconds)
    while time.monotonic() < deadline:
        watch.look()
        try:
            status = lab.client.status(timeout_seconds=2.0)
        except ControllerSilentError:
            controller = lab.process_of("controller")
            if controller is not None and not controller.running:
                if controller.exit_code == 0 and not watch.early():
                    return
                watch.look()
                raise TestbedError(
                    f"the controller ended before the run (exit code {controller.exit_code}); "
                    f"finished tasks are in {lab.run_directory}"
                ) from None
            raise
        if status.state == "stopped":
            if watch.early():
                watch.look()
                raise TestbedError(
                    f"the lab was stopped before the run's end; finished tasks are in {lab.run_directory}"
                )
            return
        view.update()
        time.sleep(POLL_SECONDS)
    raise TestbedError(f"the run did not end within {limit_seconds:g} s; finished tasks are in {lab.run_directory}")
