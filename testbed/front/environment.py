"""The lab of a lab file as a Gymnasium environment: ``gymnasium.make("testbed/SplitInference-v0", lab="lab.yaml")``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.learning.environment import SplitInferenceEnv
from testbed.front.verbs import choice_of
from testbed.lab.simulate import channel_states
from testbed.labfile.resolve import resolve


def environment_of(
    lab: Path | str,
    *,
    set: Mapping[str, Any] | None = None,
    seed: int | None = None,
    v: float | None = None,
    episode_slots: int = 200,
) -> SplitInferenceEnv:
    """The environment of a lab, its channels those of a run of ``episode_slots`` slots.

    ``v``: the trade-off in J^2/s; that of the lab's policy if it has one, else 0.3. Raises InputError.
    """
    choice = choice_of(lab, None, seed, None, set)
    topology = choice.read()
    seconds = episode_slots * topology.slot
    resolved = resolve(topology, str(choice.file), choice.folder, seconds, lambda _text: None)
    trade_off = float(topology.policy.options.get("V", 0.3)) if v is None else v
    return SplitInferenceEnv(
        resolved.scenario, channel_states(topology, resolved.traces, seconds), trade_off, episode_slots
    )
