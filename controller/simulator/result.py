"""What a simulated run brings: arrays by slot and UE, by task in event mode, and the summary that a run prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from controller.contract import STAGES, Codec, Scenario
from controller.service.engine import Notice
from controller.simulator import tandem
from controller.simulator.model_moves import ModelMove

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mode = Literal["event", "slot"]


@dataclass(frozen=True)
class SimulatedTasks:
    """One row per task, ordered by UE and arrival; nan where a task never got there. Seconds from the run's start."""

    ue: IntArray  # index
    stamps: FloatArray  # (tasks, 8): arrival, head start, head end, tx start, received, tail start, tail end, done
    cut: IntArray  # index into SimulationResult.cut_labels, -1: head never started
    speed: FloatArray
    share: FloatArray
    compute_joules: FloatArray
    transmit_joules: FloatArray
    boundary_bytes: FloatArray | None = None  # of the values that went up; None: what the cut says
    sent_bytes: FloatArray | None = None  # up, layer 2; None: what the cut says
    failed_seconds: FloatArray | None = None  # when it was given up, nan: it was not; None: none was
    model_version: IntArray | None = None  # None: there is one
    dropped_seconds: FloatArray | None = None  # when it found the device busy, nan: it did not; None: none did

    @property
    def delay_seconds(self) -> FloatArray:
        return np.asarray(self.stamps[:, 7] - self.stamps[:, 0])


