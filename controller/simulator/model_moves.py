"""Models that move in the simulator: what the lab's UEs do, over the same downlink (docs/placement.md).

At each interval the edge has a next version; a UE fetches the layers that its decision needs, in pieces, while the old
version serves. A version is in force with the first head that starts after it is whole. The edge's time to make and
pack a version is not modelled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.contract import ALL_ON_EDGE, Cut, Decision, Observation, Scenario, UeScenario, cut_label
from controller.model.carried import transmit
from controller.model.cuts import canonical_cut, device_set
from controller.model.outage import FORESIGHT_SECONDS
from controller.model.placed import within_placed
from controller.simulator import tandem
from controller.simulator.given import Links
from controller.simulator.in_force import InForce

FloatArray = NDArray[np.float64]

#: Two pieces of a model are under way, each as long as the downlink takes for it in this time.
PIECE_SECONDS = 10e-3
PIECES_UNDER_WAY = 2


@dataclass(frozen=True)
class ModelMove:
    """One download, as the lab records it. Seconds from the run's start."""

    ue: str
    version: int
    cut: str
    status: str  # "placed" | "discarded"
    reason: str
    placed_nodes: int
    payload_bytes: int
    wire_bytes: int
    started_seconds: float
    received_seconds: float
    swapped_seconds: float  # nan: no head came
    receive_joules: float


@dataclass
class _Download:
    version: int
    nodes: frozenset[str]
    started_seconds: float
    bits_left: float
    reached_seconds: float  # by when so many were left


@dataclass
class _Device:
    """One UE's layers."""

    scenario: UeScenario
    delay_seconds: float  # there and back
    held: frozenset[str]  # layers that a head may use
    version: int = 0  # of them
    wanted: frozenset[str] = frozenset()
    download: _Download | None = None
    received: list[ModelMove] = field(default_factory=list)
    sets: dict[Cut, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, ue: UeScenario) -> _Device:
        """It has the whole first version."""
        nodes = frozenset(node.name for node in ue.profile.nodes)
        return cls(ue, ue.uplink_delay_seconds + ue.downlink_delay_seconds, nodes, wanted=nodes)

    def device_set(self, cut: Cut) -> frozenset[str]:
        if cut not in self.sets:
            self.sets[cut] = frozenset() if cut == ALL_ON_EDGE else device_set(self.scenario.profile.nodes, cut)
        return self.sets[cut]

    def bytes_of(self, nodes: frozenset[str]) -> int:
        return sum(node.parameter_bytes for node in self.scenario.profile.nodes if node.name in nodes)

    def lacks(self, newest: int) -> bool:
        return newest > self.version or not self.wanted <= self.held


