"""Labs whose edge starts without a model, for tests: a small network with heavy parameters at its end."""

from __future__ import annotations

from typing import Literal

import msgspec

from controller.contract import Scenario, Uploading
from controller.policies.examples import example_scenario


def uploading_lab(
    ues: int = 2, cache: Literal["keep", "per_query"] = "per_query", rate: float = 0.05, **fields: object
) -> Scenario:
    """Slow devices of one model that rarely have two tasks at a time. ``fields`` replace those of every UE."""
    scenario = example_scenario(ues, slot_seconds=1.0)
    arrivals = msgspec.structs.replace(scenario.ues[0].arrivals, process="periodic", rates_per_second=(rate,))
    changes = {
        "boundary_codec": "fp32", "arrivals": arrivals, "max_speed": 0.01, "mean_gain": 1e-9, "fading": "static",
        "uplink_delay_seconds": 0.003, "downlink_delay_seconds": 0.002, **fields,
    }  # fmt: skip
    return msgspec.structs.replace(
        scenario,
        uploading=Uploading(cache=cache, memory_bytes=100_000_000),
        ues=tuple(msgspec.structs.replace(ue, **changes) for ue in scenario.ues),  # type: ignore[arg-type]
    )
