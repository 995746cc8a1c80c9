"""One run: up, begin, wait, drain, stop, conclude, down. Whatever happens, what was recorded stays readable."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from controller.service.protocol import TaskTotals
from testbed.errors import InputError, TestbedError
from testbed.lab.checks import host_record
from testbed.lab.create import create
from testbed.lab.expected import expected_tasks
from testbed.lab.idle_round_trips import record_round_trips
from testbed.lab.lab import Lab
from testbed.lab.prepare import Ingredients, RunOrder, keep_labels, prepare
from testbed.lab.runtimes import check_gpu, runtime_of
from testbed.lab.state import existing
from testbed.labfile.policy import Notify
from testbed.protocol.client import ControllerSilentError
from testbed.protocol.monitoring import MONITORING_NODES
from testbed.records.manifest import Manifest, close_manifest, describe_run, note_end, require_unused, write_manifest
from testbed.report.fidelity.limits import DRAIN_SECONDS
from testbed.runtime.base import ProcessStatus
from testbed.runtime.processes.lab_lock import lab_lock
from testbed.wires.plumbing import link_backend

if TYPE_CHECKING:
    from testbed.report.summary import Summary

#: What others are told meanwhile.
RUNNING = "running this lab"
POLL_SECONDS = 0.25
#: A host that is busy for a moment must not cost a run of hours.
SILENT_SECONDS = 15.0


def bring_up(order: RunOrder, notify: Notify) -> Lab:
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
    ingredients = prepare(order, notify)
    runtime = runtime_of(order.runtime, topology.name, ingredients.run_id, gpu=topology.edge.gpu, notify=notify)
    lab = create(ingredients, runtime, notify)
    try:
        write_manifest(_manifest(order, ingredients, lab), ingredients.run_directory)
        record_round_trips(lab, ingredients.resolved.ues, ingredients.plan.wires)
    except BaseException:
        lab.remove()
        raise
    return lab


def _manifest(order: RunOrder, ingredients: Ingredients, lab: Lab) -> Manifest:
    topology = order.topology
    return describe_run(
        run_id=ingredients.run_id,
        lab=topology.normalised(),
        scenario=ingredients.resolved.scenario,
        seed=topology.seed,
        policy=topology.policy.name,
        policy_options=topology.policy.options,
        runtime=order.runtime,
        runtime_features={**lab.runtime.features, **lab.edge_device(), "realtime": lab.state.realtime},
        link_backend=link_backend(ingredients.plan.wires),
        duration_seconds=order.duration_seconds,
        trace_folder=ingredients.run_directory / "traces",
        command_line=sys.argv,
        host=host_record(topology),
        weights_sha256={ue: weights.sha256 for ue, weights in ingredients.weights.items()},
        inputs=keep_labels(ingredients.resolved.inputs, ingredients.run_directory),
        expected_tasks={} if order.duration_seconds is None else expected_tasks(topology, order.duration_seconds),
    )


class View(AbstractContextManager["View"], Protocol):
    """Something that shows the run while it goes on."""

    def update(self) -> None: ...


def execute(order: RunOrder, notify: Notify, view_of: Callable[[Lab], View]) -> Summary:
    """The whole run; the view is updated a few times a second. Ctrl-C (KeyboardInterrupt) tears the lab down.

    Raises LabBusyError while another command works on a lab of this name, and what :func:`bring_up` raises.
    """
    with lab_lock(order.topology.name, RUNNING):
        return _execute(order, notify, view_of)


def _execute(order: RunOrder, notify: Notify, view_of: Callable[[Lab], View]) -> Summary:
    assert order.duration_seconds is not None
    lab = bring_up(order, notify)
    try:
        with view_of(lab) as view:
            lab.client.begin(order.duration_seconds, DRAIN_SECONDS)
            totals = _wait(lab, order.duration_seconds, view)
        close_manifest(lab.run_directory, totals)
    finally:
        notify("taking the lab down")
        try:
            _remove(lab)
        finally:  # what was recorded is worth a report, whatever stays behind
            notify("writing tables and report")
            summary = _conclude(lab.run_directory)
    return summary


def _remove(lab: Lab) -> None:
    """Take the lab down. Raises TestbedError for what stays behind, after what went before."""
    before = sys.exception()
    try:
        lab.remove()
    except TestbedError as error:
        text = (
            f"Not all of the lab could be removed ({error}): once that is mended, testbed down {lab.state.name}. What "
            f"was recorded is in {lab.run_directory}"
        )
        raise _after(before, text) from error


def _conclude(run_directory: Path) -> Summary:
    """Tables, fidelity, summary and report. Raises TestbedError when they cannot be written, after what went before."""
    from testbed.report.conclude import conclude  # a second of imports that `up` does without

    before = sys.exception()
    try:
        return conclude(run_directory)
    except OSError as error:
        text = (
            f"Tables and report cannot be written ({error.filename or run_directory}: {error.strerror}); what was "
            f"recorded is safe: once there is room, make them with `testbed report {run_directory}`"
        )
        raise _after(before, text) from error


def _after(before: BaseException | None, text: str) -> TestbedError:
    """What went wrong while a run ended; why it ended is told first."""
    return TestbedError(f"{before}. {text}" if isinstance(before, TestbedError) else text)


class DeathWatch:
    """Notices the death of a program during a run, and says it in the manifest: who has died can record nothing.

    It ends the run: without a UE the others have its part of spectrum and edge, and nothing that comes after is of the
    lab that was asked for.
    """

    def __init__(self, lab: Lab, duration_seconds: float) -> None:
        self._lab = lab
        self._start = time.monotonic()
        self._end = self._start + duration_seconds - 1.0  # before it a program has no reason to end
        self._gone: set[str] = set()
        self._pids: dict[str, int] = {}  # of the programs with which the run began

    def look(self) -> None:
        """Called a few times a second. Raises TestbedError for programs that have ended."""
        processes = self._lab.runtime.processes()
        gone = [one for one in processes if not one.running and one.node not in MONITORING_NODES]
        # Its exit code is written a moment after it is gone; None for longer means that its parent was killed, too.
        dead = [p for p in gone if p.exit_code not in (0, None) or (p.exit_code is None and p.node in self._gone)]
        if self.early():  # an engine that goes away ends its containers in good order
            dead += [process for process in gone if process.exit_code == 0]
        self._gone = {process.node for process in gone}
        # A container that somebody restarts lives, but is not the one that had the wire and the tasks.
        dead += [p for p in processes if p.running and self._pids.setdefault(p.node, p.pid) != p.pid]
        ended = {process.node: self._note(process) for process in dead}
        if ended:
            (node, text), *others = ended.items()
            also = f" So did {', '.join(other for other, _ in others)}." if others else ""
            directory = self._lab.run_directory
            raise TestbedError(
                f"{node} ended before the run: {text}.{self._lab.last_words(node)}{also} "
                f"What was recorded is in {directory}; `testbed report {directory}` shows it"
            )

    def _note(self, process: ProcessStatus) -> str:
        """How it ended, in the manifest, too."""
        after = time.monotonic() - self._start
        pid = self._pids.get(process.node, process.pid)  # the engine forgets those of the dead
        text = f"{process.program} (pid {pid}) died{process.how_it_ended} {after:.0f} s into the run"
        with contextlib.suppress(OSError):  # a full disk: then the run never has an end, and is invalid
            note_end(self._lab.run_directory, process.node, text)
        return text

    def early(self) -> bool:
        """Whether tasks should still be arriving."""
        return time.monotonic() < self._end


def _wait(lab: Lab, duration_seconds: float, view: View) -> dict[str, TaskTotals]:
    """Until the controller says that it has stopped; returns what UEs told it of their tasks.

    Raises TestbedError when a needed program dies, the lab is stopped early, or it takes too long.
    """
    limit_seconds = duration_seconds + DRAIN_SECONDS + 30.0
    deadline = time.monotonic() + limit_seconds
    watch = DeathWatch(lab, duration_seconds)
    heard = time.monotonic()
    while time.monotonic() < deadline:
        watch.look()
        try:
            status = lab.client.status(timeout_seconds=2.0)
        except ControllerSilentError:
            controller = lab.process_of("controller")
            if controller is not None and not controller.running:
                if controller.exit_code == 0 and not watch.early():
                    return {}
                watch.look()
                raise TestbedError(
                    f"the controller ended before the run (exit code {controller.exit_code}); "
                    f"finished tasks are in {lab.run_directory}"
                ) from None
            if time.monotonic() < heard + SILENT_SECONDS:
                continue
            raise TestbedError(
                f"the controller has not answered for {SILENT_SECONDS:g} s: it may be stopped, or this host too busy; "
                f"finished tasks are in {lab.run_directory}, and its log is in {lab.run_directory / 'logs'}"
            ) from None
        heard = time.monotonic()
        if status.state == "stopped":
            if watch.early():
                watch.look()
                raise TestbedError(
                    f"the lab was stopped before the run's end; finished tasks are in {lab.run_directory}"
                )
            return status.totals
        view.update()
        time.sleep(POLL_SECONDS)
    raise TestbedError(f"the run did not end within {limit_seconds:g} s; finished tasks are in {lab.run_directory}")