class ModelMoves:
    """All UEs' layers in a simulation. Slot by slot: :meth:`seen`, :meth:`fit`, :meth:`hold`, :meth:`advance`."""

    def __init__(self, scenario: Scenario) -> None:
        assert scenario.retraining_interval_seconds is not None
        self._interval_seconds = scenario.retraining_interval_seconds
        self._framing_ratio = scenario.framing_ratio
        self._floor = [ue.outage_floor_bits_per_second for ue in scenario.ues]
        self._devices = [_Device.of(ue) for ue in scenario.ues]

    def seen(self, observation: Observation) -> Observation:
        """With what every device holds."""
        return msgspec.structs.replace(
            observation,
            ues=tuple(
                msgspec.structs.replace(ue, placed_nodes=len(device.held), model_version=device.version)
                for ue, device in zip(observation.ues, self._devices, strict=True)
            ),
        )

    def fit(self, decision: Decision) -> Decision:
        """The decision as devices follow it: no cut deeper than what is placed at the slot's start."""
        for device, choice in zip(self._devices, decision.ues, strict=True):
            device.wanted = device.device_set(choice.cut)
        ues = tuple(
            within_placed(choice, device.held, device.scenario.profile.chain_cuts, device.device_set)
            for device, choice in zip(self._devices, decision.ues, strict=True)
        )
        return msgspec.structs.replace(decision, ues=ues)

    def hold(self, run: tandem.Tandem, begin: float, end: float, force: InForce, links: Links) -> None:
        """Before the tandem's slot: answers that leave during a download wait for the pieces before them."""
        wait = PIECE_SECONDS * (PIECES_UNDER_WAY - 0.5)
        for ue in range(len(self._devices)):
            run.free[ue, tandem.HELD_FROM] = run.free[ue, tandem.HELD_UNTIL] = math.inf
            started = self._under_way(ue, begin, end)
            if started is not None and started.bits_left > 0:
                reached, left = self._walk(started, end, ue, force, links)
                if left <= 0 and int(reached / self._interval_seconds + 1e-9) > started.version:
                    reached = end  # the next one follows at once
                run.free[ue, tandem.HELD_FROM] = started.reached_seconds
                run.free[ue, tandem.HELD_UNTIL] = reached
                run.free[ue, tandem.HELD_SECONDS] = wait

    def advance(self, run: tandem.Tandem, begin: float, end: float, force: InForce, links: Links) -> None:
        """After the tandem's slot: downloads go on beside the answers of the slot."""
        for ue, device in enumerate(self._devices):
            answered = self._answered_bits(run, ue, begin, end)
            while (download := self._under_way(ue, begin, end)) is not None:
                download.bits_left += answered
                answered = 0.0
                reached, left = self._walk(download, end, ue, force, links)
                device.download = replace(download, bits_left=left, reached_seconds=reached)
                if left > 0:
                    break
                self._finish(device, device.download)

    def versions(self, ues: NDArray[np.int64], head_starts: FloatArray) -> NDArray[np.int64]:
        """Model version of each task, by its UE and the start of its head (nan: the first)."""
        found = np.zeros(ues.size, dtype=np.int64)
        for index, device in enumerate(self._devices):
            mine = np.flatnonzero(ues == index)
            whole = np.array([move.received_seconds for move in device.received])
            numbers = np.array([0, *(move.version for move in device.received)])
            starts = np.nan_to_num(head_starts[mine], nan=-1.0)
            found[mine] = numbers[np.searchsorted(whole, starts, side="right")]
        return found

    def records(self, ues: NDArray[np.int64], head_starts: FloatArray) -> tuple[ModelMove, ...]:
        """All downloads that are whole, with the head that swapped each in."""
        moves: list[ModelMove] = []
        for index, device in enumerate(self._devices):
            starts = np.sort(head_starts[(ues == index) & np.isfinite(head_starts)])
            after = [*(move.received_seconds for move in device.received), math.inf][1:]
            for move, newer in zip(device.received, after, strict=True):
                at = int(np.searchsorted(starts, move.received_seconds))
                swapped = float(starts[at]) if at < starts.size else math.nan
                if swapped >= newer:
                    move = replace(move, status="discarded", reason="a newer version came first")
                else:
                    move = replace(move, swapped_seconds=swapped)
                moves.append(move)
        return tuple(sorted(moves, key=lambda move: move.received_seconds))

    # ------------------------------------------------------------------------------------------------------- downloads

    def _under_way(self, ue: int, begin: float, end: float) -> _Download | None:
        """The download of a UE in this slot: the present one, or what it lacks by now."""
        device = self._devices[ue]
        if device.download is not None:
            return device.download
        asked = max([begin, *(move.received_seconds for move in device.received[-1:])])
        newest = int(asked / self._interval_seconds + 1e-9)
        if not device.lacks(newest):
            newest += 1
            asked = newest * self._interval_seconds
            if asked >= end:
                return None
        started = asked + device.delay_seconds
        bits = 8.0 * self._framing_ratio * device.bytes_of(device.wanted)
        device.download = _Download(newest, device.wanted, started, bits, started)
        return device.download

    def _walk(self, download: _Download, end: float, ue: int, force: InForce, links: Links) -> tuple[float, float]:
        """(time reached, bits left) at ``end``, or when it is whole."""
        if download.reached_seconds >= end or download.bits_left <= 0:
            return download.reached_seconds, download.bits_left
        # pieces are asked for one by one: a long way there and back leaves the link idle between them
        used = min(1.0, PIECES_UNDER_WAY * PIECE_SECONDS / (self._devices[ue].delay_seconds + PIECE_SECONDS))
        reached, left, _ = transmit(
            download.reached_seconds, end, download.bits_left / used, math.nan, links.downlink, 1.0, ue, True,
            force.down_ratio[ue], force.most_down[ue], self._floor[ue], links.step_seconds, FORESIGHT_SECONDS,
        )  # fmt: skip
        return reached, left * used

    def _answered_bits(self, run: tandem.Tandem, ue: int, begin: float, end: float) -> float:
        """Of the answers that left for a UE while its download was on."""
        download = self._under_way(ue, begin, end)
        if download is None:
            return 0.0
        tasks = run.tasks[:, run.first[ue] : run.first[ue + 1]]
        during = (tasks[tandem.TAIL_END] >= max(begin, download.reached_seconds)) & (tasks[tandem.TAIL_END] < end)
        return float(tasks[tandem.DOWN_BITS, during & (tasks[tandem.BITS] > 0)].sum())

    def _finish(self, device: _Device, download: _Download) -> None:
        device.download = None
        device.held, device.version = download.nodes, download.version
        profile, size = device.scenario.profile, device.bytes_of(download.nodes)
        cut = canonical_cut(profile.nodes, download.nodes) if download.nodes else ALL_ON_EDGE
        seconds = download.reached_seconds - download.started_seconds
        device.received.append(
            ModelMove(
                ue=str(device.scenario.name),
                version=download.version,
                cut=cut_label(cut),
                status="placed",
                reason="",
                placed_nodes=len(download.nodes),
                payload_bytes=size,
                wire_bytes=round(self._framing_ratio * size),
                started_seconds=download.started_seconds,
                received_seconds=download.reached_seconds,
                swapped_seconds=math.nan,
                receive_joules=device.scenario.receive_watts * seconds,
            )
        )
