"""Neurosurgeon with a codec: the cut and the code of its tensor with the least predicted delay, of those that keep the
answers."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from controller.contract import Codec, Cut, Decision, Observation, Scenario
from controller.model.delay import ChainWork, chain_work, cut_codec
from controller.model.radio import rates
from controller.policies.base import BasicPolicy


@dataclass(frozen=True)
class _Option:
    """One codec of a UE, and at which of its single-tensor cuts the answers are kept."""

    codec: Codec
    work: ChainWork
    allowed: np.ndarray[tuple[int], np.dtype[np.bool_]]


class NeurosurgeonCodec(BasicPolicy):
    """Per UE, the cut and the codec with the least predicted delay, of those that keep enough of the answers.

    The argmin over single-tensor cuts and the lab's ``codec.choices`` of head + uplink + tail + downlink; full speed,
    even shares and no queueing, as ``neurosurgeon``. A codec whose agreement nobody measured is not taken; fp32 loses
    nothing.

    Options
    -------
    accuracy : least share of the answers that stay those of the unsplit fp32 model, by the profile's ``agreement``.
    """

    def __init__(self, accuracy: float = 0.95) -> None:
        if not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy must be a ratio from 0 to 1, got {accuracy!r}")
        self._accuracy = accuracy

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Raises ValueError for a lab whose edge starts without models: what goes up there travels as it is."""
        super().reset(scenario, seed)
        if scenario.uploading is not None:
            raise ValueError("neurosurgeon-codec needs an edge that has its models, not a lab with 'uploading'")
        self._options = [self._options_of(index) for index in range(len(scenario.ues))]
        self._predicted_seconds = [0.0 for _ in scenario.ues]

    def _options_of(self, index: int) -> list[_Option]:
        ue = self.scenario.ues[index]
        profile, found = ue.profile, []
        for codec in ue.boundary_codecs:
            known = [profile.agreement_of(cut, cut_codec(ue, cut, codec)) for cut in profile.chain_cuts]
            allowed = np.array([ratio is not None and ratio >= self._accuracy for ratio in known])
            found.append(_Option(codec, chain_work(self.scenario, index, codec), allowed))
        return found

    def decide(self, observation: Observation) -> Decision:
        scenario = self.scenario
        gains = {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}
        # the shares depend on neither cuts nor codecs, so any cut gives the rates
        local: list[Cut] = [ue.profile.chain_cuts[-1] for ue in scenario.ues]
        present = rates(scenario, gains, self.with_cuts(observation, local))
        share = scenario.edge.cpus / len(scenario.ues)
        cuts: list[Cut] = []
        codecs: list[Codec | None] = []
        for index, (ue, options) in enumerate(zip(scenario.ues, self._options, strict=True)):
            rate = present[ue.name]
            totals = []
            for option in options:
                stages = option.work.stages(ue.max_speed, share, rate.up_bits_per_second, rate.down_bits_per_second)
                totals.append(np.where(option.allowed, np.sum(list(stages.values()), axis=0), np.inf))
            number, at = np.unravel_index(int(np.argmin(totals)), np.shape(totals))
            cuts.append(ue.profile.chain_cuts[at])
            # raw input and local answer have no codec to decide
            codecs.append(options[number].codec if 0 < at < len(ue.profile.chain_cuts) - 1 else None)
            self._predicted_seconds[index] = float(totals[number][at])
        decision = self.with_cuts(observation, cuts)
        chosen = zip(decision.ues, codecs, strict=True)
        return msgspec.structs.replace(
            decision, ues=tuple(msgspec.structs.replace(ue, codec=codec) for ue, codec in chosen)
        )

    def state(self) -> dict[str, float]:
        names = [ue.name for ue in self.scenario.ues]
        return {f"predicted_seconds.{name}": value for name, value in zip(names, self._predicted_seconds, strict=True)}
