"""What a policy sees of what there is: gains with an error or of a slot before, arrival rates that it must find out.

The same in the testbed and in the simulator: both hand what is true to an :class:`Observer`, and to the policy what
comes back. Errors depend on (seed, slot, UE) only, so every policy of a seed sees the same.
"""

from __future__ import annotations

import msgspec
import numpy as np

from controller.contract import Observation, Scenario, UeObservation
from controller.seeds import Purpose, generator

#: What the last slot adds to a measured rate: the others fade by a quarter each slot.
MEASURED_WEIGHT = 0.25

#: What is seen of a channel, and in which direction.
_GAINS = (("gain_up", 0), ("gain_down", 1), ("mean_gain_up", 0), ("mean_gain_down", 1))


class Observer:
    """Turns true observations, slot by slot in order, into what the scenario's ``knowledge`` leaves of them."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._knowledge, self._seed = scenario.knowledge, seed
        self._arrivals = {ue.name: ue.arrivals for ue in scenario.ues}
        self._measured = {ue.name: ue.arrivals.mean_rate_per_second for ue in scenario.ues}
        #: (slot, what was true) of the slots that may still be asked for
        self._past: list[tuple[int, tuple[UeObservation, ...]]] = []
        self._usual = {ue.name: (ue.mean_gain,) for ue in scenario.ues}

    def seen(self, true: Observation) -> Observation:
        """What the policy sees. A slot's mean gain has the error of its state, and its age."""
        errors = self._errors(true)
        ues = tuple(
            msgspec.structs.replace(
                ue,
                nominal_arrival_rate_per_second=self._rate(ue, true.slot),
                **{key: tuple(float(gain * error[way]) for gain in getattr(old, key)) for key, way in _GAINS},
            )
            for ue, old, error in zip(true.ues, self._aged(true), errors, strict=True)
        )
        return msgspec.structs.replace(true, ues=ues)

    def _aged(self, true: Observation) -> tuple[UeObservation, ...]:
        """UEs whose gains are those of the wanted slot, or the last before it; the long-term means until then."""
        self._past.append((true.slot, true.ues))
        latest = true.slot - self._knowledge.gain_age_slots
        while len(self._past) > 1 and self._past[1][0] <= latest:
            del self._past[0]
        slot, ues = self._past[0]
        if slot <= latest:
            return ues
        return tuple(msgspec.structs.replace(ue, **{key: self._usual[ue.name] for key, _ in _GAINS}) for ue in ues)

    def _errors(self, true: Observation) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Factors of the gains, (ues, 2: up, down): log-normal, 1 in the median."""
        shape = (len(true.ues), 2)
        if self._knowledge.gain_error_decibels == 0:
            return np.ones(shape)
        drawn = generator(self._seed, Purpose.OBSERVATION, true.slot).standard_normal(shape)
        return np.asarray(10 ** (self._knowledge.gain_error_decibels * drawn / 10))

    def _rate(self, ue: UeObservation, slot: int) -> float:
        match self._knowledge.arrival_rate:
            case "state":
                return ue.nominal_arrival_rate_per_second
            case "mean":
                return self._arrivals[ue.name].mean_rate_per_second
        if slot > 0:  # before slot 0 nothing can have arrived
            gap = ue.measured_arrival_rate_per_second - self._measured[ue.name]
            self._measured[ue.name] += MEASURED_WEIGHT * gap
        return self._measured[ue.name]
