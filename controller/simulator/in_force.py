"""The decision in force as arrays, as the worlds of queues take it: what each UE's task costs at the cut of its UE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.contract import Codec, Cut, Decision, Scenario, UeDecision, cut_from_label, cut_label
from controller.model.delay import ChainWork, chain_work, cut_codec, stage_work, wire_bits
from controller.model.older_tasks import tail_share
from controller.model.radio import idle_bits_per_second, is_coupled
from controller.model.stage_fading import stage_gain_tables
from controller.solvers.allocation.chain import ChainTables

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class StopPoints(NamedTuple):
    """Where a task may stop before its decided cut, arrays (ues, points); see UeDecision.stop_rule."""

    used: IntArray  # (ues,): points that are not padding
    gate: FloatArray  # it stops where the link quality is not below this
    seconds: FloatArray  # of the head without encoding, on the reference core: when it looks
    cut: IntArray
    column: IntArray  # of the chain, for channels that are drawn per stage
    head_seconds: FloatArray
    wire_bits: FloatArray
    tail_seconds: FloatArray
    down_bits: FloatArray

    @classmethod
    def none(cls, ues: int, points: int = 1) -> StopPoints:
        """Room for ``points``, none of them used."""

        def real() -> FloatArray:
            return np.zeros((ues, points))

        def whole() -> IntArray:
            return np.zeros((ues, points), dtype=np.int64)

        return cls(np.zeros(ues, dtype=np.int64), real(), real(), whole(), whole(), real(), real(), real(), real())


class InForce(NamedTuple):
    """The decision of a slot as the tandem needs it; arrays (ues,)."""

    cut: IntArray  # an id of the caller's
    head_seconds: FloatArray  # on the reference core
    wire_bits: FloatArray  # 0: local
    tail_seconds: FloatArray  # on the reference core
    down_bits: FloatArray
    speed: FloatArray
    share: FloatArray
    spectrum_up_hz: FloatArray
    down_ratio: FloatArray  # of the downlink's whole spectrum
    most_up: FloatArray  # bit/s that the wire carries at most, in whatever spectrum; inf: all that this gives
    most_down: FloatArray
    power_ratio: FloatArray  # transmit power over its nominal value
    column: IntArray  # of the decided cut in its chain, for channels that are drawn per stage
    points: StopPoints


@dataclass(frozen=True)
class _CutWork:
    head_seconds: float
    wire_bits: float
    tail_seconds: float
    down_bits: float


@dataclass
class Translation:
    """Decisions of a scenario as arrays; work per cut is measured as it is asked for."""

    scenario: Scenario
    tables: ChainTables = field(init=False)
    coupled: bool = field(init=False)  # rates come from the radio model for all links together
    labels: list[str] = field(default_factory=list)  # of cuts; one entry for each codec that was decided with it
    codecs: list[Codec | None] = field(default_factory=list)  # aligned with labels; None: the lab's
    _work: dict[tuple[int, Cut, Codec | None], tuple[int, _CutWork]] = field(default_factory=dict)
    _chains: dict[tuple[int, Codec | None], ChainWork] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = ChainTables.of(self.scenario)
        self.coupled = is_coupled(self.scenario.radio)

    def work(self, ue: int, choice: UeDecision) -> tuple[int, _CutWork]:
        """(id of cut and codec, their work). Raises ValueError for a decision that the simulator does not model."""
        key = (ue, choice.cut, choice.codec)
        if key not in self._work:
            if choice.uploading is not None or (choice.downlink_watts is not None and not self.coupled):
                raise ValueError(
                    f"{choice.name}: the simulator models cut, speed, spectrum, power, share and codec only"
                )
            self._work[key] = (
                self._number(cut_label(choice.cut), choice.codec),
                self._measure(ue, choice.cut, choice.codec),
            )
        return self._work[key]

    def _number(self, label: str, codec: Codec | None) -> int:
        known = list(zip(self.labels, self.codecs, strict=True))
        if (label, codec) in known:
            return known.index((label, codec))
        self.labels.append(label)
        self.codecs.append(codec)
        return len(known)

    def _measure(self, ue: int, cut: Cut, codec: Codec | None) -> _CutWork:
        profile = self.scenario.ues[ue].profile
        if (ue, codec) not in self._chains:
            self._chains[ue, codec] = chain_work(self.scenario, ue, codec)
        chain = self._chains[ue, codec]
        if cut in profile.chain_cuts:
            at = profile.chain_index(cut)
            return _CutWork(
                *(float(x[at]) for x in (chain.head_seconds, chain.up_bits, chain.tail_seconds, chain.down_bits))
            )
        name = cut_codec(self.scenario.ues[ue], cut, codec)
        head, tail = stage_work(profile, cut, name)
        bits, down = wire_bits(self.scenario, [profile.boundary_bytes(cut, name), profile.result_bytes])
        return _CutWork(head, float(bits), tail, float(down))

    def in_force(self, decision: Decision) -> InForce:
        found = [self.work(index, choice) for index, choice in enumerate(decision.ues)]

        def column(values: Sequence[float]) -> FloatArray:
            return np.array(values, dtype=np.float64)

        radio, cpus = self.scenario.radio, self.scenario.edge.cpus
        idle = np.array([np.inf if self.coupled else idle_bits_per_second(ue) for ue in self.scenario.ues])
        # of a coupled radio the tandem gets the rates themselves; a wire without spectrum is limited in all of it
        up, down = (
            column([1.0 if self.coupled else getattr(choice, key) or total for choice in decision.ues])
            for key, total in (("spectrum_up_hz", radio.uplink_hz), ("spectrum_down_hz", radio.downlink_hz))
        )
        return InForce(
            cut=np.array([number for number, _ in found], dtype=np.int64),
            head_seconds=column([work.head_seconds for _, work in found]),
            wire_bits=column([work.wire_bits for _, work in found]),
            tail_seconds=column([work.tail_seconds for _, work in found]),
            down_bits=column([work.down_bits for _, work in found]),
            speed=column([choice.device_speed for choice in decision.ues]),
            share=column([tail_share(choice, cpus) for choice in decision.ues]),
            spectrum_up_hz=up,
            down_ratio=down if self.coupled else down / radio.downlink_hz,
            most_up=np.where([choice.spectrum_up_hz > 0 for choice in decision.ues], np.inf, idle),
            most_down=np.where([choice.spectrum_down_hz > 0 for choice in decision.ues], np.inf, idle),
            power_ratio=column(
                [
                    1.0 if choice.transmit_watts is None else choice.transmit_watts / ue.transmit_watts
                    for ue, choice in zip(self.scenario.ues, decision.ues, strict=True)
                ]
            ),
            column=np.array([self._column(i, choice.cut) for i, choice in enumerate(decision.ues)], dtype=np.int64),
            points=self._points(decision),
        )

    def _column(self, ue: int, cut: Cut) -> int:
        """Index of a cut in its chain; -1 for one of several tensors."""
        chain = self.scenario.ues[ue].profile.chain_cuts
        return chain.index(cut) if cut in chain else -1

    def _points(self, decision: Decision) -> StopPoints:
        widest = max(len(choice.stop_rule) for choice in decision.ues)
        points = StopPoints.none(len(decision.ues), max(widest, 1))
        for ue, choice in enumerate(decision.ues):
            profile = self.scenario.ues[ue].profile
            unit = self.quality_of_gain(ue)
            points.used[ue] = len(choice.stop_rule)
            for at, (label, threshold) in enumerate(choice.stop_rule):
                cut = cut_from_label(label)
                number, work = self.work(ue, msgspec.structs.replace(choice, cut=cut, stop_rule=()))
                points.gate[ue, at] = threshold * unit
                points.seconds[ue, at] = profile.head_seconds[profile.chain_index(cut)]
                points.cut[ue, at] = number
                points.column[ue, at] = self._column(ue, cut)
                points.head_seconds[ue, at] = work.head_seconds
                points.wire_bits[ue, at] = work.wire_bits
                points.tail_seconds[ue, at] = work.tail_seconds
                points.down_bits[ue, at] = work.down_bits
        return points

    def quality_of_gain(self, ue: int) -> float:
        """Link quality per unit of a UE's channel state."""
        return float(self.tables.link_quality(np.ones(len(self.scenario.ues)))[ue])

    def staged_quality(self, times: Sequence[FloatArray], seed: int) -> FloatArray | None:
        """Link quality of every task at every chain cut, (tasks, cuts); None if no channel is drawn per stage."""
        if all(ue.channel_refresh == "time" for ue in self.scenario.ues):
            return None
        if self.coupled:
            raise ValueError(
                "a channel that is drawn per task and stage needs links of their own: one access point, ofdma"
            )
        counts = [one.size for one in times]
        units = np.repeat([self.quality_of_gain(ue) for ue in range(len(counts))], counts)
        return np.asarray(stage_gain_tables(self.scenario, seed, counts) * units[:, np.newaxis])
