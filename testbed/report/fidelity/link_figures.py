"""What the wires did against what they were told: rate by window, round trip at idle, losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from testbed.labfile.schema_links import LinkSpec
from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables, column
from testbed.report.fidelity.figure import Evidence, Figure, Headline, largest
from testbed.report.fidelity.intervals import ratio_interval
from testbed.report.fidelity.limits import NOT_MEASURED, Value
from testbed.report.fidelity.rates import AppliedRate, applied_rates
from testbed.report.fidelity.uplink import Transfers, transfers_of

DIRECTIONS = ("up", "down")
#: A link's rate is judged when it was saturated for at least this long in all, and a window's for so long in it.
SATURATED_SECONDS = 2.0
WINDOW_SATURATED_SECONDS = 1.0
WINDOW_SECONDS = 5.0
#: Windows grow with the run, so that its report stays readable.
MOST_WINDOWS = 24
#: For so long after an outage TCP, not the wire, may decide what is sent.
RECOVERY_SECONDS = 2.0
#: One way, of the delay that is configured: (at least, part of it). docs/fidelity.md says what was measured.
DELAY_TOLERANCES = {"htb+vde": (0.6e-3, 0.02)}
DELAY_TOLERANCE = (0.3e-3, 0.01)
#: What the report shows, and what makes a run invalid: with dozens of links one in a hundred is no news.
SHOWN_CONFIDENCE = 0.99
JUDGED_MISS = 1e-4


class RateWindow(msgspec.Struct, frozen=True):
    """A part of a run on one link. Rates are of layer 2; what was sent includes acknowledgements."""

    start_seconds: float  # since the first task's arrival
    seconds: float
    commanded_bits_per_second: float  # mean
    sent_bits_per_second: float
    saturated_seconds: float
    rate_error: Value  # while saturated


class LossFidelity(msgspec.Struct, frozen=True):
    commanded_ratio: float
    measured_ratio: float
    interval_99: tuple[float, float]  # Clopper-Pearson; of independent packets, or as many bursts
    packets: int
    ok: bool


class LinkFidelity(msgspec.Struct, frozen=True):
    """One direction of one wire."""

    commanded_bits_per_second: float  # mean over the run
    sent_bits_per_second: float
    saturated_seconds: float
    rate_error: Value
    worst_window_error: Value
    windows: list[RateWindow]
    loss: LossFidelity | None  # None: no loss was ordered, or it changed


class RoundTripFidelity(msgspec.Struct, frozen=True):
    """One wire, there and back, before the first task."""

    sent: int
    answered: int
    measured_seconds: Value  # median; with jitter the mean
    configured_seconds: float
    tolerance_seconds: float
    error: Value  # |measured - configured| / tolerance
    judged: bool  # not in an outage, which an idle wire cannot tell from a long delay


def link_specs(manifest: Manifest) -> dict[str, LinkSpec]:
    """What the lab file says of each UE's link; UEs whose entry cannot be read are left out."""
    found: dict[str, LinkSpec] = {}
    groups: list[dict[str, Any]] = manifest.resolved_lab.get("ues", [])
    for group in groups:
        try:
            spec = LinkSpec.model_validate(group.get("link", {}))
        except ValidationError:
            continue
        count = group.get("count", 1)
        names = [group["name"]] if count == 1 else [f"{group['name']}{number + 1}" for number in range(count)]
        found |= dict.fromkeys(names, spec)
    return found


def links_of(tables: RunTables, manifest: Manifest, specs: Mapping[str, LinkSpec]) -> dict[str, LinkFidelity]:
    """By "UE DIRECTION"."""
    arrivals = column(tables.tasks, "arrival_seconds")
    if not len(arrivals) or not len(tables.links):
        return {}
    start = float(arrivals.min())
    seconds = max(float(arrivals.max()) - start, WINDOW_SECONDS)
    edges = start + np.linspace(0.0, seconds, _window_count(seconds) + 1)
    found = {}
    for direction in DIRECTIONS:
        for ue, rate in applied_rates(tables.links, direction).items():
            spec = specs.get(ue, LinkSpec())
            transfers = _saturated(tables, ue, rate, spec) if direction == "up" else None
            windows = list(_windows(tables, ue, direction, rate, edges, transfers))
            errors = [float(window.rate_error) for window in windows if window.rate_error != NOT_MEASURED]
            found[f"{ue} {direction}"] = LinkFidelity(
                commanded_bits_per_second=_mean_rate(rate, start, start + seconds),
                sent_bits_per_second=float(np.mean([window.sent_bits_per_second for window in windows])),
                saturated_seconds=0.0 if transfers is None else float(transfers.seconds.sum()),
                rate_error=NOT_MEASURED if transfers is None else _rate_error(transfers, SATURATED_SECONDS),
                worst_window_error=max(errors, default=NOT_MEASURED),
                windows=windows,
                loss=_loss(tables, ue, direction, spec),
            )
    return found


