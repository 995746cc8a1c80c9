"""Worlds that a policy decides in: what a simulation follows once a decision is in force.

Tasks in a tandem of queues, the same beside models that move, or a formula. An edge that starts without a model is
:mod:`controller.simulator.uploading`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.contract import Codec, Decision, Observation, Scenario
from controller.model.outage import FORESIGHT_SECONDS, OUTAGE_BITS_PER_SECOND
from controller.model.queueing import stage_waits_seconds
from controller.model.radio import rates_over
from controller.simulator import tandem
from controller.simulator.channels import ChannelStates
from controller.simulator.given import DROP, LATEST, QUEUE, Fixed, Links
from controller.simulator.in_force import InForce, Translation
from controller.simulator.model_moves import ModelMove, ModelMoves
from controller.simulator.result import SimulatedTasks, tasks_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class World(Protocol):
    """What a simulation follows, slot by slot: :meth:`seen`, :meth:`take`, :meth:`advance`."""

    @property
    def labels(self) -> Sequence[str]:
        """Of all cuts that were decided, once for each codec."""

    @property
    def codecs(self) -> Sequence[Codec | None]:
        """Aligned with :attr:`labels`; None: the lab's own."""

    def seen(self, observation: Observation) -> Observation:
        """The observation with what only this world knows."""

    def take(self, decision: Decision) -> IntArray:
        """Put a decision in force. Returns each UE's cut, (ues,), an index into :attr:`labels` and :attr:`codecs`.

        Raises ValueError for one that the world does not model.
        """

    def advance(self, begin: float, end: float) -> FloatArray:
        """Pass a slot, in seconds from the run's start, under the decision in force. Returns (ues, SLOT_FIELDS)."""

    def tasks(self) -> SimulatedTasks | None:
        """A row per task that arrived; None where there are no single tasks."""

    def updates(self) -> tuple[ModelMove, ...]:
        """Downloads of models that move."""


def refuse_stop_rules(decision: Decision) -> None:
    """Raise ValueError for a decision that tasks must look at the channel for."""
    if any(choice.stop_rule for choice in decision.ues):
        raise ValueError(
            "a stop rule is followed task by task, on links of their own: mode 'event', one access point, ofdma"
        )


def on_busy_of(scenario: Scenario) -> IntArray:
    """What becomes of tasks that find their device busy, (ues,); (0,) where all of them wait."""
    numbers = {"queue": QUEUE, "drop": DROP, "latest": LATEST}
    found = np.array([numbers[ue.arrivals.on_busy] for ue in scenario.ues])
    return found if found.any() else np.empty(0, dtype=np.int64)


class _Cell:
    """A decision in force on the links of a cell; where links are coupled, their rates follow from it."""

    _decision: Decision
    _force: InForce

    def __init__(self, scenario: Scenario, channel: ChannelStates) -> None:
        self._scenario, self._channel = scenario, channel
        self._translation = Translation(scenario)
        quality, downlink = (np.ascontiguousarray(x) for x in channel.link_states(self._translation.tables))
        self._links = Links(quality, downlink, channel.step_seconds)

    @property
    def labels(self) -> Sequence[str]:
        return self._translation.labels

    @property
    def codecs(self) -> Sequence[Codec | None]:
        return self._translation.codecs

    def seen(self, observation: Observation) -> Observation:
        return observation

    def take(self, decision: Decision) -> IntArray:
        self._decision = decision
        self._force = self._translation.in_force(self._followed(decision))
        return self._force.cut

    def updates(self) -> tuple[ModelMove, ...]:
        return ()

    def _followed(self, decision: Decision) -> Decision:
        """What UEs make of a decision."""
        return decision

    def _set_rates(self, begin: float, end: float) -> None:
        if self._translation.coupled:
            steps, channel = self._channel.steps_of(begin, end), self._channel
            self._links.quality[steps], self._links.downlink[steps] = rates_over(
                self._scenario, channel.up[steps], channel.down[steps], self._decision
            )


class TandemWorld(_Cell):
    """Every task on its way through the queues of its UE, with what is left of it at a slot's end."""

    def __init__(
        self, scenario: Scenario, arrivals: list[FloatArray], channel: ChannelStates, seed: int, timeout_seconds: float
    ) -> None:
        """``arrivals``: sorted times of each UE. A task older than ``timeout_seconds`` is given up."""
        super().__init__(scenario, channel)
        coupled, facts = self._translation.coupled, self._translation.tables.ues
        fixed = Fixed(
            up_delay=np.array([ue.uplink_delay_seconds for ue in scenario.ues]),
            down_delay=np.array([ue.downlink_delay_seconds for ue in scenario.ues]),
            kappa=facts.kappa,
            transmit_watts=facts.transmit_watts,
            linear=facts.linear | coupled,
            floor=np.array([ue.outage_floor_bits_per_second for ue in scenario.ues]),
            foresight_seconds=0.0 if coupled else FORESIGHT_SECONDS,
            timeout_seconds=timeout_seconds,
            on_busy=on_busy_of(scenario),
        )
        staged = self._translation.staged_quality(arrivals, seed)
        self._run = tandem.Tandem(arrivals, fixed if staged is None else fixed._replace(staged=staged))

    def take(self, decision: Decision) -> IntArray:
        if self._translation.coupled:
            refuse_stop_rules(decision)
        return super().take(decision)

    def advance(self, begin: float, end: float) -> FloatArray:
        self._set_rates(begin, end)
        return self._run.advance(begin, end, self._force, self._links)

    def tasks(self) -> SimulatedTasks:
        return tasks_of(self._run)


