"""Neurosurgeon (Kang et al., ASPLOS 2017): the cut with the least predicted delay at the present rate."""

from __future__ import annotations

import numpy as np

from controller.contract import Cut, Observation, Scenario
from controller.model.delay import chain_work
from controller.model.radio import rates
from controller.policies.base import BasicPolicy


class Neurosurgeon(BasicPolicy):
    """Per UE, the argmin over its single-tensor cuts of head + uplink + tail + downlink, without queueing.

    The device runs at full speed; spectrum and edge are shared evenly among all UEs, so that no UE's choice depends
    on another's. In an outage every cut but the local one takes forever.
    """

    def reset(self, scenario: Scenario, seed: int) -> None:
        super().reset(scenario, seed)
        self._work = [chain_work(scenario, index) for index in range(len(scenario.ues))]
        self._chosen: list[Cut] = [ue.profile.chain_cuts[-1] for ue in scenario.ues]
        self._predicted_seconds = [0.0 for _ in scenario.ues]

    def cuts(self, observation: Observation) -> list[Cut]:
        scenario = self.scenario
        gains = {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}
        # The shares do not depend on the cuts, so any choice of them gives the rates.
        with_any_cut = self.with_cuts(observation, self._chosen)
        present = rates(scenario, gains, with_any_cut)
        share = scenario.edge.cpus / len(scenario.ues)
        for index, ue in enumerate(scenario.ues):
            rate = present[ue.name]
            stages = self._work[index].stages(ue.max_speed, share, rate.up_bits_per_second, rate.down_bits_per_second)
            total = np.sum(list(stages.values()), axis=0)
            best = int(np.argmin(total))
            self._chosen[index] = ue.profile.chain_cuts[best]
            self._predicted_seconds[index] = float(total[best])
        return list(self._chosen)

    def state(self) -> dict[str, float]:
        names = [ue.name for ue in self.scenario.ues]
        return {f"predicted_seconds.{name}": value for name, value in zip(names, self._predicted_seconds, strict=True)}