def _window_count(seconds: float) -> int:
    return int(np.clip(seconds // WINDOW_SECONDS, 1, MOST_WINDOWS))


def _saturated(tables: RunTables, ue: str, rate: AppliedRate, spec: LinkSpec) -> Transfers | None:
    """Transfers that followed their predecessor without a gap, away from outages; None on a wire that loses packets.

    There the link was busy from one end stamp to the next, so neither a program's latency nor the first frame, which
    HTB lets go at once, is part of what is compared.
    """
    links = tables.links.filter((column(tables.links, "ue") == ue) & (column(tables.links, "direction") == "up"))
    if (column(links, "loss_ratio").astype(np.float64) > 0).any():
        return None
    transfers = transfers_of(tables, ue, rate)
    steps = column(links, "applied_seconds")
    out = steps[column(links, "planned_bits_per_second") < spec.floor]
    clear = np.ones(len(transfers.start), dtype=bool)
    for when in out:
        clear &= (transfers.end < when) | (transfers.start > when + RECOVERY_SECONDS)
    return transfers.where(transfers.follows & clear)


def _rate_error(transfers: Transfers, at_least_seconds: float) -> Value:
    integral = float(transfers.integral_bits.sum())
    if float(transfers.seconds.sum()) < at_least_seconds or not integral:
        return NOT_MEASURED
    return abs(float(transfers.bits.sum()) / integral - 1.0)


def _mean_rate(rate: AppliedRate, start: float, end: float) -> float:
    return float(rate.bits_between(start, end)) / (end - start)


def _windows(
    tables: RunTables,
    ue: str,
    direction: str,
    rate: AppliedRate,
    edges: NDArray[np.float64],
    transfers: Transfers | None,
) -> list[RateWindow]:
    drops = tables.drops.filter((column(tables.drops, "ue") == ue) & (column(tables.drops, "direction") == direction))
    times = column(drops, "monotonic_seconds")
    sent = np.cumsum(column(drops, "sent_bytes").astype(np.float64)) * 8.0
    at_edges = np.interp(edges, times, sent) if len(times) else np.zeros(len(edges))
    windows = []
    for number in range(len(edges) - 1):
        start, end = float(edges[number]), float(edges[number + 1])
        mine = None if transfers is None else transfers.where((transfers.end > start) & (transfers.end <= end))
        windows.append(
            RateWindow(
                start_seconds=start - float(edges[0]),
                seconds=end - start,
                commanded_bits_per_second=_mean_rate(rate, start, end),
                sent_bits_per_second=float(at_edges[number + 1] - at_edges[number]) / (end - start),
                saturated_seconds=0.0 if mine is None else float(mine.seconds.sum()),
                rate_error=NOT_MEASURED if mine is None else _rate_error(mine, WINDOW_SATURATED_SECONDS),
            )
        )
    return windows


# --------------------------------------------------------------------------------------------------------------- losses


def _loss(tables: RunTables, ue: str, direction: str, spec: LinkSpec) -> LossFidelity | None:
    """By the kernel's (or the filter's) own counters, if one loss was ordered for the whole run."""
    links = tables.links.filter((column(tables.links, "ue") == ue) & (column(tables.links, "direction") == direction))
    ordered = column(links, "loss_ratio").astype(np.float64)
    out = column(links, "planned_bits_per_second") < spec.floor
    if not len(ordered) or not ordered[0] or np.ptp(ordered) > 0 or spec.duplicate or (out.any() and _drops_all(spec)):
        return None
    drops = tables.drops.filter((column(tables.drops, "ue") == ue) & (column(tables.drops, "direction") == direction))
    lost = max(0, int(column(drops, "lost_packets").sum()))
    packets = lost + int(column(drops, "sent_packets").sum())
    if not packets:
        return None
    commanded = float(ordered[0])
    return loss_fidelity(lost, packets, commanded, burst_length_of(spec))


def _drops_all(spec: LinkSpec) -> bool:
    return spec.outage == "loss"


def burst_length_of(spec: LinkSpec) -> float:
    """By how much the losses of a Gilbert-Elliott chain vary more than as many independent ones.

    The sum of a two-state chain with transition probabilities p and r has the variance of independent draws times
    (2 - p - r) / (p + r).
    """
    bursts = spec.gilbert_elliott
    return 1.0 if bursts is None else max(1.0, (2 - bursts.p - bursts.r) / (bursts.p + bursts.r))


def loss_fidelity(lost: int, packets: int, commanded_ratio: float, spread: float = 1.0) -> LossFidelity:
    """A share of lost packets with its interval. ``spread``: the variance over that of independent losses.

    >>> loss_fidelity(10, 1000, 0.01).ok
    True
    >>> loss_fidelity(50, 1000, 0.01).ok
    False
    """
    draws = max(1, round(packets / spread))
    independent = min(draws, round(lost / spread))
    low, high = ratio_interval(independent, draws, 1 - JUDGED_MISS)
    return LossFidelity(
        commanded_ratio=commanded_ratio,
        measured_ratio=lost / packets,
        interval_99=ratio_interval(independent, draws, SHOWN_CONFIDENCE),
        packets=packets,
        ok=low <= commanded_ratio <= high,
    )


# ---------------------------------------------------------------------------------------------------------- round trips


def round_trips_of(
    tables: RunTables, manifest: Manifest, specs: Mapping[str, LinkSpec]
) -> dict[str, RoundTripFidelity]:
    """By UE; the last measurement of each."""
    least, part = DELAY_TOLERANCES.get(manifest.link_backend, DELAY_TOLERANCE)
    found = {}
    for row in tables.round_trips.to_pylist():
        spec = specs.get(row["ue"], LinkSpec())
        jitter, answered, configured = row["jitter_seconds"], row["answered"], row["configured_seconds"]
        tolerance = max(2 * least, part * configured) + 4 * jitter / max(answered, 1) ** 0.5
        measured: Value = NOT_MEASURED
        if answered:
            measured = float(row["mean_seconds" if jitter else "median_seconds"])
        found[row["ue"]] = RoundTripFidelity(
            sent=row["sent"],
            answered=answered,
            measured_seconds=measured,
            configured_seconds=configured,
            tolerance_seconds=tolerance,
            error=NOT_MEASURED if measured == NOT_MEASURED else abs(float(measured) - configured) / tolerance,
            judged=not _starts_in_outage(tables, row["ue"], spec),
        )
    return found


def _starts_in_outage(tables: RunTables, ue: str, spec: LinkSpec) -> bool:
    links = tables.links.filter(column(tables.links, "ue") == ue)
    planned = column(links, "planned_bits_per_second")
    return bool((planned[:2] < spec.floor).any())  # both directions of the first step


def unanswered(round_trips: Mapping[str, RoundTripFidelity], specs: Mapping[str, LinkSpec]) -> Value:
    """Echoes that did not come back through wires that lose nothing on purpose."""
    judged = [
        trip.sent - trip.answered
        for ue, trip in round_trips.items()
        if trip.judged and not _loses(specs.get(ue, LinkSpec()))
    ]
    return float(sum(judged)) if judged else NOT_MEASURED


def _loses(spec: LinkSpec) -> bool:
    return bool(spec.loss or spec.gilbert_elliott or spec.loss_trace or spec.corrupt)


# -------------------------------------------------------------------------------------------------------------- figures


def _specs(run: Evidence) -> dict[str, LinkSpec]:
    return link_specs(run.manifest)


def links(run: Evidence) -> dict[str, LinkFidelity]:
    return links_of(run.tables, run.manifest, run.once(_specs))


def round_trips(run: Evidence) -> dict[str, RoundTripFidelity]:
    return round_trips_of(run.tables, run.manifest, run.once(_specs))


def _losses_off(run: Evidence) -> Value:
    losses = [link.loss for link in run.once(links).values() if link.loss is not None]
    return float(sum(not loss.ok for loss in losses)) if losses else NOT_MEASURED


LINK_FIGURES = (
    Figure(
        "rate_error",
        "ratio",
        "achieved uplink rate against the commanded one while transfers were back to back, of the worst link",
        of=lambda run: largest(link.rate_error for link in run.once(links).values()),
        limit=0.01,
        why="measured: 0.002-0.05 % on saturated links; Mininet's own test accepts 20 %",
        timed=True,
        headline=Headline(0, "rate {} off"),
    ),
    Figure(
        "rate_window_error",
        "ratio",
        "the same in the worst window of 5 s (longer in a long run)",
        of=lambda run: largest(link.worst_window_error for link in run.once(links).values()),
        limit=0.05,
        why="a host that stands still for 50 ms costs a window of 1 saturated second as much: HTB repays only its"
        " bucket (0.5 ms)",
        timed=True,
    ),
    Figure(
        "round_trip_error",
        "ratio",
        "round trip of an idle wire minus its configured delay, as a part of the tolerance; of the worst wire",
        of=lambda run: largest(trip.error for trip in run.once(round_trips).values() if trip.judged),
        limit=1.0,
        why="the tolerance: each way 0.3 ms or 1 % (netem, and wires without delay), 0.6 ms or 2 % (vde); with jitter"
        " four standard errors more",
        timed=True,
        headline=Headline(5, "idle round trip {} of its tolerance"),
    ),
    Figure(
        "echoes_lost",
        "count",
        "echoes that an idle wire lost though no loss was asked for",
        of=lambda run: unanswered(run.once(round_trips), run.once(_specs)),
        limit=0.0,
    ),
    Figure(
        "losses_off",
        "count",
        "directions of wires whose ordered loss lies outside the interval of the measured one",
        of=_losses_off,
        limit=0.0,
    ),
)
