"""The trace player as a process, on real wires, with a controller and a recorder that the test plays."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from controller.contract import Decision, UeDecision
from controller.model.channel import Channel
from controller.model.radio import rates
from controller.policies.examples import example_scenario
from controller.service.protocol import Apply, Reply, SetLink
from testbed.node.sight import Sight, Silences
from testbed.protocol.records import ChannelDrops
from testbed.runtime.host.namespaces import run_inside
from testbed.traces import Trace, generate, read_mahimahi
from testbed.wires.netlink import QdiscStatistics
from testbed.wires.probes import Flow
from testbed.wires.shaping import Shaper
from testbed.wires.wire import WireSpec
from tests.emulation.links_lab import PlayerRun, WiredLab, play_on_full_wires, rate_scenario, wired

pytestmark = pytest.mark.root

TRACE = Path(__file__).parents[2] / "topologies" / "traces" / "drive.up"
#: Lengths in seconds.
OUTAGES = {f"ue{index}": 2.0**index for index in range(4)}


def wires(count: int) -> list[WireSpec]:
    return [WireSpec(index, f"ue{index}", 5e6, 5e6) for index in range(count)]


def rate_trace(*mbits: float, step: float = 0.1) -> Trace:
    values = np.array(mbits) * 1e6
    return Trace(np.arange(len(mbits)) * step, values, values / 2, "rate", step * len(mbits))


def decision(scenario_names: list[str], sequence: int, hertz: float) -> Decision:
    return Decision(sequence, 0, 0.0, tuple(UeDecision(name, (), 0.1, hertz, hertz, 0.1) for name in scenario_names))


def test_it_follows_the_traces_of_all_links_and_reports_every_slot(tmp_path: Path) -> None:
    names = ["ue0", "ue1"]
    scenario = rate_scenario(names)
    traces = {"ue0": rate_trace(2, 4, 6, 8), "ue1": rate_trace(8, 6)}
    with wired("pl-follow", wires(2)) as lab, PlayerRun(lab, tmp_path, scenario, traces) as run:
        origin = time.monotonic() + 0.2
        run.start(origin)
        run.wait(lambda: len(run.reports) >= 4)
        run.stop()
    for name, cycle in (("ue0", [2e6, 4e6, 6e6, 8e6]), ("ue1", [8e6, 6e6])):
        steps = [step for step in run.steps() if step.ue == name]
        assert len(steps) >= 15
        # equal shares before the first decision: half the spectrum, so half the trace's rate
        expected = [cycle[k % len(cycle)] / 2 for k in range(len(steps))]
        assert [step.planned_bits_per_second for step in steps] == pytest.approx(expected)
        assert [step.applied_bits_per_second for step in steps] == pytest.approx(expected)
        planned = [step.planned_seconds - origin for step in steps]
        assert planned == pytest.approx([0.1 * k for k in range(len(steps))], abs=1e-6)
        assert all(step.applied_seconds >= step.planned_seconds for step in steps)
    assert [report.slot for report in run.reports[:4]] == [-1, 0, 1, 2]
    assert all(report.skipped_steps == 0 for report in run.reports)
    second = next(link for link in run.reports[2].links if link.node == "ue0")  # at 1.0 s: entry 10 of 4, 8 6 2 4 6
    assert second.gain_up == (6e6,)
    assert second.mean_gain_up[0] == pytest.approx(traces["ue0"].mean(0.5, 1.0).up)
    assert second.gain_down == (3e6,)
    assert second.rate_up_bits_per_second == pytest.approx(3e6)
    assert second.mean_rate_up_bits_per_second == pytest.approx(second.mean_gain_up[0] / 2, rel=0.02)


def test_a_decision_changes_every_rate_at_once_and_a_stale_one_nothing(tmp_path: Path) -> None:
    names = ["ue0", "ue1"]
    scenario = example_scenario(2)
    gain = 2e-11
    constant = Trace(np.zeros(1), np.array([gain]), np.array([gain]), "gain", 1.0)
    fresh, stale = decision(names, 5, 3e6), decision(names, 4, 1e6)
    with wired("pl-decide", wires(2)) as lab, PlayerRun(lab, tmp_path, scenario, dict.fromkeys(names, constant)) as run:
        run.start(time.monotonic())
        run.send(Apply(fresh))
        run.send(Apply(stale))
        run.send(Apply(msgspec.structs.replace(fresh, sequence=6, ues=fresh.ues[:1])))
        run.wait(lambda: any(event.kind == "decision-refused" for event in run.events()))
        run.stop()
        shaper = Shaper(lab.name("radio"))
        leaves = shaper.leaves(["e0"])
        shaper.close()
    assert leaves["e0"].kind == "bfifo"  # still shaped after the player's end
    expected = rates(scenario, dict.fromkeys(names, ((gain,), (gain,))), fresh)
    steps = run.steps("decision")
    assert [step.ue for step in steps] == names
    for step in steps:
        assert step.applied_bits_per_second == pytest.approx(expected[step.ue].up_bits_per_second)
    assert "lacks ue1" in next(event.text for event in run.events() if event.kind == "decision-refused")


def test_it_plays_on_when_the_controller_dies_and_ends_on_sigterm(tmp_path: Path) -> None:
    scenario = rate_scenario(["ue0"])
    with wired("pl-alone", wires(1)) as lab, PlayerRun(lab, tmp_path, scenario, {"ue0": rate_trace(2, 4)}) as run:
        run.start(time.monotonic())
        run.wait(lambda: len(run.steps()) > 3)
        run.router.close(linger=0)
        before = len(run.steps())
        run.poll(1.0)
        assert len(run.steps()) >= before + 8
        assert run.process.pid is not None
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait(lambda: not run.process.is_alive())
        run.poll(0.1)
        assert run.process.exitcode == 0
    assert any("SIGTERM" in event.text for event in run.events() if event.kind == "player-stopped")


def test_a_ue_that_follows_its_uplink_is_told_of_each_outage(tmp_path: Path) -> None:
    scenario = rate_scenario(["ue0"])
    trace = {"ue0": rate_trace(2, 0, 0.01, 4)}  # under the floor, twice
    with (
        wired("pl-air", wires(1)) as lab,
        PlayerRun(lab, tmp_path, scenario, trace) as run,
        zmq.Context() as context,
    ):
        silences = Silences(Sight(context, "ue0", str(tmp_path)))
        silences.follow()
        run.start(time.monotonic())
        run.wait(lambda: len(run.steps()) >= 12)
        run.stop()
        silences.collect()
        silent = silences.seconds(0.0, run.steps()[11].applied_seconds)
        silences.close()
    steps = run.steps()[:12]
    assert [step.applied_bits_per_second == 0 for step in steps] == 3 * [False, True, True, False]
    ends = [(steps[at].applied_seconds, steps[at + 2].applied_seconds) for at in (1, 5, 9)]
    assert silent == pytest.approx(sum(end - begin for begin, end in ends), abs=1e-6)


def test_hold_and_clear_at_the_end_of_a_trace(tmp_path: Path) -> None:
    scenario = rate_scenario(["ue0"])
    for at_end, last in (("hold", [4e6]), ("clear", [4e6, 10e9])):
        directory = tmp_path / at_end
        directory.mkdir()
        traces = {"ue0": rate_trace(2, 4)}
        with wired("pl-end", wires(1)) as lab, PlayerRun(lab, directory, scenario, traces, at_end=at_end) as run:
            run.start(time.monotonic())
            run.poll(1.0)
            run.stop()
        assert [step.applied_bits_per_second for step in run.steps()] == pytest.approx([2e6, *last])


def test_a_command_fixes_a_rate_until_it_is_reset(tmp_path: Path) -> None:
    scenario = rate_scenario(["ue0"])
    with wired("pl-set", wires(1)) as lab, PlayerRun(lab, tmp_path, scenario, {"ue0": rate_trace(2, 2.000001)}) as run:
        run.start(time.monotonic())
        run.send(SetLink("ue0", rate_up_bits_per_second=7e6))
        run.wait(lambda: len(run.steps()) >= 3)
        run.send(SetLink("ue0", reset=True))
        run.send(SetLink("ue9", rate_up_bits_per_second=1e6))
        run.wait(lambda: sum(isinstance(message, Reply) for message in run.others) == 3)
        run.stop()
    replies = [message for message in run.others if isinstance(message, Reply)]
    assert [reply.ok for reply in replies] == [True, True, False]
    assert "ue0" in replies[2].text
    commands = run.steps("command")
    assert [step.applied_bits_per_second for step in commands] == pytest.approx([7e6, 2e6])
    held = [step for step in run.steps() if step.planned_seconds < commands[1].planned_seconds]
    assert held[-1].applied_bits_per_second == pytest.approx(7e6)
    down = [step.applied_bits_per_second for step in run.steps("command", "down")]
    assert down == pytest.approx([1e6, 1e6])  # half of the trace, untouched


def test_drops_nobody_ordered_are_reported_and_ordered_ones_are_not(tmp_path: Path) -> None:
    scenario = rate_scenario(["ue0"])
    trace = rate_trace(5, 0.01, step=1.0)
    with (
        wired("pl-drop", wires(1)) as lab,
        PlayerRun(lab, tmp_path, scenario, {"ue0": trace}, outage="loss") as run,
        Flow(lab.name("ue0"), lab.name("edge"), lab.wires[0].edge_address),
    ):
        run.start(time.monotonic())
        run.poll(3.0)
        run.stop()
    drops = [record for record in run.records if isinstance(record, ChannelDrops) and record.direction == "up"]
    assert len(drops) >= 2
    assert sum(record.sent_bytes for record in drops) > 300_000
    assert all(record.dropped_packets == 0 for record in drops)


def test_an_overflowing_leaf_is_reported(tmp_path: Path) -> None:
    narrow = [WireSpec(0, "ue0", 5e6, 5e6, send_buffer_bytes=1000)]  # 64 kB in the leaf
    scenario = rate_scenario(["ue0"])
    with (
        wired("pl-over", narrow) as lab,
        PlayerRun(lab, tmp_path, scenario, {"ue0": rate_trace(2, 2)}) as run,
        run_inside(lab.name("ue0"), lambda: socket.socket(type=socket.SOCK_DGRAM)) as sending,
    ):
        run.start(time.monotonic())
        run.poll(0.5)
        for _ in range(200):
            sending.sendto(bytes(1400), (narrow[0].edge_address, 9))
        run.poll(1.5)
        run.stop()
    dropped = sum(record.dropped_packets for record in run.records if isinstance(record, ChannelDrops))
    assert 140 <= dropped <= 160  # 45 frames fit


@pytest.mark.quiet
def test_a_wire_is_back_in_service_after_an_outage(tmp_path: Path) -> None:
    """Two labs beside each other, one for each kind of outage; in each four wires whose outages end together."""
    limits: dict[str, float] = {"hold": 1.0, "loss": 2.0}
    with ExitStack() as stack:
        played = {outage: stack.enter_context(_outages(tmp_path / outage, outage)) for outage in limits}
        for run, _ in played.values():
            run.start(time.monotonic())
        for run, _ in played.values():
            run.wait(lambda run=run: len(run.steps()) == 3 * len(OUTAGES), 20.0)  # called before the loop goes on
        for run, _ in played.values():
            run.poll(max(limits.values()) + 0.5)
        arrivals = {
            outage: {ue: flow.arrivals() for ue, flow in flows.items()} for outage, (_, flows) in played.items()
        }
    for outage, limit in limits.items():
        for ue, seconds in OUTAGES.items():
            steps = [step for step in played[outage][0].steps() if step.ue == ue]
            assert len(steps) == 3
            back, mine = steps[-1].applied_seconds, arrivals[outage][ue]
            assert mine.bytes_until(back) > 0
            inside = mine.bits_per_second(back - seconds + 0.2, back)
            assert inside < 100e3, f"an outage of {seconds} s lets next to nothing through"
            assert mine.first_after(back) - back <= limit, f"{outage}: an outage of {seconds} s"
            assert mine.bits_per_second(back + limit, back + limit + 0.4) > 5e6


@contextmanager
def _outages(folder: Path, outage: str) -> Iterator[tuple[PlayerRun, dict[str, Flow]]]:
    """A player that is about to play them, and a flow up each wire."""
    folder.mkdir()
    longest, traces = max(OUTAGES.values()), {}
    for name, seconds in OUTAGES.items():
        times = np.array([0.0, 1.0 + longest - seconds, 1.0 + longest])
        values = np.array([10e6, 0.0, 10e6]) * len(OUTAGES)  # of which each has its share
        traces[name] = Trace(times, values, values, "rate", 60.0)
    with (
        wired(f"pl-{outage}", wires(len(OUTAGES))) as lab,
        PlayerRun(lab, folder, rate_scenario(list(OUTAGES)), traces, outage=outage) as run,
        ExitStack() as stack,
    ):
        flows = {}
        for wire in lab.wires:
            flow = Flow(lab.name(wire.ue), lab.name("edge"), wire.edge_address, send_buffer=1 << 16)
            flows[wire.ue] = stack.enter_context(flow)
        yield run, flows


@pytest.mark.quiet
def test_a_mahimahi_trace_carries_its_bytes(tmp_path: Path) -> None:
    """Over every 5 s, the first included, and over all: the trace's own bytes, through outages of up to 1.9 s."""
    seconds, traces = 20.0, {"ue0": read_mahimahi(TRACE)}
    with wired("pl-mahi", wires(1)) as lab, PlayerRun(lab, tmp_path, rate_scenario(["ue0"]), traces) as run:
        carried = play_on_full_wires(run, seconds)
    carried.check_traces(traces, seconds, 5.0)
    carried.check_traces(traces, seconds, seconds, tolerance_ratio=0.002)
    assert run.steps("ahead"), "HTB is led over to the next rate"


