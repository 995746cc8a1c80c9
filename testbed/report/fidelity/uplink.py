"""What the uplink stage took against what the applied rate allowed: the check of time stamps and wires together."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from controller.contract import cut_label
from controller.frames import FRAME_BITS
from testbed.records.tables import RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, Headline, Wider, relative_error
from testbed.report.fidelity.limits import Value
from testbed.report.fidelity.rates import AppliedRate, applied_rates

#: Below this a transfer is mostly the latency of programs and of the shaper's first frame (0.3-0.5 ms), not the rate's.
JUDGED_SECONDS = 5e-3
_ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class Transfers:
    """The transfers of one UE in the order of their ends, one entry each.

    A transfer lasts from its start (the head ended, or the previous task had left the wire) until the edge had it
    all, less the link's delay.
    """

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    delay: NDArray[np.float64]  # one way, of the wire at that time
    bits: NDArray[np.float64]
    integral_bits: NDArray[np.float64]  # of the applied rate from start to end
    #: without a gap after its predecessor: the link was saturated from that one's end to its own
    follows: NDArray[np.bool_]

    @property
    def seconds(self) -> NDArray[np.float64]:
        return self.end - self.start

    def where(self, chosen: NDArray[np.bool_]) -> Transfers:
        return Transfers(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Uplink:
    """Transfers of one UE, in sums; ``bits`` and ``integral_bits`` of those that are judged.

    Those are long enough, lose nothing and are not the first.
    """

    tasks: int = 0
    bits: float = 0.0
    integral_bits: float = 0.0
    #: of the judged transfers that found the link idle: HTB lets it go at once, and the transfer is early by it
    first_frame_bits: float = 0.0
    stage_seconds: float = 0.0
    predicted_seconds: float = 0.0


def _delays(tables: RunTables, ue: str, received: NDArray[np.float64]) -> NDArray[np.float64]:
    """One-way delay (s) that was in force when what was ``received`` then entered the wire."""
    links = tables.links.filter((column(tables.links, "ue") == ue) & (column(tables.links, "direction") == "up"))
    order = np.argsort(column(links, "applied_seconds"), kind="stable")
    since = column(links, "applied_seconds").astype(np.float64)[order]
    delay = column(links, "delay_seconds").astype(np.float64)[order]

    def at(times: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = delay[np.clip(np.searchsorted(since, times, side="right") - 1, 0, None)]
        return result

    return at(received - at(received))


def transfers_of(tables: RunTables, ue: str, rate: AppliedRate) -> Transfers:
    """All transfers of one UE that arrived."""
    if len(tables.uploads):
        return _uploads_of(tables, ue, rate)
    tasks = tables.tasks.filter(column(tables.tasks, "ue") == ue)
    received = column(tasks, "received_seconds").astype(np.float64)
    moved = np.isfinite(received) & (column(tasks, "cut") != cut_label(()))
    tasks, received = tasks.filter(moved), received[moved]
    order = np.argsort(received, kind="stable")
    delay = _delays(tables, ue, received[order])
    end = received[order] - delay
    start = column(tasks, "transfer_start_seconds").astype(np.float64)[order]
    follows = (
        np.concatenate([[False], start[1:] <= end[:-1] + _ROUNDING_SECONDS]) if len(start) else np.zeros(0, dtype=bool)
    )
    return Transfers(
        start=start,
        end=end,
        delay=delay,
        bits=column(tasks, "wire_bytes").astype(np.float64)[order] * 8.0,
        integral_bits=rate.bits_between(start, end),
        follows=follows,
    )


def _uploads_of(tables: RunTables, ue: str, rate: AppliedRate) -> Transfers:
    """Where parameters go up: what crossed in one piece, with nothing before it in the meantime and no reconnect.

    None saturates the link: of parameters so little is under way that a value soon finds room.
    """
    uploads = tables.uploads.filter(column(tables.uploads, "ue") == ue)
    start = column(uploads, "wire_start_seconds").astype(np.float64)
    received = column(uploads, "received_seconds").astype(np.float64)
    there = np.isin(column(uploads, "status"), ("received", "held", "corrupt"))
    order = np.flatnonzero(np.isfinite(start) & np.isfinite(received) & there)
    order = order[np.argsort(start[order], kind="stable")]
    start, received = start[order], received[order]
    delay = _delays(tables, ue, received)
    end = received - delay
    before = np.maximum.accumulate(np.concatenate([[-np.inf], end]))[:-1]
    after = np.concatenate([start[1:], [np.inf]])
    alone = (start >= before - _ROUNDING_SECONDS) & (after >= end - _ROUNDING_SECONDS)
    transfers = Transfers(
        start=start,
        end=end,
        delay=delay,
        bits=column(uploads, "wire_bytes").astype(np.float64)[order] * 8.0,
        integral_bits=rate.bits_between(start, end),
        follows=np.zeros(len(start), dtype=bool),
    )
    return transfers.where(alone & (column(uploads, "resumed")[order] == 0))


def uplink_of(tables: RunTables, ue: str, rate: AppliedRate, *, lossy: bool = False) -> Uplink:
    """Compare the transfers of one UE with the applied rate. On a ``lossy`` wire retransmissions are not judged."""
    transfers = transfers_of(tables, ue, rate)
    sending = rate.time_of(rate.bits_until(transfers.start) + transfers.bits) - transfers.start
    judged = (sending >= JUDGED_SECONDS) & (not lossy)
    judged[:1] = False  # TCP's slow start: six times as long over a delay of 50 ms, and never again
    return Uplink(
        tasks=len(transfers.start),
        bits=float(transfers.bits[judged].sum()),
        integral_bits=float(transfers.integral_bits[judged].sum()),
        first_frame_bits=float(np.minimum(transfers.bits, FRAME_BITS)[judged & ~transfers.follows].sum()),
        stage_seconds=float((transfers.seconds + transfers.delay).sum()),
        predicted_seconds=float((sending + transfers.delay).sum()),
    )


def uplinks(run: Evidence) -> dict[str, Uplink]:
    """Of each UE."""
    links = run.tables.links
    lossy = set(column(links, "ue")[column(links, "loss_ratio").astype(float) > 0])
    return {ue: uplink_of(run.tables, ue, rate, lossy=ue in lossy) for ue, rate in applied_rates(links, "up").items()}


def _judged_bits(run: Evidence) -> tuple[float, float]:
    """(what the applied rate allowed, what was on the wire)."""
    every = run.once(uplinks).values()
    return sum(uplink.integral_bits for uplink in every), sum(uplink.bits for uplink in every)


def _integral_error(run: Evidence) -> Value:
    allowed, sent = run.once(_judged_bits)
    return relative_error(allowed, sent)


def _early_ratio(run: Evidence) -> float:
    """The first frames' part of transfers that came too early."""
    allowed, sent = run.once(_judged_bits)
    first_frames = sum(uplink.first_frame_bits for uplink in run.once(uplinks).values())
    return first_frames / sent if allowed < sent else 0.0


def _stage_error(run: Evidence) -> Value:
    every = run.once(uplinks).values()
    return relative_error(
        sum(uplink.stage_seconds for uplink in every), sum(uplink.predicted_seconds for uplink in every)
    )


UPLINK_FIGURES = (
    Figure(
        "uplink_integral_error",
        "ratio",
        "integral of the applied rate over the transfers of 5 ms and more against the bits that were on the wire",
        of=_integral_error,
        limit=0.05,
        wider=Wider(_early_ratio, "what one frame is of each transfer where they are early"),
        why="quiet runs of the quickstart: 0.03-3.4 %. HTB lets the first frame on an idle link go at once: a transfer"
        " of 10 kB is early by 15 %, less 1 ms of programs' latencies",
        timed=True,
        headline=Headline(4, "uplink {} off"),
    ),
    Figure(
        "uplink_stage_error",
        "ratio",
        "mean uplink stage against the one that the applied rate predicts",
        of=_stage_error,
    ),
)
