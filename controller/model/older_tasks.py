"""What a UE keeps of spectrum and edge for tasks that are under way under an older cut: one rule for every policy.

A UE that turns to ``local`` may have tasks in its head, on its link and at the edge. It keeps a share only for what was
seen to be under way in that queue, sized so that it ends soon; a UE with nothing there holds nothing. Our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller.contract import (
    ALL_ON_DEVICE,
    ALL_ON_EDGE,
    Decision,
    Observation,
    Scenario,
    UeDecision,
    UeObservation,
    UeScenario,
)
from controller.model.delay import cut_codec, stage_work, wire_bits
from controller.model.radio import idle_bits_per_second, shannon_bits_per_second, sharers_of

Floats = NDArray[np.float64]

#: Part of a slot within which what is under way in a queue shall end.
DRAIN_RATIO = 0.025
#: Part of a resource that UEs keep for older tasks at most, all together; of what nobody asks for they may take more.
LARGEST_PART = 0.2
#: Part of the edge at which a tail runs that was not seen in time for its UE to hold a share. Seen next slot, if it has
#: not started by then.
STRAY_PART = 0.02
#: A rate under a wire's floor is an outage: what older tasks get is above it even where all shares are scaled down.
_SPARE_RATIO = 1.0 + LARGEST_PART
#: Of the iteration for the width of a band.
_STEPS = 6


class Parts(NamedTuple):
    """Parts of a resource that UEs keep, (UEs,) each."""

    wanted: Floats
    least: Floats  # less than this is no use: the UE does better to hold nothing


class OlderTasks(NamedTuple):
    up: Parts
    down: Parts
    edge: Parts


def needs_edge(choice: UeDecision) -> bool:
    """Whether a UE's next tasks may leave the device."""
    return choice.cut != ALL_ON_DEVICE or bool(choice.stop_rule)


def parts_for_older_tasks(
    scenario: Scenario, previous: Decision | None, choices: Sequence[UeDecision], observation: Observation | None
) -> OlderTasks:
    """The parts with which what is under way of UEs that are ``local`` now ends in time, before any limit.

    ``previous`` is the decision that was in force, ``choices`` those of the new one in the scenario's order. Without an
    observation nothing is under way.
    """
    parts = np.zeros((3, 2, len(scenario.ues)))
    if scenario.retraining_interval_seconds is not None:
        # a UE that computes alone fetches its model, and no observation tells when
        sharers = sharers_of(scenario)
        parts[1, 0] = [
            0.0 if needs_edge(choice) else LARGEST_PART / among for choice, among in zip(choices, sharers, strict=True)
        ]
    if observation is not None:
        seen = {ue.name: ue for ue in observation.ues}
        before = {} if previous is None else {choice.name: choice for choice in previous.ues}
        for index, (ue, choice) in enumerate(zip(scenario.ues, choices, strict=True)):
            if not needs_edge(choice) and ue.name in seen:
                own = _parts(scenario, ue, before.get(ue.name), seen[ue.name])
                parts[:, :, index] = np.maximum(parts[:, :, index], own)
                # superposed where it names subchannels, it needs no band of its own
                parts[0, :, index] *= not choice.subchannels_up
                parts[1, :, index] *= not choice.subchannels_down
    return OlderTasks(*(Parts(*rows) for rows in parts))


def limited(parts: Parts, asked: float) -> Floats:
    """What UEs get of a resource, (UEs,), beside the part of it that is asked for: together at most
    :data:`LARGEST_PART`, or what nobody asks for. The largest give way first."""
    limit = max(LARGEST_PART, 1.0 - asked)
    wanted = parts.wanted
    if wanted.sum() <= limit:
        return wanted
    ordered = np.sort(wanted)
    # with the k smallest as they are the others are cut to the same level
    levels = (limit - np.concatenate([[0.0], np.cumsum(ordered)[:-1]])) / np.arange(wanted.size, 0, -1)
    cut = np.minimum(wanted, levels[np.argmax(levels <= ordered)])
    return np.where(cut < parts.least, 0.0, cut)


def tail_share(choice: UeDecision, cpus: float) -> float:
    """Reference cores at which a tail runs that starts under a decision."""
    return choice.edge_share if choice.edge_share > 0 else STRAY_PART * cpus


def _parts(
    scenario: Scenario, ue: UeScenario, before: UeDecision | None, seen: UeObservation
) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """What one UE wants that is local now, and the least of it: up, down, edge.

    A task whose head has not started takes the new cut, and a tail that has started keeps its share. What is in flight
    and in no queue is in its head or its tail, as likely as each takes long; of a UE that was local before, it is
    taken for local. Nor is the cut of such a UE's older tasks known: their tails count as the whole model's.
    """
    turned = before is not None and needs_edge(before)
    queued = seen.tx_queue_tasks + seen.edge_queue_tasks
    working = max(seen.in_flight_tasks - seen.device_queue_tasks - queued, 0) if turned else 0
    if not queued + working:
        return (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)
    cut = before.cut if before is not None and turned else ALL_ON_EDGE
    codec = cut_codec(ue, cut, None if before is None else before.codec)
    head, tail = stage_work(ue.profile, cut, codec)
    up_bits, down_bits = wire_bits(scenario, [ue.profile.boundary_bytes(cut, codec), ue.profile.result_bytes])
    in_head = 0.0
    if before is not None and working:
        head_seconds = head / before.device_speed
        tail_seconds = tail / tail_share(before, scenario.edge.cpus)
        in_head = min(working * head_seconds / max(head_seconds + tail_seconds, 1e-9), 1.0)
    seconds = DRAIN_RATIO * scenario.slot_seconds
    up_rate = (8.0 * seen.tx_backlog_bytes + in_head * float(up_bits)) / seconds
    down_rate = (queued + working) * float(down_bits) / seconds
    radio, noise = scenario.radio, scenario.radio.noise_watts_per_hz
    up_gain, down_gain = float(np.mean(seen.gain_up)), float(np.mean(seen.gain_down))

    def carried_up(part: float) -> float:
        if ue.channel_kind == "rate":
            return part * up_gain
        return float(shannon_bits_per_second(part * radio.uplink_hz, ue.transmit_watts * up_gain, noise))

    def carried_down(part: float) -> float:
        """In proportion: the base station's power is spread evenly over its spectrum."""
        if ue.channel_kind == "rate":
            return part * down_gain
        return part * float(shannon_bits_per_second(radio.downlink_hz, radio.downlink_power_watts * down_gain, noise))

    return (
        _link_part(up_rate, ue, carried_up),
        _link_part(down_rate, ue, carried_down),
        ((queued + in_head) * tail / (scenario.edge.cpus * seconds), 0.0),
    )


def _link_part(rate: float, ue: UeScenario, carried: Callable[[float], float]) -> tuple[float, float]:
    """The part of the spectrum that carries ``rate`` bit/s, and the least that is no outage: sufficient, not exact.

    ``carried``: bit/s of a part. Nothing on a link that is in an outage even with all that older tasks may have: the
    next slot sees it again.
    """
    least_rate = _SPARE_RATIO * idle_bits_per_second(ue)

    def part_for(wanted: float) -> float:
        part = 1.0
        for _ in range(_STEPS):
            # the narrower the band the more each Hz carries: every step is wide enough, and nearer
            part *= min(wanted / carried(part), 1.0)
        return part

    if rate <= 0 or carried(LARGEST_PART) < least_rate:
        return 0.0, 0.0
    return part_for(max(rate, least_rate)), part_for(least_rate)
