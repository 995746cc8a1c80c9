"""What each process of a lab is told: one JSON file per process in ``LAB_DIR/config/NODE.json``.

Written by ``testbed.lab``, read by ``testbed.programs``. Paths are absolute and valid inside the node: what several
nodes read is in ``LAB_DIR/shared``, which the docker runtime mounts into each container at the same path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from controller.contract import Arrivals, Codec, Scenario, Uploading
from testbed.errors import TestbedError, first_line
from testbed.folders import write_whole
from testbed.inference.weight_files import RANDOM_WEIGHTS, Weights
from testbed.inputs.source import Inputs
from testbed.wires.impairment import UNIMPAIRED, Impairment

DATA_PORT = 5555
#: Model versions move on a connection of their own.
UPDATES_PORT = DATA_PORT + 1


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base: who and where."""

    lab: str
    run_id: str
    node: str
    lab_directory: str  # the sockets of each node live in its ipc/NODE


class UeConfig(Config, frozen=True):
    ue_index: int
    seed: int  # the lab's root seed
    model: str  # "torchvision:NAME" or "package.module:factory"
    profile_path: str  # ModelProfile JSON
    edge_endpoint: str  # tcp://ADDRESS:PORT of this UE's wire
    local_address: str  # this UE's address on the wire
    arrivals: Arrivals
    arrival_file_times_seconds: tuple[float, ...]
    slot_seconds: float
    input_codec: Codec
    boundary_codec: Codec
    max_speed: float
    compute_watts: float
    transmit_watts: float
    task_timeout_seconds: float
    round_trip_seconds: float  # configured delay of the wire, both ways; sizes the credit window
    channel_refresh: Literal["time", "per_task_stage"] = "time"
    updates_endpoint: str = ""  # where new model versions come from; empty: the first one stays
    receive_watts: float = 0.0
    uploading: Uploading | None = None  # the edge starts without models
    lab_folder: str = ""  # the lab file's: where a user's factory runs; empty: the working directory
    weights: Weights = RANDOM_WEIGHTS
    inputs: Inputs | None = None  # None: random images


class EdgeUe(msgspec.Struct, frozen=True):
    name: str
    model: str
    profile_path: str
    address: str  # the edge's address on this UE's wire
    round_trip_seconds: float = 0.0  # configured delay of the wire, both ways
    weights: Weights = RANDOM_WEIGHTS


class EdgeConfig(Config, frozen=True):
    seed: int
    port: int
    ues: tuple[EdgeUe, ...]
    cpus: float
    gpu: Literal["auto", "required", "off"]
    slot_seconds: float
    retraining_interval_seconds: float = 0.0  # 0: the first weights stay
    retraining_perturbation: float = 0.0
    version_hold_seconds: float = 60.0  # after the last UE left it: a task of it may be on its way
    uploading: Uploading | None = None
    task_timeout_seconds: float = 60.0
    lab_folder: str = ""  # as a UE's


class LinkConfig(msgspec.Struct, frozen=True):
    """One wire as the player sees it."""

    ue: str
    up_port: str  # interface in the radio namespace whose egress carries the uplink (towards the edge): eN
    down_port: str  # ... the downlink (towards the UE): uN
    trace_path: str  # CSV: time_seconds,up,down (gain or bit/s, see Scenario.channel_kind)
    at_end: Literal["loop", "hold", "clear"]
    outage: Literal["hold", "loss"]
    outage_floor_bits_per_second: float
    impairment_up: Impairment = UNIMPAIRED
    impairment_down: Impairment = UNIMPAIRED
    delay_trace_path: str = ""  # seconds; empty: the delay stays as it is
    loss_trace_path: str = ""  # ratios


class PlayerConfig(Config, frozen=True):
    radio_namespace: str  # name under /run/netns
    scenario_path: str
    links: tuple[LinkConfig, ...]
    realtime_priority: int  # 0: ordinary scheduling
    seed: int = 0  # of channels that are drawn per task and stage


class ControllerConfig(Config, frozen=True):
    scenario_path: str  # controller.contract.Scenario as JSON
    policy: str
    policy_options_json: str
    seed: int
    expected: tuple[str, ...]  # nodes that must say Hello
    decide_deadline_seconds: float


class RecorderConfig(Config, frozen=True):
    run_directory: str
    ues: tuple[str, ...] = ()  # who records, beside the programs that every lab has
    cpu_groups: dict[str, str] = {}  # by node: its directory in the CPU controller


AnyConfig = TypeVar("AnyConfig", bound=Config)


def write_config(config: Config, path: Path) -> None:
    """Whole at any moment: a program may be reading the one before."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(config), indent=1))


def read_config(path: Path, kind: type[AnyConfig]) -> AnyConfig:
    """Raises TestbedError for a file that was torn, FileNotFoundError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TestbedError(
            f"{path} cannot be read ({first_line(error)}), as after a full disk: take the lab down, and up again"
        ) from error


def write_scenario(scenario: Scenario, path: Path) -> None:
    """JSON with ``Infinity`` for "no budget": the standard library's, since msgspec's has no infinity."""
    path.write_text(json.dumps(msgspec.to_builtins(scenario), indent=1), encoding="utf-8")


#: What scenarios had that nothing read: files of labs that an older testbed brought up still have it.
_REMOVED = (("edge", "price"), ("radio", "gain_floor"))


def read_scenario(path: Path) -> Scenario:
    """Inverse of :func:`write_scenario`. Raises TestbedError for a file that is none, FileNotFoundError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for part, key in _REMOVED:
            if isinstance(content, dict) and isinstance(content.get(part), dict):
                content[part].pop(key, None)
        return msgspec.convert(content, Scenario)
    except (json.JSONDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise TestbedError(
            f"{path} cannot be read ({first_line(error)}), as after a full disk or an update of the testbed: take the"
            " lab down, and up again"
        ) from error
