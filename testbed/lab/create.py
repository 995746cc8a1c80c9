"""Bringing a lab up: what its plan says, in order; on any error what was made is removed again."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from controller.contract import DecentralisedPolicy
from controller.policies import registry
from controller.service.protocol import Status
from testbed.errors import TestbedError
from testbed.lab.lab import Lab
from testbed.lab.lab_configs import ConfigMaker
from testbed.lab.lab_weights import shared, weights_by_ue
from testbed.lab.plan import RADIO, READY_SECONDS
from testbed.lab.prepare import Ingredients
from testbed.lab.state import LabState
from testbed.labfile.policy import Notify
from testbed.labfile.schema import Topology
from testbed.protocol.client import ControllerSilentError
from testbed.protocol.configs import write_config, write_scenario
from testbed.protocol.monitoring import MONITORING_NODES
from testbed.runtime.base import SHARED, ProcessSpec, Runtime
from testbed.runtime.host.realtime import unlimited
from testbed.runtime.processes.zygote import Call
from testbed.runtime.programs import AGENT_MODULES
from testbed.wires.plumbing import connect

if TYPE_CHECKING:
    from testbed.monitoring.bringup import Monitoring


def create(ingredients: Ingredients, runtime: Runtime, notify: Notify) -> Lab:
    """Carry out the plan. On any error (Ctrl-C included) what was made is removed again, and the error goes on."""
    topology, plan = ingredients.resolved.topology, ingredients.plan
    state = LabState(
        name=topology.name,
        run_id=ingredients.run_id,
        runtime=plan.runtime,
        policy=topology.policy.name,
        run_directory=str(ingredients.run_directory),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        resolved_lab=topology.normalised(),
        nodes=plan.nodes,
    )
    lab = Lab(state, runtime)
    try:
        _carry_out(lab, ingredients, notify)
    except BaseException:
        lab.remove()
        raise
    return lab


def _carry_out(lab: Lab, ingredients: Ingredients, notify: Notify) -> None:
    topology, plan = ingredients.resolved.topology, ingredients.plan
    notify(f"creating {len(plan.nodes)} nodes")
    prewarm(lab, topology, ingredients.resolved.folder)
    lab.runtime.create(plan.nodes)
    lab.update()
    write_scenario(ingredients.resolved.scenario, lab.directory / SHARED / "scenario.json")
    _begin_monitoring(lab, topology, notify)
    notify(f"connecting {len(plan.wires)} wires")
    connect(plan.wires, lab.runtime.netns_name, radio=RADIO)
    notify(f"starting {len(plan.programs)} programs")
    lab.runtime.start(_configure(lab, ingredients))
    notify(f"waiting until {len(plan.ready)} nodes are ready")
    _await_ready(lab, READY_SECONDS)
    _await_monitoring(lab, notify)
    if note := unlimited():
        notify(f"warning: {note}")
    for group in plan.realtime:
        lab.make_realtime(group.nodes, group.priority)


def prewarm(lab: Lab, topology: Topology, folder: Path) -> None:
    """Start loading what the agents need; ``folder``: the lab file's."""
    lab.runtime.prewarm(_agent_imports(topology), _preload(topology, folder.absolute(), lab.directory))


def _begin_monitoring(lab: Lab, topology: Topology, notify: Notify) -> None:
    """In a thread: the lab does not wait for Prometheus, nor for the registry that may have Grafana."""
    wanted = topology.monitoring
    if wanted.prometheus == wanted.grafana == "off":
        return

    def start() -> Monitoring:
        from testbed.monitoring.bringup import start_monitoring

        return start_monitoring(
            lab.runtime,
            run_id=lab.state.run_id,
            policy=lab.state.policy,
            lab_directory=lab.directory,
            run_directory=lab.run_directory,
            scenario_path=lab.directory / SHARED / "scenario.json",
            prometheus=wanted.prometheus,
            grafana=wanted.grafana,
            notify=notify,
        )

    starter = ThreadPoolExecutor(1)
    lab.monitoring = starter.submit(start)
    starter.shutdown(wait=False)


def _await_monitoring(lab: Lab, notify: Notify) -> None:
    """Raises HostError if the lab requires what this host has not."""
    if lab.monitoring is None:
        return
    monitoring = lab.monitoring.result()
    for note in monitoring.notes:
        notify(note)
    lab.update(urls=monitoring.urls)


def _configure(lab: Lab, ingredients: Ingredients) -> list[ProcessSpec]:
    maker = ConfigMaker(ingredients, lab.directory, lab.runtime.netns_name("radio"), lab.cpu_groups())
    for program in ingredients.plan.programs:
        write_config(maker.config_of(program), lab.config_path(program.node))
    return [lab.process_spec(program) for program in ingredients.plan.programs]


def _await_ready(lab: Lab, timeout_seconds: float) -> None:
    """Return when every expected node has said Hello. Raises TestbedError naming who has not, and why."""
    deadline = time.monotonic() + timeout_seconds
    status: Status | None = None
    while time.monotonic() < deadline:
        with contextlib.suppress(ControllerSilentError):
            status = lab.client.status(timeout_seconds=0.5)
            if status.state == "stopped":
                raise TestbedError(f"the controller cannot begin: {status.error}")
            if status.state != "waiting":
                return
        _raise_if_dead(lab)
        time.sleep(0.02)
    absent = "the controller" if status is None else ", ".join(sorted({*status.expected} - {*status.ready}))
    raise TestbedError(f"not ready after {timeout_seconds:g} s: {absent}.{lab.last_words(absent)}")


def _raise_if_dead(lab: Lab) -> None:
    dead = [one for one in lab.runtime.processes() if not one.running and one.node not in MONITORING_NODES]
    if dead:
        first = dead[0]
        raise TestbedError(
            f"{first.node} ({first.program}) ended{first.how_it_ended} while the lab came up."
            f"{lab.last_words(first.node)}"
        )


def _agent_imports(topology: Topology) -> tuple[str, ...]:
    """With the policy's module, where a part of the policy runs in the UEs: half a second that their first answer has
    not to wait for."""
    policy = registry.create(topology.policy.name, topology.policy.options)
    return (*AGENT_MODULES, type(policy).__module__) if isinstance(policy, DecentralisedPolicy) else AGENT_MODULES


def _preload(topology: Topology, folder: Path, lab_directory: Path) -> list[Call]:
    """Models are built once per lab, too: the agents share their weights by copy-on-write."""
    weights = {ue: shared(found, lab_directory) for ue, found in weights_by_ue(topology, folder).items()}
    wanted = {(ue.model, weights[ue.name].path, weights[ue.name].sha256) for ue in topology.expand()}
    return [
        Call("testbed.node.preload:preload", (model, topology.seed, str(folder), path, sha256))
        for model, path, sha256 in sorted(wanted)
    ]
