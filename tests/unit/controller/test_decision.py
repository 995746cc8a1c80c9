"""What a decision means when it takes force."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.contract import (
    ALL_ON_DEVICE,
    ALL_ON_EDGE,
    Cut,
    Decision,
    Scenario,
    UeDecision,
    Uploading,
    UploadPlan,
)
from controller.model.decision import MIN_SPEED_RATIO, InvalidDecisionError, bootstrap_decision, enforce
from controller.policies.examples import example_scenario


def _decision(shares: list[float], cuts: list[tuple[str, ...]], speed: float = 0.1) -> Decision:
    """Shares are parts of every total."""
    scenario = example_scenario(len(shares))
    return Decision(
        sequence=99,
        slot=4,
        valid_from_seconds=2.0,
        ues=tuple(
            UeDecision(
                name=ue.name,
                cut=cut,
                device_speed=speed,
                spectrum_up_hz=share * scenario.radio.uplink_hz,
                spectrum_down_hz=share * scenario.radio.downlink_hz,
                edge_share=share * scenario.edge.cpus,
            )
            for ue, share, cut in zip(scenario.ues, shares, cuts, strict=True)
        ),
    )


@st.composite
def _asked(draw: st.DrawFn) -> tuple[list[float], list[tuple[str, ...]]]:
    """Shares that sum to no more than 1, 0 only where the cut is local."""
    count = draw(st.integers(1, 40))
    local = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    weights = draw(st.lists(st.floats(1e-3, 1.0), min_size=count, max_size=count))
    greed = draw(st.lists(st.booleans(), min_size=count, max_size=count))  # a local UE may ask too
    used = [
        weight if not is_local or asks else 0.0 for weight, is_local, asks in zip(weights, local, greed, strict=True)
    ]
    total = sum(used) / draw(st.floats(0.1, 1.0)) or 1.0
    return [weight / total for weight in used], [ALL_ON_DEVICE if is_local else ALL_ON_EDGE for is_local in local]


@given(_asked())
@settings(deadline=None)
def test_shares_are_as_asked_where_nothing_is_under_way(asked: tuple[list[float], list[tuple[str, ...]]]) -> None:
    shares, cuts = asked
    scenario = example_scenario(len(shares))
    ues = enforce(scenario, None, _decision(shares, cuts)).ues
    for key, total in (
        ("spectrum_up_hz", scenario.radio.uplink_hz),
        ("spectrum_down_hz", scenario.radio.downlink_hz),
        ("edge_share", scenario.edge.cpus),
    ):
        granted = [getattr(ue, key) / total for ue in ues]
        assert sum(granted) <= 1 + 1e-9
        scale = min(1.0, 1 / sum(shares)) if any(shares) else 1.0  # rounding of what was asked
        assert granted == pytest.approx([scale * share for share in shares])


def test_a_decision_with_room_to_spare_is_left_alone() -> None:
    asked = _decision([0.25, 0.5], [ALL_ON_EDGE, ("block3",)])
    assert enforce(example_scenario(2), None, asked).ues == asked.ues


@pytest.mark.parametrize(("asked", "speed"), [(0.0, MIN_SPEED_RATIO * 0.1), (0.05, 0.05), (7.0, 0.1)])
def test_speeds_are_clamped(asked: float, speed: float) -> None:
    decision = enforce(example_scenario(1), None, _decision([1.0], [ALL_ON_EDGE], asked))
    assert decision.ues[0].device_speed == pytest.approx(speed)


def test_numbers_and_order() -> None:
    scenario = example_scenario(3)
    asked = _decision([0.1, 0.2, 0.3], [ALL_ON_EDGE] * 3)
    shuffled = msgspec.structs.replace(asked, ues=asked.ues[::-1])
    first = enforce(scenario, None, shuffled)
    assert [ue.name for ue in first.ues] == ["ue0", "ue1", "ue2"]
    assert first.sequence == 0
    assert enforce(scenario, first, asked).sequence == 1
    assert (first.slot, first.valid_from_seconds) == (4, 2.0)


def test_sums_may_carry_rounding_only() -> None:
    scenario = example_scenario(3)
    shares = [1 / 3 + 1e-9] * 3
    ues = enforce(scenario, None, _decision(shares, [ALL_ON_EDGE] * 3)).ues
    assert sum(ue.edge_share for ue in ues) <= scenario.edge.cpus * (1 + 1e-12)
    with pytest.raises(InvalidDecisionError, match=r"the sum of edge_share is .* above the total of 0.8"):
        enforce(scenario, None, _decision([0.34] * 3, [ALL_ON_EDGE] * 3))


def test_what_a_cut_needs_must_be_given() -> None:
    with pytest.raises(InvalidDecisionError, match="ue1: cut 'block3' needs spectrum_up_hz above 0"):
        enforce(example_scenario(2), None, _decision([1.0, 0.0], [ALL_ON_EDGE, ("block3",)]))


def test_the_first_decision_is_valid_and_local() -> None:
    scenario = example_scenario(7)
    decision = bootstrap_decision(scenario, 3.0)
    assert {ue.cut for ue in decision.ues} == {ALL_ON_DEVICE}
    assert [ue.edge_share for ue in enforce(scenario, None, decision).ues] == pytest.approx(
        [scenario.edge.cpus / 7] * 7
    )


def _alternating(scenario: Scenario, cut: Cut = ALL_ON_EDGE, **changes: Any) -> Decision:
    names = [node.name for node in scenario.ues[0].profile.nodes[1:]]
    plan = msgspec.structs.replace(UploadPlan(tuple(names[1::2]), (names[1],)), **changes)
    decision = _decision([0.5], [cut])
    ue = msgspec.structs.replace(decision.ues[0], uploading=plan)
    return msgspec.structs.replace(decision, ues=(ue,))


def test_a_plan_of_uploads_is_taken_where_the_edge_has_no_models() -> None:
    scenario = msgspec.structs.replace(example_scenario(1), uploading=Uploading("keep", 1000))
    decision = _alternating(scenario)
    taken = enforce(scenario, None, decision).ues[0]
    assert taken.uploading == decision.ues[0].uploading
    with pytest.raises(InvalidDecisionError, match="needs a lab with 'uploading'"):
        enforce(example_scenario(1), None, decision)


def test_a_plan_of_uploads_that_does_not_fit_the_graph_is_refused() -> None:
    scenario = msgspec.structs.replace(example_scenario(1), uploading=Uploading("keep", 1000))
    names = tuple(node.name for node in scenario.ues[0].profile.nodes[1:])
    free = next(node.name for node in scenario.ues[0].profile.nodes if not node.parameter_bytes)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"edge_nodes": ("input", *names)}, "nodes but the input"),
        ({"edge_nodes": names[::-1]}, "in the profile's order"),
        ({"edge_nodes": (names[0],) * 2}, "each once"),
        ({"edge_nodes": ("cloud",)}, "got cloud"),
        ({"cut": ALL_ON_DEVICE}, "edge_nodes use the edge"),
        ({"uploads": (names[1],) * 2}, "each once"),
        ({"uploads": (free,)}, free),
    ]
    for changes, text in cases:
        with pytest.raises(InvalidDecisionError, match=text):
            enforce(scenario, None, _alternating(scenario, **changes))
