"""What each program of a lab is told: topology, scenario and wires -> one config per node."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from testbed.inference.weight_files import Weights
from testbed.inputs.source import Inputs
from testbed.lab.lab_weights import shared
from testbed.lab.plan import PLAYER_PRIORITY, Program
from testbed.lab.prepare import Ingredients
from testbed.labfile.channels import LinkTraceKind
from testbed.labfile.scenario import arrivals_of, profile_key, uploading_of
from testbed.labfile.schema import ExpandedUe
from testbed.protocol.configs import (
    DATA_PORT,
    UPDATES_PORT,
    Config,
    ControllerConfig,
    EdgeConfig,
    EdgeUe,
    LinkConfig,
    PlayerConfig,
    RecorderConfig,
    UeConfig,
)
from testbed.runtime.base import SHARED
from testbed.wires.wire import WireSpec

#: A decision that takes longer than this part of the slot is late: the last one stays in force.
DECIDE_DEADLINE_RATIO = 0.5


class ConfigMaker:
    """``config_of(program)`` for every program of one lab. ``profile_paths`` by :func:`profile_key`."""

    def __init__(
        self,
        ingredients: Ingredients,
        directory: Path,
        radio_namespace: str,
        cpu_groups: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._ingredients = ingredients
        self._topology = ingredients.resolved.topology
        self._directory = directory
        self._radio_namespace = radio_namespace
        self._cpu_groups = dict(cpu_groups)
        self._ues: Mapping[str, ExpandedUe] = {ue.name: ue for ue in ingredients.resolved.ues}
        self._wires: Mapping[str, WireSpec] = {wire.ue: wire for wire in ingredients.plan.wires}

    def config_of(self, program: Program) -> Config:
        match program.role:
            case "ue":
                return self._ue(program.node)
            case "edge":
                return self._edge()
            case "player":
                return self._player()
            case "controller":
                return self._controller()
            case "recorder":
                return RecorderConfig(
                    **self._base("recorder"),
                    run_directory=str(self._ingredients.run_directory),
                    ues=tuple(self._ues),
                    cpu_groups=self._cpu_groups,
                )
            case _:
                raise ValueError(f"no config is known for role {program.role!r}")

    def _base(self, node: str) -> dict[str, Any]:
        return {
            "lab": self._topology.name,
            "run_id": self._ingredients.run_id,
            "node": node,
            "lab_directory": str(self._directory),
        }

    def _profile_path(self, ue: ExpandedUe) -> str:
        return self._shared(self._ingredients.profile_paths[profile_key(ue)])

    def _shared(self, path: Path, name: str = "") -> str:
        """Path of a copy that every node sees: a container has the lab's directory, and not the run's."""
        target = self._directory / SHARED / (name or path.name)
        if not target.exists():
            shutil.copyfile(path, target)
        return str(target)

    def _weights(self, ue: ExpandedUe) -> Weights:
        return shared(self._ingredients.weights[ue.name], self._directory)

    def _inputs(self, ue: ExpandedUe) -> Inputs | None:
        """Labels stay with the command: no node has to know them."""
        inputs = self._ingredients.resolved.inputs.get(ue.name)
        if inputs is None:
            return None
        path = self._shared(Path(inputs.path), f"inputs-{inputs.sha256[:16]}.npy")
        return msgspec.structs.replace(inputs, path=path, labels_path="")

    def _ue(self, node: str) -> UeConfig:
        ue, wire = self._ues[node], self._wires[node]
        arrivals, times = arrivals_of(ue)
        return UeConfig(
            **self._base(node),
            ue_index=ue.index,
            seed=self._topology.seed,
            model=ue.model,
            profile_path=self._profile_path(ue),
            edge_endpoint=f"tcp://{wire.edge_address}:{DATA_PORT}",
            local_address=wire.ue_address,
            arrivals=arrivals,
            arrival_file_times_seconds=times,
            slot_seconds=self._topology.slot,
            input_codec=self._topology.codec.input,
            boundary_codec=self._topology.codec.boundary,
            max_speed=ue.spec.speed,
            compute_watts=ue.spec.compute_power,
            transmit_watts=ue.spec.power,
            task_timeout_seconds=self._topology.task_timeout,
            round_trip_seconds=2 * ue.spec.link.delay,
            channel_refresh=ue.spec.channel.refresh,
            updates_endpoint=f"tcp://{wire.edge_address}:{UPDATES_PORT}" if self._topology.retraining else "",
            receive_watts=ue.spec.receive_power,
            uploading=uploading_of(self._topology),
            lab_folder=str(self._ingredients.resolved.folder),
            weights=self._weights(ue),
            inputs=self._inputs(ue),
        )

    def _edge(self) -> EdgeConfig:
        retraining, uploading = self._topology.retraining, self._topology.uploading
        return EdgeConfig(
            **self._base("edge"),
            seed=self._topology.seed,
            port=DATA_PORT,
            ues=tuple(
                EdgeUe(
                    name=ue.name,
                    model=ue.model,
                    profile_path=self._profile_path(ue),
                    address=self._wires[ue.name].edge_address,
                    round_trip_seconds=2 * ue.spec.link.delay,
                    weights=self._weights(ue),
                )
                for ue in self._ues.values()
            ),
            cpus=self._topology.edge.cpus,
            gpu="off" if retraining or uploading else self._topology.edge.gpu,  # weights on a GPU cannot be swapped yet
            slot_seconds=self._topology.slot,
            retraining_interval_seconds=retraining.interval if retraining else 0.0,
            retraining_perturbation=retraining.perturbation if retraining else 0.0,
            version_hold_seconds=self._topology.task_timeout,
            uploading=uploading_of(self._topology),
            task_timeout_seconds=self._topology.task_timeout,
            lab_folder=str(self._ingredients.resolved.folder),
        )

    def _player(self) -> PlayerConfig:
        return PlayerConfig(
            **self._base("player"),
            radio_namespace=self._radio_namespace,
            scenario_path=self._scenario_path(),
            links=tuple(
                LinkConfig(
                    ue=ue.name,
                    up_port=self._wires[ue.name].up_port,
                    down_port=self._wires[ue.name].down_port,
                    trace_path=str(self._ingredients.trace_paths[ue.name]),
                    at_end=ue.spec.channel.at_end,
                    outage=ue.spec.link.outage,
                    outage_floor_bits_per_second=ue.spec.link.floor,
                    impairment_up=self._wires[ue.name].up,
                    impairment_down=self._wires[ue.name].down,
                    delay_trace_path=self._link_trace_path("delay", ue),
                    loss_trace_path=self._link_trace_path("loss", ue),
                )
                for ue in self._ues.values()
            ),
            realtime_priority=PLAYER_PRIORITY,
            seed=self._topology.seed,
        )

    def _link_trace_path(self, kind: LinkTraceKind, ue: ExpandedUe) -> str:
        path = self._ingredients.link_trace_paths[kind].get(ue.name)
        return "" if path is None else str(path)

    def _controller(self) -> ControllerConfig:
        policy = self._topology.policy
        return ControllerConfig(
            **self._base("controller"),
            scenario_path=self._scenario_path(),
            policy=policy.name,
            policy_options_json=json.dumps(
                {
                    key: self._shared(Path(value)) if isinstance(value, str) and Path(value).is_file() else value
                    for key, value in policy.options.items()
                }
            ),
            seed=self._topology.seed,
            expected=self._ingredients.plan.ready,
            decide_deadline_seconds=DECIDE_DEADLINE_RATIO * self._topology.slot,
        )

    def _scenario_path(self) -> str:
        return str(self._directory / SHARED / "scenario.json")
