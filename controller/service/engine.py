"""The slot engine: reports in, Observation, Decision and SlotOutcome out. It knows no socket, thread or clock.

The server around it (:mod:`controller.service.server`) receives the messages, keeps the time and runs the
policy; per slot it calls :meth:`SlotEngine.close` once the reports are in (or too late) and then
:meth:`SlotEngine.settle`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from controller.contract import (
    STAGES,
    Decision,
    Observation,
    Scenario,
    SlotOutcome,
    UeName,
    UeObservation,
    UeOutcome,
    UeScenario,
)
from controller.model.decision import InvalidDecisionError, bootstrap_decision, enforce
from controller.model.knowledge import Observer
from controller.model.radio import LinkRates, rates
from controller.service.protocol import (
    EDGE,
    PLAYER,
    EdgeReport,
    EdgeUeReport,
    LinkState,
    PlayerReport,
    UeParts,
    UeReport,
)
from controller.service.worker import Answer

#: A reporter that missed this many slots in a row is called silent and no longer waited for.
SILENT_AFTER_SLOTS = 3

#: Reports are waited for no longer than this, or this part of the slot if that is less.
COLLECT_SECONDS = 0.05
COLLECT_RATIO = 0.1


def collect_seconds(slot_seconds: float) -> float:
    """How long after a slot boundary the reports may arrive."""
    return min(COLLECT_SECONDS, COLLECT_RATIO * slot_seconds)


@dataclass(frozen=True)
class Notice:
    """Something worth an event: ``kind`` is one word, ``node`` whom it is about."""

    node: str
    kind: str
    text: str


def decision_of(
    scenario: Scenario, in_force: Decision | None, answer: Answer, observation: Observation
) -> Decision | Notice:
    """What takes force by a policy's answer, or why the last decision stays: the same in a lab and in the simulator."""
    if answer.decision is None:
        return Notice("controller", "policy-error", f"slot {answer.slot}: {answer.error}; the last decision stays")
    try:
        return enforce(scenario, in_force, answer.decision, observation)
    except InvalidDecisionError as error:
        return Notice("controller", "decision-invalid", f"slot {answer.slot}: {error}; the last decision stays")


@dataclass(frozen=True)
class ClosedSlot:
    """A slot that is over: what was seen and decided at its start, and what came of it."""

    observation: Observation
    outcome: SlotOutcome  # with the decision that was live
    decide_seconds: float
    decide_late: bool
    policy_state: dict[str, float]
    head_overruns: dict[UeName, int]
    tail_overruns: dict[UeName, int]


@dataclass
class _Counts:
    """What the reports that came since the last boundary add up to, for one UE.

    A late report is booked in the slot in which it arrives: nothing is lost or counted twice.
    """

    arrivals: int = 0
    completions: int = 0
    failures: int = 0
    delay_sum_seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    compute_joules: float = 0.0
    transmit_joules: float = 0.0
    head_overruns: int = 0
    tail_overruns: int = 0

    def add(self, report: UeReport) -> None:
        self.arrivals += report.arrivals
        self.completions += report.completions
        self.failures += report.failures
        self.delay_sum_seconds += report.delay_sum_seconds
        for stage, seconds in report.stage_sum_seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds
        self.compute_joules += report.compute_joules
        self.transmit_joules += report.transmit_joules
        self.head_overruns += report.head_overruns


@dataclass
class _Reporter:
    last_slot: int = -2  # -1 is the first slot that anybody reports
    missed: int = 0  # boundaries in a row without a report
    silent: bool = False


@dataclass
class _OpenSlot:
    observation: Observation
    decide_seconds: float = 0.0
    decide_late: bool = False
    policy_state: dict[str, float] = field(default_factory=dict)


