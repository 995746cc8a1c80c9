"""What the keys of placement make of a lab: the scenario that policies know, and the trace that wires replay."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from controller.contract import ShadowingLaw
from controller.policies.placement import StaticSplit
from testbed.errors import InputError
from testbed.lab.plan import STAGE_PEAK, wire_of
from testbed.labfile.channels import make_traces
from testbed.labfile.lab_files import check_policy
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve

LAB = Path(__file__).parents[3] / "topologies" / "placement.yaml"


def test_the_scenario_knows_the_law_and_how_many_tasks_a_version_serves() -> None:
    scenario = resolve(load(LAB), str(LAB), LAB.parent, 10.0, lambda _: None).scenario
    for ue in scenario.ues:
        assert (ue.channel_refresh, ue.fading, ue.gain_floor_ratio) == ("per_task_stage", "rayleigh", 0.05)
        assert ue.inferences_per_version == pytest.approx(0.5 * 20)


def test_without_retraining_the_first_version_serves_for_ever() -> None:
    topology = load(LAB, ["retraining=null"])
    scenario = resolve(topology, str(LAB), LAB.parent, 10.0, lambda _: None).scenario
    assert all(math.isinf(ue.inferences_per_version) for ue in scenario.ues)


def test_the_trace_of_a_channel_that_is_drawn_per_stage_is_its_mean_and_the_wire_has_room_for_its_peaks() -> None:
    drawn, timed = load(LAB), load(LAB, ["ues.0.channel={fading: static, distance: 500 m}"])
    traces = make_traces(drawn, 10.0)
    for ue in drawn.expand():
        assert np.unique(traces[ue.name].up).size == 1
    mean = float(traces["ue1"].up[0])
    ue_drawn, ue_timed = drawn.expand()[0], timed.expand()[0]
    assert wire_of(drawn, ue_drawn, mean) == wire_of(timed, ue_timed, STAGE_PEAK * mean)


def test_shadowing_and_the_steps_of_the_wire_are_part_of_the_law_that_policies_know() -> None:
    channel = "ues.0.channel={fading: rayleigh, distance: 500 m, step: 20 ms, shadowing: {sigma: 8 dB, rho: 0.9}}"
    scenario = resolve(load(LAB, [channel]), str(LAB), LAB.parent, 1.0, lambda _: None).scenario
    for ue in scenario.ues:
        assert (ue.shadowing, ue.channel_step_seconds) == (ShadowingLaw(8.0, 0.9), 0.02)
    assert scenario.retraining_interval_seconds == 20.0


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["ues.0.channel={trace: traces/drive.up, kind: rate}"], "allowed: fading static, rayleigh or rician"),
        (
            ["ues.0.channel={fading: static, distance: 500 m}", "radio.access=noma", "radio.subchannels=4"],
            "allowed: access ofdma with one subchannel",
        ),
    ],
)
def test_what_no_law_covers_is_refused_before_anything_is_started(overrides: list[str], text: str) -> None:
    topology = load(LAB, overrides)
    with pytest.raises(InputError, match="placement does not fit this lab") as refused:
        check_policy(topology, str(LAB))
    assert text in str(refused.value)


def test_one_cut_for_all_tasks_needs_no_law_and_promises_nothing_without_one() -> None:
    topology = load(LAB, ["ues.0.channel={trace: traces/drive.up, kind: rate}"])
    scenario = resolve(topology, str(LAB), LAB.parent, 1.0, lambda _: None).scenario
    policy = StaticSplit()
    policy.reset(scenario, 0)
    assert not [name for name in policy.state() if name.startswith("expected_cost")]
    assert policy.state()["placed_points.ue1"] >= 0
