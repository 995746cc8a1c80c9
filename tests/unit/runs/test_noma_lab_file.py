"""The shipped NOMA labs: what their keys become, and that superposing pays in the simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.contract import Scenario
from controller.policies import registry
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import simulate
from testbed.lab.simulate import channel_states
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve

LABS = Path(__file__).parents[3] / "topologies"
SLOTS = 6


def conditions(name: str, *overrides: str) -> tuple[Scenario, ChannelStates]:
    topology = load(LABS / name, overrides)
    seconds = SLOTS * topology.slot
    found = resolve(topology, name, LABS, seconds, lambda _text: None)
    return found.scenario, channel_states(topology, found.traces, seconds)


@pytest.mark.parametrize(("name", "ues", "subchannels"), [("noma.yaml", 6, 2), ("noma-64ues.yaml", 64, 16)])
def test_the_radio_of_a_lab(name: str, ues: int, subchannels: int) -> None:
    scenario, _ = conditions(name)
    assert scenario.radio.access == "noma"
    assert len(scenario.ues) == ues
    assert scenario.radio.users_per_subchannel * subchannels >= ues
    ratios = np.array([[ue.subchannel_ratios_up, ue.subchannel_ratios_down] for ue in scenario.ues])
    assert ratios.shape == (ues, 2, subchannels)
    assert len(np.unique(ratios)) == ratios.size
    assert scenario.radio.leakage_ratio == 0.0
    again, _ = conditions(name)
    assert again.ues == scenario.ues


@pytest.mark.parametrize("name", ["noma.yaml", "quickstart.yaml"])
def test_access_points_take_turns(name: str) -> None:
    scenario, _ = conditions(name, "radio.access_points=2", "radio.isolation=10 dB")
    assert [ue.access_point for ue in scenario.ues] == [0, 1, 0, 1, 0, 1][: len(scenario.ues)]
    assert scenario.radio.leakage_ratio == pytest.approx(0.1)


@pytest.mark.thorough
def test_superposing_serves_the_same_tasks_sooner() -> None:
    scenario, channel = conditions("noma.yaml")
    delays = {}
    for name in ("li-gd", "li-gd-ofdma", "device-only"):
        result = simulate(scenario, registry.create(name), SLOTS, 11, channel=channel)
        assert result.tasks is not None
        delays[name] = float(np.nanmean(result.tasks.delay_seconds))
    assert delays["li-gd"] < delays["li-gd-ofdma"] < delays["device-only"]
