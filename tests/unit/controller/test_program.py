"""The controller's program over real sockets, with agents that only report."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import zmq
from fake_lab import FakeLab

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE
from controller.policies.examples import example_scenario
from controller.service.protocol import (
    Apply,
    Drain,
    Hello,
    SetLink,
    SetPolicy,
    Start,
    Stop,
    StopLab,
    Welcome,
    decode_control,
    encode,
)
from testbed.errors import TestbedError
from testbed.protocol.sockets import control_endpoint
from testbed.runtime.base import OPERATOR

#: What tells which slot a decision or a report was late for: slots are short, and so are their deadlines.
judges_slots = pytest.mark.quiet
only_function = pytest.mark.thorough  # each waits for a controller's imports and for slots


@judges_slots
def test_a_run_from_hello_to_the_end(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", policy="edge-only") as lab:
        ready = lab.wait(lambda status: status.state == "ready")
        assert set(ready.ready) == set(ready.expected) == {"ue0", "ue1", "edge", "player"}
        assert {hello.node for hello in ready.hellos} == set(ready.expected)
        lab.client.begin(1.0, 5.0)
        with pytest.raises(TestbedError, match="begun already"):
            lab.client.begin(1.0, 5.0)
        lab.wait(lambda status: status.state == "stopped")
        assert lab.wait_end() == 0
    for name, messages in lab.received.items():
        kinds = [type(message) for message in messages]
        assert kinds[0] is Welcome, name
        assert kinds[1] is Start, name
        assert kinds[-1] is Stop, name
        assert kinds.count(Drain) == 1, name
    applied = lab.decisions("ue0")
    assert [message.decision.sequence for message in applied] == list(range(len(applied)))
    assert {ue.cut for ue in applied[0].decision.ues} == {ALL_ON_DEVICE}  # until the policy has decided
    assert {ue.cut for message in applied[1:] for ue in message.decision.ues} == {ALL_ON_EDGE}
    assert applied[1].rates_up_bits_per_second.keys() == {"ue0", "ue1"}
    assert applied == lab.decisions("player") == lab.decisions("edge")
    slots = lab.slots()
    assert sorted({row.slot for row in slots}) == list(range(len(slots) // 2))
    assert len({(row.slot, row.ue) for row in slots}) == len(slots) >= 20
    assert {row.cut for row in slots} == {"input"}
    assert sum(row.arrivals for row in slots) == len(slots)
    assert {row.mean_delay_seconds for row in slots} == {0.25}
    assert {row.tail_overruns for row in slots if row.slot > 0} == {1}
    assert not any(row.decide_late for row in slots)


@only_function
def test_it_waits_for_everybody_in_flight_but_not_for_ever(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", drain_slots=10_000) as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(0.3, 0.5)
        lab.wait(lambda status: status.state == "stopped")
    assert "2 tasks still in flight after 0.5 s" in lab.events("drain-timeout")[0].text


@only_function
def test_begin_may_come_before_the_agents(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab") as lab:
        lab.client.status(20.0)
        lab.client.begin(0.2, 1.0)
        lab.wait(lambda status: status.state == "stopped")
        assert lab.wait_end() == 0


@judges_slots
def test_a_policy_that_hangs_misses_its_slots_and_nothing_else(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", policy="hangs", options='{"slot": 2, "seconds": 0.35}') as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(1.2, 2.0)
        lab.wait(lambda status: status.state == "stopped")
        lab.wait_end()
    late = {row.slot for row in lab.slots() if row.decide_late}
    assert {2, 3, 4} <= late
    assert not late & {0, 1, 8, 9, 10}
    assert lab.events("decision-dropped")[0].text.startswith("the decision of slot 2 came in")
    sequences = {row.slot: row.decision_sequence for row in lab.slots()}
    assert sequences[1] == sequences[2] == sequences[3] == sequences[4]  # no new number without a new decision
    assert all(row.policy_state == {"most_running": 1.0} for row in lab.slots() if row.slot not in late)
    assert sorted({row.slot for row in lab.slots()}) == list(range(max(sequences) + 1))


@judges_slots
def test_a_policy_that_raises_leaves_its_last_decision(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", policy="raises") as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(0.6, 2.0)
        lab.wait(lambda status: status.state == "stopped")
        lab.wait_end()
    assert "slot 1: ZeroDivisionError: an odd slot" in lab.events("policy-error")[0].text
    sequence = {row.slot: row.decision_sequence for row in lab.slots()}
    assert [sequence[slot] for slot in range(6)] == [1, 1, 2, 2, 3, 3]


@only_function
def test_an_invalid_decision_leaves_the_last_one(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", policy="greedy") as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(0.3, 2.0)
        lab.wait(lambda status: status.state == "stopped")
        lab.wait_end()
    assert "the sum of spectrum_up_hz is 2e+09, above the total of 8e+06" in lab.events("decision-invalid")[0].text
    assert {row.cut for row in lab.slots()} == {"local"}
    assert len(lab.decisions("ue0")) == 1


@pytest.mark.parametrize(
    ("policy", "options", "text"),
    [
        ("no-reset", "{}", "RuntimeError: no checkpoint was given"),
        ("nonesuch", "{}", "unknown policy 'nonesuch'; allowed: "),
        ("fixed", '{"cut": "nonesuch"}', "single-tensor cuts: input, stem"),
        ("fixed", '{"kut": "input"}', "allowed options: cut, speed"),
    ],
)
@only_function
def test_a_policy_that_cannot_start_is_told_in_the_status(tmp_path: Path, policy: str, options: str, text: str) -> None:
    with FakeLab(tmp_path / "lab", policy=policy, options=options) as lab:
        status = lab.wait(lambda status: bool(status.error))
        assert text in status.error
        with pytest.raises(TestbedError, match="refused Begin"):
            lab.client.begin(1.0, 1.0)
        lab.client.command(StopLab())
        assert lab.wait_end() == 0


@only_function
def test_the_policy_and_a_link_change_in_a_running_lab(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", policy="device-only") as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(None, 1.0)
        lab.wait(lambda status: status.slot >= 2)
        with pytest.raises(TestbedError, match="unknown policy"):
            lab.client.command(SetPolicy(name="nonesuch"))
        with pytest.raises(TestbedError, match="'device-only' goes on"):
            lab.client.command(SetPolicy(name="no-reset"))
        lab.client.command(SetPolicy(name="fixed", options={"cut": "block3"}))
        changed = lab.wait(lambda status: status.policy == "fixed")
        lab.wait(lambda status: status.slot >= changed.slot + 3)
        assert lab.client.command(SetLink(node="ue1", loss_ratio=0.1)) == "link of ue1 set"
        with pytest.raises(TestbedError, match="allowed: ue0, ue1"):
            lab.client.command(SetLink(node="edge", loss_ratio=0.1))
        assert SetLink(node="ue1", loss_ratio=0.1) in lab.received["player"]
        lab.client.command(StopLab(reason="enough"))
        assert lab.wait_end() == 0
        assert lab.received["ue0"][-1] == Stop(reason="enough")
    cuts = [message.decision.ues[0].cut for message in lab.decisions("edge")]
    assert cuts == sorted(cuts)  # () ... () then ("block3",) ...
    assert cuts[-1] == ("block3",)


@judges_slots
def test_lost_reports_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    def silent(node: str, slot: int) -> bool:
        return (node == "ue1" and 3 <= slot < 8) or (node == "player" and slot == 5)

    with FakeLab(tmp_path / "lab", policy="edge-only", silent=silent) as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(1.2, 2.0)
        lab.wait(lambda status: status.state == "stopped")
        lab.wait_end()
    ages = {row.slot: row.report_age_seconds for row in lab.slots() if row.ue == "ue1"}
    assert ages[3] == 0.0
    assert [ages[slot] for slot in (4, 5, 6, 7, 8)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert ages[9] == 0.0
    assert [event.node for event in lab.events("silent")] == ["ue1"]
    assert [event.node for event in lab.events("back")] == ["ue1"]
    gains = {row.slot: row.gain_up for row in lab.slots() if row.ue == "ue0"}
    assert gains[6] == gains[5] < gains[7]  # the last known value stood in
    assert sum(row.arrivals for row in lab.slots() if row.ue == "ue1") == max(ages) + 1 - 5


@only_function
def test_garbage_is_dropped(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab") as lab:
        lab.wait(lambda status: status.state == "ready")
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.connect(control_endpoint(lab.directory, OPERATOR))
        dealer.send(b"\xff\x00garbage")
        dealer.send_multipart([b"two", b"frames"])
        dealer.send(b"")
        lab.client.begin(0.3, 1.0)
        lab.wait(lambda status: status.state == "stopped")
        dealer.close(linger=0)
        context.term()
    assert len(lab.events("malformed")) == 3


@only_function
def test_two_labs_do_not_hear_each_other(tmp_path: Path) -> None:
    three = example_scenario(3, slot_seconds=0.1)
    with FakeLab(tmp_path / "a", policy="edge-only") as a, FakeLab(tmp_path / "b", scenario=three) as b:
        for lab in (a, b):
            lab.wait(lambda status: status.state == "ready")
        a.client.begin(0.3, 1.0)
        b.client.begin(None, 1.0)
        a.wait(lambda status: status.state == "stopped")
        assert b.client.status().state == "running"
        b.client.command(StopLab())
    assert {row.ue for row in a.slots()} == {"ue0", "ue1"}
    assert {row.ue for row in b.slots()} <= {"ue0", "ue1", "ue2"}


@only_function
def test_a_node_that_comes_back_takes_part_again(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab", policy="edge-only") as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(None, 1.0)
        lab.wait(lambda status: status.slot >= 2)
        context = zmq.Context()
        again = context.socket(zmq.DEALER)
        again.setsockopt(zmq.ROUTING_ID, b"ue1")
        again.connect(control_endpoint(lab.directory, "ue1"))
        again.send(encode(Hello(node="ue1", role="ue", pid=1)))
        messages = []
        while len(messages) < 4:
            assert again.poll(10_000)
            messages.append(decode_control(again.recv()))
        again.close(linger=0)
        context.term()
        lab.client.command(StopLab())
        lab.wait_end()
    assert [type(message) for message in messages] == [Welcome, Start, Apply, Apply]
    assert messages[1] == lab.received["ue0"][1]  # the same origin
    assert [event.node for event in lab.events("joined")] == ["ue1"]


@only_function
def test_sigterm_stops_everybody(tmp_path: Path) -> None:
    with FakeLab(tmp_path / "lab") as lab:
        lab.wait(lambda status: status.state == "ready")
        lab.client.begin(None, 1.0)
        lab.wait(lambda status: status.slot >= 1)
        lab.process.send_signal(signal.SIGTERM)
        assert lab.wait_end() == 0
        assert all(messages[-1] == Stop(reason="SIGTERM") for messages in lab.received.values())
        assert not any(math.isinf(row.start_seconds) for row in lab.slots())


@only_function
def test_sides_that_made_different_weights_are_refused_by_name(tmp_path: Path) -> None:
    same = {"ue0": {"ue0": "a"}, "ue1": {"ue1": "b"}, "edge": {"ue0": "a", "ue1": "b"}}
    with FakeLab(tmp_path / "same", weights=same) as lab:
        assert lab.wait(lambda status: status.state != "waiting").state == "ready"
    with FakeLab(tmp_path / "differ", weights={**same, "ue1": {"ue1": "c"}}) as lab:
        status = lab.wait(lambda status: status.state != "waiting")
        assert status.state == "stopped"
        assert "different weights for the model of ue1" in status.error
        assert "beside the lab file" in status.error