@dataclass(frozen=True)
class SimulationResult:
    """Arrays are (slots, ues). ``delay_seconds``: event mode - mean of the tasks completed in the slot (nan: none);
    slot mode - the formula's mean (inf: overloaded)."""

    scenario: Scenario
    policy: str
    mode: Mode
    seed: int
    slots: int
    cut_labels: tuple[str, ...]  # one for each cut and codec that were decided
    codecs: tuple[Codec | None, ...]  # aligned with them; None: the lab's
    cuts: IntArray  # index into cut_labels of the decision in force
    arrivals: IntArray
    completions: IntArray
    delay_seconds: FloatArray
    stage_seconds: FloatArray  # (slots, ues, 7): event mode - sums over completed tasks; slot mode - means
    compute_joules: FloatArray
    transmit_joules: FloatArray
    speed: FloatArray
    spectrum_up_hz: FloatArray
    edge_share: FloatArray
    rate_up_bits_per_second: FloatArray
    policy_state: tuple[dict[str, float], ...]  # after each decision
    decide_seconds: FloatArray  # (slots,)
    tasks: SimulatedTasks | None  # event mode
    task_timeout_seconds: float = np.inf
    drained_seconds: float = 0.0  # after the last slot, in which what was under way went on
    #: slots in which the policy raised, or its decision was refused, and the last decision stayed; and why
    notices: tuple[tuple[int, Notice], ...] = ()
    updates: tuple[ModelMove, ...] = ()  # downloads of models that move

    @property
    def end_seconds(self) -> float:
        """When the last task could complete."""
        return self.slots * self.scenario.slot_seconds + self.drained_seconds

    @property
    def energy_joules(self) -> FloatArray:
        """Per slot and UE."""
        return self.compute_joules + self.transmit_joules

    def mean_energy_joules(self, warmup_slots: int = 0) -> FloatArray:
        """Per slot, long-term mean of each UE, (ues,)."""
        return np.asarray(self.energy_joules[warmup_slots:].mean(axis=0))

    def energy_ratio(self, warmup_slots: int = 0) -> FloatArray:
        """Mean energy over budget, (ues,); 0 for a UE without a budget."""
        budget = np.array([ue.energy_budget_joules for ue in self.scenario.ues])
        return np.asarray(self.mean_energy_joules(warmup_slots) / budget)

    def task_delays(self, warmup_slots: int = 0) -> FloatArray:
        """E2E delays of the tasks that arrived after the warm-up and completed (event mode)."""
        if self.tasks is None:
            raise ValueError("slot mode has no tasks: simulate with mode='event'")
        wanted = self.tasks.stamps[:, 0] >= warmup_slots * self.scenario.slot_seconds
        delays = self.tasks.delay_seconds[wanted & self.completed()]
        return np.asarray(delays)

    def mean_delay_seconds(self, warmup_slots: int = 0) -> float:
        """Mean E2E delay over tasks, in slot mode over those of UEs and slots that are not overloaded."""
        if self.tasks is not None:
            return float(self.task_delays(warmup_slots).mean())
        delays, tasks = self.delay_seconds[warmup_slots:], self.arrivals[warmup_slots:]
        finite = np.isfinite(delays)
        total = tasks[finite].sum()
        return float((delays[finite] * tasks[finite]).sum() / total) if total else float("nan")

    def mean_ue_delay_seconds(self, warmup_slots: int = 0) -> FloatArray:
        """Mean E2E delay of each UE, (ues,)."""
        if self.tasks is None:
            delays = self.delay_seconds[warmup_slots:]
            return np.asarray(np.nanmean(np.where(np.isfinite(delays), delays, np.nan), axis=0))
        keep = self.completed() & (self.tasks.stamps[:, 0] >= warmup_slots * self.scenario.slot_seconds)
        delays = np.where(keep, self.tasks.delay_seconds, 0.0)
        ues = len(self.scenario.ues)
        totals = np.bincount(self.tasks.ue, delays, minlength=ues)
        return np.asarray(totals / np.maximum(np.bincount(self.tasks.ue[keep], minlength=ues), 1))

    def mean_stage_seconds(self) -> dict[str, float]:
        """Mean of each stage over completed tasks (event mode) or UEs and slots (slot mode)."""
        if self.tasks is None:
            means = self.stage_seconds.mean(axis=(0, 1))
        else:
            stages = np.diff(self.tasks.stamps, axis=1)[self.completed()]
            means = stages.mean(axis=0) if stages.size else np.zeros(len(STAGES))
        return {stage: float(value) for stage, value in zip(STAGES, means, strict=True)}

    def cut_shares(self) -> dict[str, float]:
        """Part of the tasks (event mode) or UE-slots (slot mode) that each cut got."""
        used = self.cuts.ravel() if self.tasks is None else self.tasks.cut[self.tasks.cut >= 0]
        counts = np.bincount(used, minlength=len(self.cut_labels))
        total = max(int(counts.sum()), 1)
        shares: dict[str, float] = {}
        for label, n in zip(self.cut_labels, counts, strict=True):
            if n:
                shares[label] = shares.get(label, 0.0) + float(n / total)
        return shares

    def summary(self, warmup_slots: int = 0) -> dict[str, Any]:
        """The keys of a run's ``summary.json`` that a simulation can fill."""
        if self.tasks is not None:
            delays = self.task_delays(warmup_slots)
            percentiles = np.percentile(delays, [50, 95, 99]) if delays.size else np.full(3, np.nan)
            completed = int(self.completed().sum())
            arrived, failed = int(self.tasks.ue.size), int(self.failed().sum())
            dropped = int(self.dropped().sum())
        else:
            finite = self.delay_seconds[warmup_slots:]
            percentiles = np.percentile(finite[np.isfinite(finite)], [50, 95, 99])
            arrived = completed = int(self.arrivals.sum())
            failed = dropped = 0
        return {
            "lab": self.scenario.name,
            "policy": self.policy,
            "runtime": f"simulator-{self.mode}",
            "seed": self.seed,
            "duration_seconds": self.slots * self.scenario.slot_seconds,
            "tasks": {
                "arrived": arrived,
                "completed": completed,
                "failed": failed,
                "in_flight": arrived - completed - failed - dropped,
                "dropped": dropped,
            },
            "e2e_delay_seconds": {
                "mean": self.mean_delay_seconds(warmup_slots),
                **{name: float(x) for name, x in zip(("p50", "p95", "p99"), percentiles, strict=True)},
            },
            "stages_seconds": self.mean_stage_seconds(),
            "energy_joules_per_slot": {
                str(ue.name): float(x)
                for ue, x in zip(self.scenario.ues, self.mean_energy_joules(warmup_slots), strict=True)
            },
            "cuts": self.cut_shares(),
            "overloaded_ratio": float(np.mean(np.isinf(self.delay_seconds))),
        }

    def completed(self) -> NDArray[np.bool_]:
        """(tasks,): which completed within the run, in time."""
        assert self.tasks is not None
        done = np.asarray(self.tasks.stamps[:, 7] <= self.end_seconds)
        given_up = self.tasks.failed_seconds
        return done if given_up is None else done & np.isnan(given_up)

    def dropped(self) -> NDArray[np.bool_]:
        """(tasks,): which the device, busy, did not take."""
        assert self.tasks is not None
        if self.tasks.dropped_seconds is None:
            return np.zeros(self.tasks.ue.size, dtype=bool)
        return np.isfinite(self.tasks.dropped_seconds)

    def failed(self) -> NDArray[np.bool_]:
        """(tasks,): which were given up within the run."""
        assert self.tasks is not None
        if self.tasks.failed_seconds is None:
            return np.zeros(self.tasks.ue.size, dtype=bool)
        return np.asarray(self.tasks.failed_seconds <= self.end_seconds)


def tasks_of(run: tandem.Tandem) -> SimulatedTasks:
    """The task arrays of a finished tandem."""
    rows = run.tasks
    return SimulatedTasks(
        ue=np.repeat(np.arange(run.first.size - 1), np.diff(run.first)),
        stamps=rows[tandem.ARRIVAL : tandem.DONE + 1].T.copy(),
        cut=np.where(np.isnan(rows[tandem.CUT]), -1, rows[tandem.CUT]).astype(np.int64),
        speed=rows[tandem.SPEED],
        share=rows[tandem.SHARE],
        compute_joules=rows[tandem.COMPUTE_JOULES],
        transmit_joules=rows[tandem.TRANSMIT_JOULES],
        failed_seconds=rows[tandem.FAILED],
        dropped_seconds=rows[tandem.DROPPED],
    )
