"""Policies that do not look at the channel: the ends of the scale, one fixed cut, and chance."""

from __future__ import annotations

from collections.abc import Mapping

from controller.contract import (
    ALL_ON_DEVICE,
    ALL_ON_EDGE,
    Cut,
    Observation,
    Scenario,
    UeScenario,
    cut_from_label,
    cut_label,
)
from controller.model.cuts import check_cut
from controller.policies.base import BasicPolicy
from controller.seeds import Purpose, generator


class DeviceOnly(BasicPolicy):
    """Every task on its device."""

    def cuts(self, observation: Observation) -> list[Cut]:
        return [ALL_ON_DEVICE for _ in self.scenario.ues]


class EdgeOnly(BasicPolicy):
    """Every task's raw input to the edge."""

    def cuts(self, observation: Observation) -> list[Cut]:
        return [ALL_ON_EDGE for _ in self.scenario.ues]


class Fixed(BasicPolicy):
    """One cut for the whole run.

    Options
    -------
    cut : a label (``local``, ``input``, the name of a graph value, or several joined by ``+``), or a mapping from each
        UE's name to a label.
    speed : of the devices, in reference cores; None: each UE's maximum.
    """

    def __init__(self, cut: str | Mapping[str, str] = "local", speed: float | None = None) -> None:
        if speed is not None and not speed > 0:
            raise ValueError(f"speed must be above 0 reference cores, got {speed!r}")
        self._labels = cut
        self._speed = speed

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Raises ValueError for a UE without a label and for a cut that its model does not have."""
        super().reset(scenario, seed)
        self._cuts = [find_cut(ue, self._label(ue)) for ue in scenario.ues]

    def _label(self, ue: UeScenario) -> str:
        if isinstance(self._labels, str):
            return self._labels
        if ue.name not in self._labels:
            raise ValueError(f"policy fixed: option cut names no cut for {ue.name}; it has {', '.join(self._labels)}")
        return self._labels[ue.name]

    def cuts(self, observation: Observation) -> list[Cut]:
        return list(self._cuts)

    def speed(self, ue: UeScenario) -> float:
        return ue.max_speed if self._speed is None else min(self._speed, ue.max_speed)


class Random(BasicPolicy):
    """A single-tensor cut drawn evenly, per slot and UE: the same seed and slot draw the same cut."""

    def cuts(self, observation: Observation) -> list[Cut]:
        drawn = []
        for index, ue in enumerate(self.scenario.ues):
            rng = generator(self.seed, Purpose.POLICY, observation.slot, index)
            drawn.append(ue.profile.chain_cuts[int(rng.integers(len(ue.profile.chain_cuts)))])
        return drawn


def find_cut(ue: UeScenario, label: str) -> Cut:
    """The cut with this label. Raises ValueError that lists the single-tensor cuts of the UE's model."""
    cut = cut_from_label(label)
    if cut in ue.profile.chain_cuts:
        return cut
    try:
        check_cut(ue.profile.nodes, cut)
    except ValueError as error:
        choices = ", ".join(cut_label(known) for known in ue.profile.chain_cuts)
        raise ValueError(
            f"policy fixed: cut {label!r} of {ue.name} is refused ({error}); single-tensor cuts: {choices}"
        ) from error
    return cut
