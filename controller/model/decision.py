"""What a decision means: the checks, and the shares for older tasks, that simulator and testbed both apply to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.contract import (
    ALL_ON_DEVICE,
    Decision,
    Observation,
    Scenario,
    UeDecision,
    UeName,
    UeScenario,
    UploadPlan,
    cut_label,
)
from controller.model.cuts import check_cut
from controller.model.older_tasks import Parts, limited, needs_edge, parts_for_older_tasks
from controller.model.radio import DIRECTIONS, Direction, by_station, holdings, is_coupled, sharers_of, stations_of

#: Rounding that a sum of shares may carry.
SUM_TOLERANCE = 1e-6

#: A speed of 0 would never end a head that has begun: the slowest speed, as a part of the UE's maximum.
MIN_SPEED_RATIO = 0.01


class InvalidDecisionError(ValueError):
    """A policy's decision breaks the contract; the message says which UE, which field, the value, what is allowed."""


def enforce(
    scenario: Scenario, previous: Decision | None, decision: Decision, observation: Observation | None = None
) -> Decision:
    """The decision that takes force when a policy asks for ``decision`` while ``previous`` is in force.

    Pure. The result lists the UEs in the scenario's order and carries the sequence number after ``previous``'s
    (0 without one); slot and valid-from are the policy's. Then

    - a UE whose cut needs no spectrum and no edge gets at least what its older tasks need that ``observation`` (None:
      there are none) shows in its queues: see :mod:`controller.model.older_tasks`; under NOMA in a band of its own,
      unless it names subchannels. Where the sum then exceeds the total, all are scaled down to it;
    - a speed is clamped to ``[MIN_SPEED_RATIO, 1] x max_speed``.

    Raises InvalidDecisionError for powers above a UE's or its base station's, a UE that is missing, unknown or named
    twice, a cut that is unknown or not canonical, a number that is negative or not finite, a cut that needs what it is
    not given, an unknown codec, sums above the totals, subchannels that are not there, not superposed in this radio, or
    hold too many UEs, and plans of uploads that do not fit the graph, or for an edge that has its models already.
    """
    decided = _by_name(scenario, decision)
    checked = [_check_ue(ue, decided[ue.name]) for ue in scenario.ues]
    for ue, choice in zip(scenario.ues, checked, strict=True):
        if choice.uploading is not None:
            _check_uploading(scenario, ue, choice, choice.uploading)
    _check_downlink_power(scenario, checked)
    older = parts_for_older_tasks(scenario, previous, checked, observation)
    shares = _share([ue.edge_share for ue in checked], older.edge, scenario.edge.cpus, "edge_share")
    ups = [ue.spectrum_up_hz for ue in checked]
    downs = [ue.spectrum_down_hz for ue in checked]
    # who is superposed uses all that bands of UEs' own leave
    on_all_up = [bool(ue.subchannels_up and not ue.spectrum_up_hz) for ue in checked]
    on_all_down = [bool(ue.subchannels_down and not ue.spectrum_down_hz) for ue in checked]
    ups = _share_spectrum(scenario, ups, older.up, scenario.radio.uplink_hz, "spectrum_up_hz", on_all_up)
    downs = _share_spectrum(scenario, downs, older.down, scenario.radio.downlink_hz, "spectrum_down_hz", on_all_down)
    if is_coupled(scenario.radio):
        ups, downs = (
            _fit_subchannels(scenario, checked, values, direction)
            for values, direction in zip((ups, downs), DIRECTIONS, strict=True)
        )
    ues = tuple(
        msgspec.structs.replace(ue, spectrum_up_hz=up, spectrum_down_hz=down, edge_share=share)
        for ue, up, down, share in zip(checked, ups, downs, shares, strict=True)
    )
    sequence = 0 if previous is None else previous.sequence + 1
    return msgspec.structs.replace(decision, sequence=sequence, ues=ues)


def bootstrap_decision(scenario: Scenario, valid_from_seconds: float) -> Decision:
    """In force until the first decision of a policy: everything on the device, equal shares, sequence 0."""
    count = len(scenario.ues)
    sharers = sharers_of(scenario).tolist()
    return Decision(
        sequence=0,
        slot=0,
        valid_from_seconds=valid_from_seconds,
        ues=tuple(
            UeDecision(
                name=ue.name,
                cut=ALL_ON_DEVICE,
                device_speed=ue.max_speed,
                spectrum_up_hz=scenario.radio.uplink_hz / among,
                spectrum_down_hz=scenario.radio.downlink_hz / among,
                edge_share=scenario.edge.cpus / count,
            )
            for ue, among in zip(scenario.ues, sharers, strict=True)
        ),
    )


