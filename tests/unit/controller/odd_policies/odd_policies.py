"""Policies that misbehave, installed as a package of its own would be (see the dist-info beside this file)."""

from __future__ import annotations

import time

import msgspec

from controller.contract import Decision, Observation, Scenario
from controller.policies.static import DeviceOnly, EdgeOnly


class Hangs(EdgeOnly):
    """Sleeps far beyond any deadline in one slot; ``state`` says how many decisions ran at once at most."""

    def __init__(self, slot: int = 2, seconds: float = 0.35) -> None:
        self.slot, self.seconds = slot, seconds
        self.running = self.most_running = 0

    def decide(self, observation: Observation) -> Decision:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if observation.slot == self.slot:
            time.sleep(self.seconds)
        self.running -= 1
        return super().decide(observation)

    def state(self) -> dict[str, float]:
        return {"most_running": float(self.most_running)}


class Raises(EdgeOnly):
    """Decides in even slots and raises in odd ones."""

    def decide(self, observation: Observation) -> Decision:
        if observation.slot % 2:
            raise ZeroDivisionError("an odd slot")
        return super().decide(observation)


class Greedy(EdgeOnly):
    """Asks for more spectrum than there is."""

    def decide(self, observation: Observation) -> Decision:
        decision = super().decide(observation)
        ues = tuple(msgspec.structs.replace(ue, spectrum_up_hz=1e9) for ue in decision.ues)
        return msgspec.structs.replace(decision, ues=ues)


class NoReset(DeviceOnly):
    """Cannot be reset."""

    def reset(self, scenario: Scenario, seed: int) -> None:
        raise RuntimeError("no checkpoint was given")