@pytest.mark.quiet
def test_three_links_at_once_keep_their_changing_rates(tmp_path: Path) -> None:
    """Rayleigh fading at 10 Hz: what was applied, over each second and over all; and the shapers stay."""
    names, seconds = ["ue0", "ue1", "ue2"], 6.0
    scenario = example_scenario(3)
    traces = dict(zip(names, generate([Channel(150.0, "rayleigh", 0.5)] * 3, 20.0, seed=1), strict=True))
    with wired("pl-three", wires(3)) as lab, PlayerRun(lab, tmp_path, scenario, traces) as run:
        before = leaves_of(lab)
        carried = play_on_full_wires(run, seconds)
        after = leaves_of(lab)
    carried.check(0.5, seconds - 0.5)
    assert {port: leaf.handle for port, leaf in after.items()} == {port: leaf.handle for port, leaf in before.items()}
    assert all(after[port].sent_packets > before[port].sent_packets for port in ("e0", "e1", "e2"))
    assert all(leaf.dropped_packets == 0 for leaf in after.values())


@pytest.mark.quiet
def test_superposed_users_feel_each_other_s_fading_on_their_wires(tmp_path: Path) -> None:
    """NOMA: two subchannels, two users on each; a wire's rate is the model's at the gains of all, at every step."""
    names, seconds = ["ue0", "ue1", "ue2"], 5.0
    scenario = example_scenario(3)
    radio = msgspec.structs.replace(scenario.radio, access="noma", subchannels=2, users_per_subchannel=2)
    scenario = msgspec.structs.replace(scenario, radio=radio)
    traces = dict(zip(names, generate([Channel(150.0, "rayleigh", 0.5)] * 3, 20.0, seed=1), strict=True))
    held = {"ue0": (0,), "ue1": (0, 1), "ue2": (1,)}
    users = [
        UeDecision(name, (), 0.1, 0.0, 0.0, 0.1, subchannels_up=held[name], subchannels_down=held[name])
        for name in names
    ]
    users[1] = msgspec.structs.replace(users[1], transmit_watts=0.05)
    superposed = Decision(1, 0, 0.0, tuple(users))
    with wired("pl-noma", wires(3)) as lab, PlayerRun(lab, tmp_path, scenario, traces) as run:
        carried = play_on_full_wires(run, seconds, superposed)
    carried.check(0.5, seconds - 0.5)
    for index in range(5, 45):
        at = carried.origin_seconds + 0.1 * index + 0.05
        states = {name: trace.value_at(at - carried.origin_seconds) for name, trace in traces.items()}
        expected = rates(scenario, {name: ((state.up,), (state.down,)) for name, state in states.items()}, superposed)
        for name in names:
            applied = carried.applied[name]
            now = applied.rates[np.searchsorted(applied.times, at, side="right") - 1]
            assert now == pytest.approx(expected[name].up_bits_per_second, rel=1e-6)


def leaves_of(lab: WiredLab) -> dict[str, QdiscStatistics]:
    shaper = Shaper(lab.name("radio"))
    try:
        return shaper.leaves([port for wire in lab.wires for port in (wire.up_port, wire.down_port)])
    finally:
        shaper.close()