def _by_name(scenario: Scenario, decision: Decision) -> Mapping[UeName, UeDecision]:
    if not isinstance(decision, Decision):
        raise InvalidDecisionError(f"decide() must return a Decision, got {type(decision).__name__}")
    decided = {ue.name: ue for ue in decision.ues}
    known = [ue.name for ue in scenario.ues]
    if len(decided) != len(decision.ues):
        raise InvalidDecisionError(f"a UE is decided twice: {', '.join(ue.name for ue in decision.ues)}")
    if set(decided) != set(known):
        raise InvalidDecisionError(f"decided UEs are {', '.join(decided) or 'none'}; they must be {', '.join(known)}")
    return decided


def _check_ue(ue: UeScenario, choice: UeDecision) -> UeDecision:
    """The choice with plain floats and a clamped speed."""
    where = f"{ue.name}"
    speed = _number(choice.device_speed, where, "device_speed")
    up = _number(choice.spectrum_up_hz, where, "spectrum_up_hz")
    down = _number(choice.spectrum_down_hz, where, "spectrum_down_hz")
    share = _number(choice.edge_share, where, "edge_share")
    # The profile's chain cuts are canonical by construction; every other cut is checked on the graph.
    if choice.cut not in ue.profile.chain_cuts:
        try:
            check_cut(ue.profile.nodes, choice.cut)
        except ValueError as error:
            raise InvalidDecisionError(f"{where}: cut {choice.cut!r} is refused: {error}") from error
    if needs_edge(choice):
        needs = {"spectrum_up_hz": up, "spectrum_down_hz": down, "edge_share": share}
        if choice.subchannels_up:
            del needs["spectrum_up_hz"]
        if choice.subchannels_down:
            del needs["spectrum_down_hz"]
        for key, value in needs.items():
            if value == 0:
                raise InvalidDecisionError(f"{where}: cut {cut_label(choice.cut)!r} needs {key} above 0, got 0")
    known = ue.boundary_codecs
    if choice.codec is not None and choice.codec not in known:
        raise InvalidDecisionError(f"{where}: codec {choice.codec!r} is not this lab's; allowed: {', '.join(known)}")
    if choice.stop_rule:
        _check_stop_rule(ue, choice)
    watts, down_watts = choice.transmit_watts, choice.downlink_watts
    if watts is not None and watts > ue.transmit_watts * (1 + SUM_TOLERANCE):
        raise InvalidDecisionError(f"{where}: transmit_watts {watts:g} is above its power of {ue.transmit_watts:g} W")
    return msgspec.structs.replace(
        choice,
        device_speed=min(max(speed, MIN_SPEED_RATIO * ue.max_speed), ue.max_speed),
        spectrum_up_hz=up,
        spectrum_down_hz=down,
        edge_share=share,
        transmit_watts=None if watts is None else _positive(watts, where, "transmit_watts"),
        downlink_watts=None if down_watts is None else _positive(down_watts, where, "downlink_watts"),
    )


def _check_stop_rule(ue: UeScenario, choice: UeDecision) -> None:
    """Single-tensor cuts in chain order, all before the decided one; thresholds from 0 (always) to inf (never)."""
    labels = [cut_label(cut) for cut in ue.profile.chain_cuts]
    last = cut_label(choice.cut)
    order = [label for label, _ in choice.stop_rule]
    known = [labels.index(label) for label in (*order, last) if label in labels]
    if len(known) != len(order) + 1 or known != sorted(set(known)):
        raise InvalidDecisionError(
            f"{ue.name}: stop_rule {', '.join(order)} must be single-tensor cuts in chain order before cut {last!r}; "
            f"the chain: {', '.join(labels)}"
        )
    for label, threshold in choice.stop_rule:
        if not float(threshold) >= 0:
            raise InvalidDecisionError(f"{ue.name}: the threshold at {label} must be 0 or more, got {threshold!r}")


def _check_uploading(scenario: Scenario, ue: UeScenario, choice: UeDecision, plan: UploadPlan) -> None:
    """Nodes in the graph's order; uploads of nodes that have parameters, each once."""
    if scenario.uploading is None:
        raise InvalidDecisionError(f"{ue.name}: 'uploading' needs a lab with 'uploading'; this one has a cut only")
    known = [node.name for node in ue.profile.nodes[1:] if node.name in set(plan.edge_nodes)]
    if list(plan.edge_nodes) != known:
        raise InvalidDecisionError(
            f"{ue.name}: edge_nodes must be nodes but the input, each once, in the profile's order; "
            f"got {', '.join(plan.edge_nodes)}"
        )
    if plan.edge_nodes and choice.cut == ALL_ON_DEVICE:
        raise InvalidDecisionError(f"{ue.name}: edge_nodes use the edge, and the cut is (): set it to ('input',)")
    loaded = {node.name for node in ue.profile.nodes if node.parameter_bytes}
    strange = [name for name in plan.uploads if name not in loaded]
    if strange or len(set(plan.uploads)) != len(plan.uploads):
        raise InvalidDecisionError(
            f"{ue.name}: uploads must be nodes with parameters, each once; got {', '.join(strange or plan.uploads)}"
        )


