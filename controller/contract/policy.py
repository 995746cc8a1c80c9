"""The policy: what decides, in one place or in each UE."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from controller.contract.base import UeName
from controller.contract.decision import Decision, UeDecision
from controller.contract.observation import Observation, UeObservation
from controller.contract.outcome import SlotOutcome
from controller.contract.scenario import Scenario


@runtime_checkable
class Policy(Protocol):
    """What decides. See docs/policies.md for a 20-line example and ``controller.policies.check.check_policy``.

    A policy is created without arguments beyond its options (keyword arguments with defaults), then ``reset``. It may
    have two methods more, see :func:`watched_state` and :func:`checkpoint_info`.
    """

    def reset(self, scenario: Scenario, seed: int) -> None:
        """Forget everything; draw all randomness from ``seed``."""

    def decide(self, observation: Observation) -> Decision:
        """The decision of this slot. When it misses the deadline the last decision stays in force."""

    def feedback(self, outcome: SlotOutcome) -> None:
        """What the last slot brought (energy, delay): virtual queues are updated here."""


def watched_state(policy: Policy) -> dict[str, float]:
    """Numbers worth watching (virtual queues, drift-plus-penalty ...) by ``state()``, which a policy may have: they go
    to metrics and slots.parquet."""
    return dict(getattr(policy, "state", dict)())


def checkpoint_info(policy: Policy) -> dict[str, Any]:
    """What was loaded (path, hash, trained for ...) by ``checkpoint_info()``, which a policy may have. A list
    ``outside`` in it, a line per value of the lab that training did not cover, becomes a warning."""
    return dict(getattr(policy, "checkpoint_info", dict)())


@runtime_checkable
class LocalPolicy(Protocol):
    """The part of a decentralised policy that runs in a UE (DDS). It sees one UE: its own."""

    def reset(self, scenario: Scenario) -> None:
        """Forget everything. ``scenario.ues`` holds this UE alone."""

    def respond(self, signal: dict[str, float], own_state: UeObservation) -> UeDecision:
        """Best response of this UE to what the edge publishes."""


class AskUe(Protocol):
    """How a decentralised policy asks a UE: over sockets in the testbed, by a call in the simulator."""

    def __call__(self, ue: UeName, signal: dict[str, float], state: UeObservation) -> UeDecision | None:
        """What the UE's :class:`LocalPolicy` responds; None if it is gone."""


@runtime_checkable
class DecentralisedPolicy(Protocol):
    """A policy whose UEs decide for themselves. Without :meth:`ask_through` it asks local policies of its own."""

    def local_policy(self) -> LocalPolicy:
        """What runs in each UE, with this policy's options."""

    def ask_through(self, ask: AskUe | None) -> None:
        """Ask the UEs themselves from now on; None: in this process again. Kept over a ``reset``."""
