"""What simple policies share: equal shares for all UEs, full speed, and a cut per UE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controller.contract import (
    Cut,
    Decision,
    Observation,
    Scenario,
    SlotOutcome,
    UeDecision,
    UeScenario,
)
from controller.model.radio import sharers_of


class BasicPolicy:
    """A policy that decides nothing but cuts. Subclass it and override :meth:`cuts`.

    Every UE gets the same part of its access point's spectrum and of the edge, whatever its cut, and runs at full
    speed.
    """

    def reset(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed

    def cuts(self, observation: Observation) -> list[Cut]:
        """One cut per UE, in the scenario's order."""
        raise NotImplementedError

    def speed(self, ue: UeScenario) -> float:
        """Device speed of a UE, in reference cores."""
        return ue.max_speed

    def decide(self, observation: Observation) -> Decision:
        return self.with_cuts(observation, self.cuts(observation))

    def with_cuts(self, observation: Observation, cuts: Sequence[Cut]) -> Decision:
        """The decision with these cuts, equal shares and full speed."""
        radio, count = self.scenario.radio, len(self.scenario.ues)
        sharers = sharers_of(self.scenario).tolist()
        return Decision(
            sequence=observation.slot,
            slot=observation.slot,
            valid_from_seconds=observation.monotonic_seconds,
            ues=tuple(
                UeDecision(
                    name=ue.name,
                    cut=cut,
                    device_speed=self.speed(ue),
                    spectrum_up_hz=radio.uplink_hz / among,
                    spectrum_down_hz=radio.downlink_hz / among,
                    edge_share=self.scenario.edge.cpus / count,
                )
                for ue, cut, among in zip(self.scenario.ues, cuts, sharers, strict=True)
            ),
        )

    def feedback(self, outcome: SlotOutcome) -> None:
        """Nothing is learnt from what a slot brought."""

    def state(self) -> dict[str, float]:
        return {}

    def checkpoint_info(self) -> dict[str, Any]:
        return {}