class MovingModelsWorld(TandemWorld):
    """The tandem's tasks, beside versions of models that come down the same links."""

    def __init__(
        self, scenario: Scenario, arrivals: list[FloatArray], channel: ChannelStates, seed: int, timeout_seconds: float
    ) -> None:
        super().__init__(scenario, arrivals, channel, seed, timeout_seconds)
        self._moves = ModelMoves(scenario)

    def seen(self, observation: Observation) -> Observation:
        return self._moves.seen(observation)

    def advance(self, begin: float, end: float) -> FloatArray:
        self._set_rates(begin, end)
        self._moves.hold(self._run, begin, end, self._force, self._links)
        row = self._run.advance(begin, end, self._force, self._links)
        self._moves.advance(self._run, begin, end, self._force, self._links)
        return row

    def tasks(self) -> SimulatedTasks:
        tasks = super().tasks()
        return replace(tasks, model_version=self._moves.versions(tasks.ue, tasks.stamps[:, 1]))

    def updates(self) -> tuple[ModelMove, ...]:
        tasks = super().tasks()
        return self._moves.records(tasks.ue, tasks.stamps[:, 1])

    def _followed(self, decision: Decision) -> Decision:
        return self._moves.fit(decision)


class FormulaWorld(_Cell):
    """Each slot's mean delay by the ``exact`` formula: what arrives in a slot completes in it."""

    def __init__(self, scenario: Scenario, rates: FloatArray, counts: FloatArray, channel: ChannelStates) -> None:
        """``rates`` per second and ``counts`` of arrivals, (slots, ues)."""
        super().__init__(scenario, channel)
        self._rates, self._counts = rates, counts

    def take(self, decision: Decision) -> IntArray:
        refuse_stop_rules(decision)
        return super().take(decision)

    def tasks(self) -> None:
        return None

    def advance(self, begin: float, end: float) -> FloatArray:
        """A slot's row: means in place of sums."""
        self._set_rates(begin, end)
        slot = round(begin / self._scenario.slot_seconds)
        rate, arrived = self._rates[slot], self._counts[slot]
        scenario, force, facts = self._scenario, self._force, self._translation.tables.ues
        link, down = self._rates_at(begin)
        remote = force.wire_bits > 0
        service = np.stack(
            [force.head_seconds / force.speed, force.wire_bits / link, force.tail_seconds / force.share], -1
        )
        waits = stage_waits_seconds(rate, service, "exact", facts.variability)
        up_delay = np.array([ue.uplink_delay_seconds for ue in scenario.ues])
        down_delay = np.array([ue.downlink_delay_seconds for ue in scenario.ues])
        row = np.zeros((rate.size, tandem.SLOT_FIELDS))
        row[:, tandem.ARRIVED] = row[:, tandem.COMPLETED] = arrived
        row[:, [tandem.UE_QUEUE, tandem.TX_QUEUE, tandem.EDGE_QUEUE]] = waits
        row[:, [tandem.HEAD, tandem.UPLINK, tandem.TAIL]] = service
        row[:, tandem.UPLINK] += np.where(remote, up_delay, 0.0)
        row[:, tandem.DOWN] = np.where(remote, down_delay + force.down_bits / down, 0.0)
        row[:, tandem.DELAY_SUM] = row[:, tandem.UE_QUEUE : tandem.DOWN + 1].sum(axis=1)
        busy = np.minimum(rate[:, np.newaxis] * service, 1.0)  # under overload a stage is busy all the time, not longer
        row[:, tandem.COMPUTE] = scenario.slot_seconds * facts.kappa * force.speed**3 * busy[:, 0]
        row[:, tandem.TRANSMIT] = scenario.slot_seconds * facts.transmit_watts * force.power_ratio * busy[:, 1]
        row[:, tandem.RATE] = link
        return row

    def _rates_at(self, begin: float) -> tuple[FloatArray, FloatArray]:
        """(up, down) in bit/s, each (ues,), of the slot that begins."""
        force, tables = self._force, self._translation.tables
        at = int(begin / self._channel.step_seconds + 1e-9) % self._links.quality.shape[0]
        quality, downlink = self._links.quality[at], self._links.downlink[at]
        floor = np.array([ue.outage_floor_bits_per_second for ue in self._scenario.ues])
        spectrum = force.spectrum_up_hz
        shannon = spectrum * np.log2(1.0 + quality * force.power_ratio / spectrum)
        linear = tables.ues.linear | self._translation.coupled
        up = np.minimum(np.where(linear, spectrum * quality, shannon), force.most_up)
        down = np.minimum(downlink * force.down_ratio, force.most_down)
        return np.where(up < floor, OUTAGE_BITS_PER_SECOND, up), np.where(down < floor, OUTAGE_BITS_PER_SECOND, down)
