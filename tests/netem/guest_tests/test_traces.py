"""Traces on wires with a netem child, at rates that one core of a guest can fill on two or three wires at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from controller.model.channel import Channel
from controller.policies.examples import example_scenario
from testbed.runtime.host.pauses import PauseProbe
from testbed.traces import Trace, generate, read_mahimahi
from testbed.wires.impairment import Impairment
from testbed.wires.wire import WireSpec
from tests.emulation.links_lab import PlayerRun, play_on_full_wires, rate_scenario, wired
from tests.emulation.test_player import TRACE, decision

pytestmark = [pytest.mark.root, pytest.mark.netem]

DELAY = Impairment(delay_seconds=5e-3)


@pytest.mark.quiet
def test_changing_rates_of_three_full_wires_are_kept_beside_a_delay(tmp_path: Path) -> None:
    """Rayleigh fading at 10 Hz, about 3 Mbit/s each: over each second and over all."""
    scenario = example_scenario(3)
    radio = msgspec.structs.replace(scenario.radio, uplink_hz=1e6, downlink_hz=1e6)
    scenario = msgspec.structs.replace(scenario, radio=radio)
    generated = generate([Channel(150.0, "rayleigh", 0.5)] * 3, 20.0, seed=1)
    specs = [WireSpec(index, f"ue{index}", 5e6, 5e6, up=DELAY, down=DELAY, seed=index) for index in range(3)]
    traces = {wire.ue: trace for wire, trace in zip(specs, generated, strict=True)}
    with wired("guest-three", specs) as lab, PlayerRun(lab, tmp_path, scenario, traces) as run:
        # waking more often would take the guest's one core from the wires
        carried = play_on_full_wires(run, 8.0, probe=PauseProbe(period_seconds=5e-3))
    carried.check(0.5, 7.5)
    for ue, counter in carried.counters.items():  # whatever the guest slept through
        start, end, bits = counter.between(carried.origin_seconds + 0.5, carried.origin_seconds + 7.5)
        assert bits == pytest.approx(float(carried.applied[ue].bits_between(start, end)), rel=0.01)


def part(trace: Trace, begin_seconds: float) -> Trace:
    """What a looped trace plays from a time on that a step begins at."""
    first = int(np.searchsorted(trace.times_seconds, begin_seconds - 1e-9))
    return replace(trace, up=np.roll(trace.up, -first), down=np.roll(trace.down, -first))


@pytest.mark.quiet
def test_a_recorded_trace_carries_its_bytes_beside_a_delay(tmp_path: Path) -> None:
    """The trace that labs are shipped with, on two full wires that are at different places of it: over every 5 s."""
    names, seconds = ["ue0", "ue1"], 6.0
    scenario = rate_scenario(names)
    traces = dict(zip(names, (part(read_mahimahi(TRACE), begin) for begin in (0.0, 28.0)), strict=True))
    specs = [WireSpec(index, name, 5e6, 5e6, up=DELAY, down=DELAY, seed=index) for index, name in enumerate(names)]
    everything = decision(names, 1, scenario.radio.uplink_hz)
    with wired("guest-recorded", specs) as lab, PlayerRun(lab, tmp_path, scenario, traces) as run:
        carried = play_on_full_wires(run, seconds, everything, probe=PauseProbe(period_seconds=2e-3))
    carried.check_traces(traces, seconds, 5.0)
    assert run.steps("ahead"), "HTB is led over to the next rate"