def _number(value: float, where: str, key: str) -> float:
    """``value`` as a plain float (policies hand over numpy scalars, which no message can carry)."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidDecisionError(f"{where}: {key} must be a number, got {value!r}") from error
    if not math.isfinite(number) or number < 0:
        raise InvalidDecisionError(f"{where}: {key} must be finite and not negative, got {number}")
    return number


def _positive(value: float, where: str, key: str) -> float:
    number = _number(value, where, key)
    if number == 0:
        raise InvalidDecisionError(f"{where}: {key} must be above 0 (a decided rate is never 0), got 0")
    return number


def _check_downlink_power(scenario: Scenario, choices: list[UeDecision]) -> None:
    """What each base station sends to the UEs whose power is decided; the others' is a part of it by their spectrum."""
    most = scenario.radio.downlink_power_watts
    sums: dict[int, float] = {}
    for ue, choice in zip(scenario.ues, choices, strict=True):
        sums[ue.access_point] = sums.get(ue.access_point, 0.0) + (choice.downlink_watts or 0.0)
    for point, watts in sums.items():
        if watts > most * (1 + SUM_TOLERANCE):
            where = f" of access point {point}" if scenario.radio.access_points > 1 else ""
            raise InvalidDecisionError(f"downlink_watts{where} sum to {watts:g}, above the base station's {most:g} W")


def _share_spectrum(
    scenario: Scenario, values: list[float], older: Parts, total: float, key: str, superposed: list[bool]
) -> list[float]:
    """:func:`_share` at each access point: all of the spectrum is there for its own UEs."""
    stations = stations_of(scenario)
    result = list(values)
    for station in sorted(set(stations.tolist())):
        members = np.flatnonzero(stations == station)
        where = f"{key} at access point {station}" if scenario.radio.access_points > 1 else key
        shares = _share(
            [values[index] for index in members],
            Parts(older.wanted[members], older.least[members]),
            total,
            where,
            free=not any(superposed[index] for index in members),
        )
        for index, share in zip(members.tolist(), shares, strict=True):
            result[index] = share
    return result


def _share(values: list[float], older: Parts, total: float, key: str, free: bool = True) -> list[float]:
    """At least the parts for older tasks; all scaled down where that does not fit. ``free``: what is not asked is."""
    asked = sum(values)
    if asked > total * (1 + SUM_TOLERANCE):
        raise InvalidDecisionError(f"the sum of {key} is {asked:g}, above the total of {total:g}")
    parts = limited(older, asked / total if free else 1.0)
    raised = [max(value, part * total) for value, part in zip(values, parts.tolist(), strict=True)]
    scale = min(1.0, total / sum(raised)) if sum(raised) > 0 else 1.0
    return [value * scale for value in raised]


def _fit_subchannels(
    scenario: Scenario, choices: list[UeDecision], spectrum_hz: list[float], direction: Direction
) -> list[float]:
    """Bands of UEs' own, scaled down where they do not fit into a subchannel with what older tasks added."""
    asked = {str(choice.name): choice for choice in choices}
    granted = {
        str(choice.name): msgspec.structs.replace(choice, **{f"spectrum_{direction}_hz": hz})
        for choice, hz in zip(choices, spectrum_hz, strict=True)
    }
    try:
        before, after = holdings(scenario, asked, direction), holdings(scenario, granted, direction)
    except ValueError as error:
        raise InvalidDecisionError(str(error)) from error
    width = before.subchannel_hz
    for taken in by_station(scenario, before.own_hz):
        load = taken / width
        if load.max() > 1 + SUM_TOLERANCE:
            raise InvalidDecisionError(f"bands on subchannel {int(load.argmax())} sum to {load.max():.3g} of its width")
    if before.superposed.any():
        _check_superposed(scenario, before.superposed, f"subchannels_{direction}")
        crowded = (before.superposed & (after.left_hz <= 0)).any(axis=0)
        if crowded.any():
            raise InvalidDecisionError(f"bands of UEs' own leave nothing of subchannel {int(crowded.argmax())}")
    scales = [min(1.0, width / max(float(taken.max()), 1e-300)) for taken in by_station(scenario, after.own_hz)]
    return [hz * scales[ue.access_point] for ue, hz in zip(scenario.ues, spectrum_hz, strict=True)]


def _check_superposed(scenario: Scenario, superposed: NDArray[np.bool_], key: str) -> None:
    radio = scenario.radio
    if radio.access != "noma":
        raise InvalidDecisionError(f"{key} without a band of the UE's own: access {radio.access!r} superposes nobody")
    for index, ue in enumerate(scenario.ues):
        if superposed[index].any() and ue.channel_kind == "rate":
            raise InvalidDecisionError(f"{ue.name}: a channel of kind 'rate' has no gain and cannot be superposed")
    points = stations_of(scenario)
    for point in set(points.tolist()):
        users = superposed[points == point].sum(axis=0)
        if users.max() > radio.users_per_subchannel:
            raise InvalidDecisionError(
                f"{key}: {int(users.max())} UEs are superposed on subchannel {int(users.argmax())}; "
                f"allowed: {radio.users_per_subchannel}"
            )
