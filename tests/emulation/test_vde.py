"""The vde wire: delay and loss in user space, changed while packets pass, found broken, and gone with its lab."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from controller.contract import Scenario
from controller.service.protocol import Reply, SetLink
from testbed.errors import HostError, TestbedError
from testbed.runtime.processes import discovery
from testbed.traces import Kind, Trace
from testbed.wires import capabilities, plumbing, vde
from testbed.wires.impairment import GilbertElliott, Impairment
from testbed.wires.wire import WireSpec
from tests.emulation.links_lab import PlayerRun, WiredLab, rate_scenario, wired
from tests.netem.guest_tests.probes import Packets, send_train

pytestmark = pytest.mark.root

RATE = 50e6


@pytest.fixture(scope="module", autouse=True)
def _needs_vde() -> None:
    found = capabilities.probe()
    if found.delayer != "vde":
        pytest.skip("netem goes first here" if found.netem else "needs wirefilter (apt install vde2) and /dev/net/tun")


def wire(index: int, up: Impairment, down: Impairment | None = None) -> WireSpec:
    return WireSpec(index, f"ue{index}", RATE, RATE, up=up, down=up if down is None else down)


WIRES = [
    wire(0, Impairment(delay_seconds=1e-3), Impairment(delay_seconds=100e-3)),
    wire(1, Impairment(delay_seconds=20e-3), Impairment(delay_seconds=5e-3)),
    wire(2, Impairment(loss_ratio=0.01), Impairment(loss_ratio=0.1)),
    wire(3, Impairment(bursts=GilbertElliott(p=0.02, r=0.25)), Impairment(duplicate_ratio=0.1)),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[WiredLab]:
    with wired("vd", WIRES) as made:
        yield made


def train(lab: WiredLab, index: int, direction: str, count: int, interval: float, drain: float = 0.2) -> Packets:
    own = lab.wires[index]
    ue, edge = lab.name(own.ue), lab.name("edge")
    sender, receiver, address = (ue, edge, own.edge_address) if direction == "up" else (edge, ue, own.ue_address)
    return send_train(sender, receiver, address, count, interval, drain_seconds=drain)


@pytest.mark.quiet
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("index", [0, 1])
def test_the_one_way_delay_is_what_was_asked(lab: WiredLab, index: int, direction: str) -> None:
    asked = getattr(WIRES[index], direction).delay_seconds
    packets = train(lab, index, direction, 200, 5.3e-3)
    assert packets.lost == 0
    assert list(packets.numbers) == sorted(packets.numbers)
    error = float(np.median(packets.delays_seconds)) - asked
    assert abs(error) <= max(0.6e-3, 0.02 * asked)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.quiet
def test_losses_are_as_many_as_were_asked(lab: WiredLab, direction: str) -> None:
    asked, count = getattr(WIRES[2], direction).loss_ratio, 10_000
    low, high = binom.interval(0.99, count, asked)
    lost = []
    for _ in range(2):  # it cannot be seeded: two in a row lie outside by right in one of ten thousand
        lost.append(train(lab, 2, direction, count, 0.0).lost)
        if low <= lost[-1] <= high:
            return
    pytest.fail(f"{lost} of {count} were lost, asked for {asked}: {low:.0f} to {high:.0f}")


@pytest.mark.quiet
def test_bursts_are_as_long_as_was_asked(lab: WiredLab) -> None:
    packets = train(lab, 3, "up", 60_000, 1e-4)
    arrived = np.zeros(packets.sent, dtype=bool)
    arrived[packets.numbers] = True
    ends = np.diff(np.concatenate(([True], arrived, [True])).astype(int))
    lengths = np.flatnonzero(ends == 1) - np.flatnonzero(ends == -1)
    assert float(lengths.mean()) == pytest.approx(4.0, rel=0.1)  # some 1100 bursts: a standard error of 2.6 %
    assert packets.lost / packets.sent == pytest.approx(0.02 / 0.27, rel=0.2)


def test_some_packets_come_twice(lab: WiredLab) -> None:
    packets = train(lab, 3, "down", 5_000, 0.0)
    assert packets.lost == 0
    assert len(packets.numbers) / 5_000 == pytest.approx(1.1, abs=0.02)


def test_the_kernel_of_a_vde_wire_is_named_and_what_it_cannot_do_is_refused() -> None:
    assert plumbing.link_backend(WIRES) == "htb+vde"
    assert plumbing.link_backend([]) == "htb"
    for impossible in (
        Impairment(delay_seconds=0.01, reorder_ratio=0.1),
        Impairment(corrupt_ratio=0.01),
        Impairment(bursts=GilbertElliott(0.01, 0.2, bad=0.5)),
        Impairment(delay_seconds=0.01, jitter_seconds=0.001, distribution="pareto"),
    ):
        with pytest.raises(HostError, match=r"netem .*is missing on this host"):
            plumbing.link_backend([wire(0, impossible)])
        with pytest.raises(TestbedError, match="the vde wire cannot do this"):
            vde.commands(impossible)


def test_a_filter_that_died_is_found_and_repaired_and_none_outlives_its_lab() -> None:
    own = [wire(0, Impairment(delay_seconds=1e-3))]
    with wired("vd-repair", own) as made:
        radio = made.name("radio")
        assert len(discovery.processes(made.lab)) == 2
        pid = int((vde.directory(radio) / "e0.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        while pid in discovery.processes(made.lab):
            time.sleep(0.01)
        assert plumbing.inspect(radio)[0].interrupted == ("e0",)
        assert plumbing.repair(own, made.name) == own
        assert plumbing.inspect(radio)[0].whole
        packets = send_train(made.name("ue0"), made.name("edge"), own[0].edge_address, 5, 0.0, drain_seconds=0.1)
        assert packets.lost == 0
    assert discovery.processes(made.lab) == {}
    assert discovery.list_owned(made.lab) == []


def scenario() -> Scenario:
    return rate_scenario(["ue0"])


def steady() -> dict[str, Trace]:
    return {"ue0": Trace(np.zeros(1), np.array([RATE]), np.array([RATE]), "rate", 1.0)}


def asked_of_player(run: PlayerRun, request: SetLink) -> Reply:
    before = sum(isinstance(message, Reply) for message in run.others)
    run.send(request)
    run.wait(lambda: sum(isinstance(message, Reply) for message in run.others) > before)
    return [message for message in run.others if isinstance(message, Reply)][-1]


def test_a_command_changes_delay_and_loss_until_it_is_reset(tmp_path: Path) -> None:
    own = wire(0, Impairment(delay_seconds=20e-3, loss_ratio=0.0), Impairment(delay_seconds=5e-3))
    with wired("vd-set", [own]) as made, PlayerRun(made, tmp_path, scenario(), steady()) as run:
        run.start(time.monotonic())
        assert asked_of_player(run, SetLink("ue0", delay_seconds=50e-3)).ok
        assert float(np.median(train(made, 0, "up", 20, 2e-3).delays_seconds)) > 49e-3
        assert asked_of_player(run, SetLink("ue0", loss_ratio=1.0)).ok
        assert train(made, 0, "up", 20, 0.0).lost == 20
        assert asked_of_player(run, SetLink("ue0", loss_ratio=0.0)).ok
        merged = train(made, 0, "up", 20, 2e-3)
        assert merged.lost == 0
        assert float(np.median(merged.delays_seconds)) > 49e-3, "the delay stays when the loss is set"
        assert asked_of_player(run, SetLink("ue0", reset=True)).ok
        back = float(np.median(train(made, 0, "up", 20, 2e-3).delays_seconds))
        assert 19e-3 < back < 40e-3
        run.stop()


def test_delay_and_loss_traces_are_played(tmp_path: Path) -> None:
    def two(kind: Kind, up: tuple[float, float], down: tuple[float, float]) -> Trace:
        return Trace(np.array([0.0, 1.0]), np.array(up), np.array(down), kind, 60.0)

    own = WireSpec(0, "ue0", RATE, RATE, changing=True)
    more = {
        ("ue0", "delay"): two("delay", (10e-3, 40e-3), (30e-3, 5e-3)),
        ("ue0", "loss"): two("loss", (0.0, 1.0), (0.0, 0.0)),
    }
    with (
        wired("vd-play", [own]) as made,
        PlayerRun(made, tmp_path, scenario(), steady(), at_end="hold", more_traces=more) as run,
    ):
        run.start(time.monotonic())
        run.poll(0.1)
        first = train(made, 0, "up", 20, 2e-3, drain=0.05)
        assert first.lost == 0
        assert 9e-3 < float(np.median(first.delays_seconds)) < 29e-3
        run.wait(lambda: len(run.steps("impairment")) >= 4)
        assert train(made, 0, "up", 20, 0.0).lost == 20
        back = train(made, 0, "down", 20, 2e-3, drain=0.05)
        assert back.lost == 0
        assert 4e-3 < float(np.median(back.delays_seconds)) < 25e-3
        run.stop()
    last, last_down = run.steps("impairment")[-1], run.steps("impairment", "down")[-1]
    assert (last.delay_seconds, last.loss_ratio) == (40e-3, 1.0)
    assert (last_down.delay_seconds, last_down.loss_ratio) == (5e-3, 0.0)


def test_a_wire_that_was_made_without_delay_cannot_get_one_by_vde(tmp_path: Path) -> None:
    with (
        wired("vd-none", [WireSpec(0, "ue0", RATE, RATE)]) as made,
        PlayerRun(made, tmp_path, scenario(), steady()) as run,
    ):
        run.start(time.monotonic())
        reply = asked_of_player(run, SetLink("ue0", delay_seconds=10e-3))
        assert not reply.ok
        assert "was made without delay" in reply.text
        assert asked_of_player(run, SetLink("ue0", rate_up_bits_per_second=1e6)).ok
        run.stop()
