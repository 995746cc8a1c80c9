"""Delay, jitter and loss changed while packets pass, by netem: on a leaf that is one, and on a wire made without."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from controller.service.protocol import Reply, SetLink
from testbed.protocol.records import ChannelDrops
from testbed.traces import Kind, Trace
from testbed.wires.impairment import Impairment
from testbed.wires.shaping import Shaper
from testbed.wires.wire import WireSpec
from tests.emulation.links_lab import PlayerRun, WiredLab, rate_scenario, wired
from tests.netem.guest_tests.probes import Packets, send_train

pytestmark = [pytest.mark.root, pytest.mark.netem]

RATE = 20e6


def steady(*rates: float) -> dict[str, Trace]:
    values = np.array(rates or (RATE,))
    return {"ue0": Trace(np.arange(float(len(values))), values, values, "rate", 60.0)}


def up(made: WiredLab, count: int = 30) -> Packets:
    return send_train(made.name("ue0"), made.name("edge"), made.wires[0].edge_address, count, 3e-3, drain_seconds=0.2)


def ask(run: PlayerRun, request: SetLink) -> None:
    before = sum(isinstance(message, Reply) for message in run.others)
    run.send(request)
    run.wait(lambda: sum(isinstance(message, Reply) for message in run.others) > before)
    reply = [message for message in run.others if isinstance(message, Reply)][-1]
    assert reply.ok, reply.text


@pytest.mark.quiet
@pytest.mark.parametrize("made_with", [0.0, 20e-3])
def test_a_command_changes_delay_and_loss_until_it_is_reset(tmp_path: Path, made_with: float) -> None:
    impairment = Impairment(delay_seconds=made_with)
    wire = WireSpec(0, "ue0", RATE, RATE, up=impairment, down=impairment)
    with wired("nm-set", [wire]) as made, PlayerRun(made, tmp_path, rate_scenario(["ue0"]), steady()) as run:
        run.start(time.monotonic())
        ask(run, SetLink("ue0", delay_seconds=50e-3))
        assert float(np.median(up(made).delays_seconds)) == pytest.approx(50e-3, abs=2e-3)
        ask(run, SetLink("ue0", loss_ratio=1.0))
        assert up(made).lost == 30
        ask(run, SetLink("ue0", loss_ratio=0.0, jitter_seconds=5e-3))
        packets = up(made, 300)
        assert packets.lost == 0
        assert float(np.mean(packets.delays_seconds)) == pytest.approx(50e-3, abs=3e-3)
        low, high = np.quantile(packets.delays_seconds, (0.16, 0.84))  # a standard deviation to each side
        assert (high - low) / 2 == pytest.approx(5e-3, rel=0.4)
        ask(run, SetLink("ue0", reset=True))
        assert float(np.median(up(made).delays_seconds)) == pytest.approx(made_with, abs=2e-3)
        run.poll(1.5)
        run.stop()
    drops = [record for record in run.records if isinstance(record, ChannelDrops) and record.direction == "up"]
    assert sum(record.lost_packets for record in drops) == 30
    assert sum(record.dropped_packets for record in drops) == 0


@pytest.mark.quiet
def test_delay_and_loss_traces_are_played_in_both_directions(tmp_path: Path) -> None:
    def two(kind: Kind, up: tuple[float, float], down: tuple[float, float]) -> Trace:
        return Trace(np.array([0.0, 1.0]), np.array(up), np.array(down), kind, 60.0)

    more = {
        ("ue0", "delay"): two("delay", (10e-3, 40e-3), (30e-3, 5e-3)),
        ("ue0", "loss"): two("loss", (0.0, 1.0), (0.0, 0.0)),
    }
    wire = WireSpec(0, "ue0", RATE, RATE, changing=True)
    with (
        wired("nm-play", [wire]) as made,
        PlayerRun(made, tmp_path, rate_scenario(["ue0"]), steady(), at_end="hold", more_traces=more) as run,
    ):
        run.start(time.monotonic())
        run.poll(0.1)
        before = up(made)
        assert before.lost == 0
        assert float(np.median(before.delays_seconds)) == pytest.approx(10e-3, abs=3e-3)
        run.wait(lambda: len(run.steps("impairment")) >= 4)
        assert up(made).lost == 30
        back = send_train(made.name("edge"), made.name("ue0"), wire.ue_address, 30, 3e-3, drain_seconds=0.1)
        assert back.lost == 0
        assert float(np.median(back.delays_seconds)) == pytest.approx(5e-3, abs=3e-3)
        run.stop()
    last, last_down = run.steps("impairment")[-1], run.steps("impairment", "down")[-1]
    assert (last.delay_seconds, last.loss_ratio) == (40e-3, 1.0)
    assert (last_down.delay_seconds, last_down.loss_ratio) == (5e-3, 0.0)


@pytest.mark.quiet
def test_an_outage_by_loss_with_a_netem_leaf(tmp_path: Path) -> None:
    impairment = Impairment(delay_seconds=5e-3)
    wire = WireSpec(0, "ue0", RATE, RATE, up=impairment, down=impairment)
    with (
        wired("nm-out", [wire]) as made,
        PlayerRun(made, tmp_path, rate_scenario(["ue0"]), steady(RATE, 0.0, RATE), outage="loss") as run,
    ):
        run.start(time.monotonic())
        run.wait(lambda: len(run.steps()) >= 2)
        assert up(made).lost == 30
        run.wait(lambda: len(run.steps()) >= 3)
        assert up(made).lost == 0
        shaper = Shaper(made.name("radio"))
        assert shaper.leaves(["e0"])["e0"].kind == "netem"
        shaper.close()
        run.stop()