class SlotEngine:
    """Keeps the last known report of everybody, the decision in force and the slot that is open."""

    def __init__(self, scenario: Scenario, seed: int = 0) -> None:
        self.scenario = scenario
        self._observer = Observer(scenario, seed)
        self.decision = bootstrap_decision(scenario, 0.0)
        self.stale_reports = 0  # of a slot that was reported already: dropped
        self.missing_reports = 0  # late or lost at a boundary
        self._names = frozenset(str(ue.name) for ue in scenario.ues)
        self._reporters = {name: _Reporter() for name in (*self._names, EDGE, PLAYER)}
        self._ues: dict[str, UeReport] = {}
        self.arrived = dict.fromkeys(self._names, 0)  # tasks of each UE, by its reports so far
        self.ended = dict.fromkeys(self._names, 0)
        self._queues: dict[str, EdgeUeReport] = {}
        self._links: dict[str, LinkState] = {}
        self._counts = {ue.name: _Counts() for ue in scenario.ues}
        self._open: _OpenSlot | None = None
        self._notices: list[Notice] = []

    # ------------------------------------------------------------------------------------------------------- reports

    def take_ue(self, report: UeReport) -> bool:
        """False, and nothing changes, for an unknown UE or a slot that it has reported already."""
        if report.node not in self._names or not self._fresh(report.node, report.slot):
            return False
        self._ues[report.node] = report
        self._counts[UeName(report.node)].add(report)
        self.arrived[report.node] += report.arrivals
        self.ended[report.node] += report.completions + report.failures
        return True

    def take_edge(self, report: EdgeReport) -> bool:
        """False for a slot that the edge has reported already."""
        if not self._fresh(EDGE, report.slot):
            return False
        for queue in report.ues:
            if queue.node in self._names:
                self._queues[queue.node] = queue
                self._counts[UeName(queue.node)].tail_overruns += queue.tail_overruns
        return True

    def take_player(self, report: PlayerReport) -> bool:
        """False for a slot that the player has reported already."""
        if not self._fresh(PLAYER, report.slot):
            return False
        self._links.update({link.node: link for link in report.links if link.node in self._names})
        return True

    def _fresh(self, name: str, slot: int) -> bool:
        reporter = self._reporters[name]
        if slot <= reporter.last_slot:
            self.stale_reports += 1
            return False
        reporter.last_slot = slot
        reporter.missed = 0
        if reporter.silent:
            reporter.silent = False
            self._notices.append(Notice(name, "back", f"{name} reports again, slot {slot}"))
        return True

    def missing(self, slot: int) -> tuple[str, ...]:
        """Who has not reported ``slot`` yet, except the silent."""
        return tuple(name for name, one in self._reporters.items() if one.last_slot < slot and not one.silent)

    def take_notices(self) -> list[Notice]:
        """What happened since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def in_flight_tasks(self) -> int:
        """Of all UEs, as last reported."""
        return sum(report.in_flight_tasks for report in self._ues.values())

    def drained_since(self, monotonic_seconds: float) -> bool:
        """Whether every UE that is not silent has reported, after that time, that nothing is in flight."""
        speaking = [name for name in self._names if not self._reporters[name].silent]
        reports = [self._ues.get(name) for name in speaking]
        return all(
            report is not None and report.monotonic_seconds >= monotonic_seconds and report.in_flight_tasks == 0
            for report in reports
        )

    # ---------------------------------------------------------------------------------------------------------- slots

    def bootstrap(self, monotonic_seconds: float) -> Decision:
        """The decision in force until a policy has made one."""
        self.decision = bootstrap_decision(self.scenario, monotonic_seconds)
        return self.decision

    def close(self, slot: int, monotonic_seconds: float) -> tuple[ClosedSlot | None, Observation]:
        """At the start of ``slot``: what the slot before brought (None at first), and what a policy may see now.

        Whoever has not reported slot ``slot - 1`` is counted and its last known values stand in.
        """
        self._count_missing(slot - 1)
        closed = self._close_open()
        observation = Observation(
            slot=slot,
            monotonic_seconds=monotonic_seconds,
            ues=tuple(self._observe(ue, slot) for ue in self.scenario.ues),
        )
        observation = self._observer.seen(observation)
        self._open = _OpenSlot(observation)
        return closed, observation

    def settle(self, answer: Answer | None, monotonic_seconds: float) -> Decision | None:
        """What a policy answered for the open slot; None: it has missed its deadline.

        Returns the new decision in force (its slot and valid-from are the engine's), or None if the last one stands
        in (too late, an error, an invalid decision; there is a notice of each).
        """
        if self._open is None:
            raise RuntimeError("settle() without close(): no slot is open")
        slot = self._open.observation.slot
        if answer is None:
            waited = monotonic_seconds - self._open.observation.monotonic_seconds
            self._open.decide_seconds, self._open.decide_late = waited, True
            self._notice("decide-late", f"no decision for slot {slot} after {waited:.3f} s; the last decision stays")
            return None
        self._open.decide_seconds, self._open.policy_state = answer.decide_seconds, answer.state
        decision = decision_of(self.scenario, self.decision, answer, self._open.observation)
        if isinstance(decision, Notice):
            self._notices.append(decision)
            return None
        self.decision = msgspec.structs.replace(decision, slot=slot, valid_from_seconds=monotonic_seconds)
        return self.decision

    def rates(self) -> dict[str, LinkRates]:
        """Rates of the decision in force at the last known gains."""
        gains = {}
        for ue in self.scenario.ues:
            seen = self._observe_link(ue)
            gains[str(ue.name)] = (seen[0], seen[1])
        return rates(self.scenario, gains, self.decision)

    def _notice(self, kind: str, text: str) -> None:
        self._notices.append(Notice("controller", kind, text))

    def _count_missing(self, slot: int) -> None:
        late = self.missing(slot)
        self.missing_reports += len(late)
        if late:
            self._notice("report-missing", f"slot {slot}: no report yet of {', '.join(late)}; last known values stay")
        for name in late:
            reporter = self._reporters[name]
            reporter.missed += 1
            if reporter.missed >= SILENT_AFTER_SLOTS:
                reporter.silent = True
                self._notices.append(
                    Notice(name, "silent", f"no report of {name} for {reporter.missed} slots; the run goes on")
                )

    def _close_open(self) -> ClosedSlot | None:
        if self._open is None:
            return None
        counts = self._counts
        closed = ClosedSlot(
            observation=self._open.observation,
            outcome=SlotOutcome(
                slot=self._open.observation.slot,
                decision=self.decision,
                ues=tuple(self._outcome(ue.name) for ue in self.scenario.ues),
            ),
            decide_seconds=self._open.decide_seconds,
            decide_late=self._open.decide_late,
            policy_state=self._open.policy_state,
            head_overruns={name: one.head_overruns for name, one in counts.items()},
            tail_overruns={name: one.tail_overruns for name, one in counts.items()},
        )
        self._counts = {ue.name: _Counts() for ue in self.scenario.ues}
        return closed

    def _outcome(self, name: UeName) -> UeOutcome:
        counts, link = self._counts[name], self._links.get(name)
        return UeOutcome(
            name=name,
            arrivals=counts.arrivals,
            completions=counts.completions,
            failures=counts.failures,
            mean_delay_seconds=counts.delay_sum_seconds / counts.completions if counts.completions else float("nan"),
            stage_seconds=counts.stage_seconds,
            compute_joules=counts.compute_joules,
            transmit_joules=counts.transmit_joules,
            mean_rate_up_bits_per_second=link.mean_rate_up_bits_per_second if link else 0.0,
            overruns=counts.head_overruns + counts.tail_overruns,
        )

    def _observe_link(self, ue: UeScenario) -> tuple[tuple[float, ...], ...]:
        """Gains up and down at slot start and their means over the last slot; the scenario's mean before any report."""
        link = self._links.get(ue.name)
        if link is None:
            return ((ue.mean_gain,),) * 4
        return link.gain_up, link.gain_down, link.mean_gain_up, link.mean_gain_down

    def _observe(self, ue: UeScenario, slot: int) -> UeObservation:
        report, queue = self._ues.get(ue.name), self._queues.get(ue.name)
        parts = report.parts if report else UeParts()
        gain_up, gain_down, mean_gain_up, mean_gain_down = self._observe_link(ue)
        oldest = min(self._reporters[name].last_slot for name in (ue.name, EDGE, PLAYER))
        mean_rate = ue.arrivals.mean_rate_per_second
        slot_seconds = self.scenario.slot_seconds
        return UeObservation(
            name=ue.name,
            gain_up=gain_up,
            gain_down=gain_down,
            mean_gain_up=mean_gain_up,
            mean_gain_down=mean_gain_down,
            nominal_arrival_rate_per_second=report.nominal_arrival_rate_per_second if report else mean_rate,
            # Before slot 0 nothing can have arrived: that says nothing about the rate.
            measured_arrival_rate_per_second=(
                report.arrivals / slot_seconds if report and report.slot >= 0 else mean_rate
            ),
            device_queue_tasks=report.device_queue_tasks if report else 0,
            tx_queue_tasks=report.tx_queue_tasks if report else 0,
            edge_queue_tasks=queue.edge_queue_tasks if queue else 0,
            in_flight_tasks=report.in_flight_tasks if report else 0,
            tx_backlog_bytes=report.tx_backlog_bytes if report else 0,
            edge_backlog_seconds=queue.edge_backlog_seconds if queue else 0.0,
            decision_sequence=report.decision_sequence if report else -1,
            report_age_seconds=max(0, slot - 1 - oldest) * slot_seconds,
            last_energy_joules=report.compute_joules + report.transmit_joules if report else 0.0,
            placed_nodes=parts.retraining.placed_nodes,
            model_version=parts.retraining.model_version,
            cached_nodes=queue.cached_nodes if queue else (),
            upload_progress_ratio=parts.uploading.upload_progress_ratio,
        )
