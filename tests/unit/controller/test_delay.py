"""Stage times and energy of a task without queueing, against numbers worked out by hand."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from controller.contract import STAGES, Scenario
from controller.model.delay import chain_work, predict_stages, wire_bits
from controller.model.energy import compute_watts, predict_task_joules
from controller.policies.examples import example_scenario


def _with_delay() -> Scenario:
    scenario = example_scenario(1)
    ue = msgspec.structs.replace(scenario.ues[0], uplink_delay_seconds=0.01, downlink_delay_seconds=0.02)
    return msgspec.structs.replace(scenario, ues=(ue,))


def test_one_cut_by_hand() -> None:
    scenario = _with_delay()
    profile = scenario.ues[0].profile
    index = profile.chain_index(("block3",))
    stages = predict_stages(scenario, 0, index, 0.1, 0.4, 2e6, 8e6)
    sent = 100_352 / 4 + 160  # uint8 boundary and header
    assert stages["head"] == pytest.approx((0.0468 + 4e-10 * 100_352) / 0.1)
    assert stages["uplink"] == pytest.approx(0.01 + 8 * sent * 1514 / 1448 / 2e6)
    assert stages["tail"] == pytest.approx((0.0132 + 2e-10 * 100_352) / 0.4)
    assert stages["downlink"] == pytest.approx(0.02 + 8 * (4000 + 160) * 1514 / 1448 / 8e6)
    assert set(stages) < set(STAGES)


def test_the_local_cut_sends_nothing_and_the_edge_cut_computes_nothing() -> None:
    stages = predict_stages(_with_delay(), 0, [0, -1], 0.1, 0.4, 2e6, 8e6)
    assert stages["head"] == pytest.approx([0.0, 0.6])
    assert stages["uplink"][0] > 0.01
    assert [stages[name][1] for name in ("uplink", "tail", "downlink")] == [0.0, 0.0, 0.0]


def test_without_a_rate_or_a_share_only_the_local_cut_ends() -> None:
    stages = predict_stages(_with_delay(), 0, None, 0.1, 0.0, 0.0, 0.0)
    for name in ("uplink", "tail", "downlink"):
        assert np.isinf(stages[name][:-1]).all()
        assert stages[name][-1] == 0.0
    assert np.isfinite(stages["head"]).all()


def test_arguments_broadcast_over_cuts() -> None:
    work = chain_work(example_scenario(1), 0)
    speeds = np.linspace(0.02, 0.1, 5)[:, None]
    table = work.stages(speeds, 0.4, 2e6, 8e6)["head"]
    assert table.shape == (5, 8)
    assert table[1, 3] == work.stages(speeds[1, 0], 0.4, 2e6, 8e6, 3)["head"]


def test_another_codec_changes_the_boundaries_but_not_the_raw_input() -> None:
    scenario = example_scenario(1)
    uint8, fp32 = chain_work(scenario, 0), chain_work(scenario, 0, "fp32")
    assert uint8.up_bits[0] == fp32.up_bits[0] == wire_bits(scenario, 150_528)
    assert fp32.up_bits[3] == wire_bits(scenario, 401_408)
    assert uint8.up_bits[3] == wire_bits(scenario, 401_408 // 4)


def test_energy_by_hand() -> None:
    scenario = _with_delay()
    ue = scenario.ues[0]
    assert compute_watts(ue, [0.1, 0.05]) == pytest.approx([1.0, 0.125])  # the cube law
    compute, transmit = predict_task_joules(scenario, 0, [-1, 0], 0.05, 2e6)
    assert compute == pytest.approx([0.125 * 0.06 / 0.05, 0.0])
    assert transmit == pytest.approx([0.0, 0.3 * 8 * (150_528 + 160) * 1514 / 1448 / 2e6])  # no delay in it
    assert math.isinf(predict_task_joules(scenario, 0, 0, 0.05, 0.0)[1])
