"""Event mode against formulas, conservation laws, and hand-made cases."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from controller.contract import (
    Arrivals,
    Cut,
    Decision,
    Observation,
    Scenario,
    SlotOutcome,
    UeDecision,
)
from controller.model.outage import OUTAGE_BITS_PER_SECOND
from controller.model.queueing import tandem_delay_seconds
from controller.policies.base import BasicPolicy
from controller.policies.examples import example_scenario
from controller.policies.static import Fixed
from controller.simulator import given, tandem
from controller.simulator.channels import ChannelStates
from controller.simulator.simulate import SimulationResult, simulate
from controller.solvers.allocation.chain import ChainTables


def with_arrivals(scenario: Scenario, arrivals: Arrivals, **changes: object) -> Scenario:
    ues = tuple(msgspec.structs.replace(ue, arrivals=arrivals, **changes) for ue in scenario.ues)
    return msgspec.structs.replace(scenario, ues=ues)


class Scripted(BasicPolicy):
    """One cut, speed and share per slot, for one UE; the last entry stays."""

    def __init__(self, script: list[tuple[Cut, float, float]], spectrum: float = 1.0) -> None:
        self.script, self.spectrum = script, spectrum

    def decide(self, observation: Observation) -> Decision:
        cut, speed, share = self.script[min(observation.slot, len(self.script) - 1)]
        radio = self.scenario.radio
        choice = UeDecision(
            name=self.scenario.ues[0].name,
            cut=cut,
            device_speed=speed,
            spectrum_up_hz=radio.uplink_hz * self.spectrum,
            spectrum_down_hz=radio.downlink_hz,
            edge_share=share,
        )
        return Decision(observation.slot, observation.slot, observation.monotonic_seconds, (choice,))


def rate_scenario(rate_bits: float = 8e6) -> Scenario:
    """One UE on a link of constant rate, arrivals from a file."""
    scenario = example_scenario(1, slot_seconds=1.0)
    return with_arrivals(
        scenario,
        Arrivals(process="file", rates_per_second=(1.0,)),
        channel_kind="rate",
        mean_gain=rate_bits,
        max_speed=0.25,
        uplink_delay_seconds=0.01,
        downlink_delay_seconds=0.02,
    )


def run(scenario: Scenario, policy: BasicPolicy, times: list[float], slots: int, **options: object) -> SimulationResult:
    return simulate(scenario, policy, slots, 1, arrival_files={"ue0": times}, **options)  # type: ignore[arg-type]


def test_one_task_by_hand() -> None:
    scenario = rate_scenario()
    tables = ChainTables.of(scenario, every_cut=True)
    at = scenario.ues[0].profile.chain_index(("block3",))
    result = run(scenario, Scripted([(("block3",), 0.2, 0.5)]), [0.25], 3)
    assert result.tasks is not None
    stamps = result.tasks.stamps[0]
    head_end = 0.25 + tables.head_seconds[0, at] / 0.2
    received = head_end + tables.wire_bits[0, at] / 8e6 + 0.01
    tail_end = received + tables.tail_seconds[0, at] / 0.5
    done = tail_end + tables.down_bits[0, at] / 8e6 + 0.02
    np.testing.assert_allclose(stamps, [0.25, 0.25, head_end, head_end, received, received, tail_end, done], rtol=1e-12)
    ue = scenario.ues[0]
    assert result.tasks.compute_joules[0] == pytest.approx(ue.compute_watts * (0.2 / 0.25) ** 3 * (head_end - 0.25))
    assert result.tasks.transmit_joules[0] == pytest.approx(ue.transmit_watts * tables.wire_bits[0, at] / 8e6)


def test_cut_and_speed_at_head_start_share_at_tail_start_rate_at_once() -> None:
    scenario = rate_scenario()
    tables = ChainTables.of(scenario, every_cut=True)
    at = scenario.ues[0].profile.chain_index(("block1",))
    head = tables.head_seconds[0, at] / 0.05  # 0.384 s: starts in slot 0, ends in slot 1
    # from slot 1 on everything is local, at another speed, and the residual 5 % is all that spectrum and edge keep
    policy = Scripted([(("block1",), 0.05, 0.5), ((), 0.25, 0.4)], spectrum=0.5)
    result = run(scenario, policy, [0.9, 0.95], 60)
    assert result.tasks is not None
    first, second = result.tasks.stamps
    assert first[2] == pytest.approx(0.9 + head)
    assert result.tasks.speed.tolist() == [0.05, 0.25]
    # the head of the second starts in slot 1: local
    assert second[7] == second[2] == pytest.approx(first[2] + tables.head_seconds[0, -1] / 0.25)
    assert first[4] - first[3] == pytest.approx(tables.wire_bits[0, at] / (8e6 * 0.5) + 0.01)
    assert result.tasks.share[0] == pytest.approx(0.4)
    assert result.cut_labels == ("block1", "local")
    assert result.cuts[:3, 0].tolist() == [0, 1, 1]


def test_a_result_sees_every_step_of_the_trace_and_the_slot_of_its_spectrum() -> None:
    scenario = rate_scenario()
    bits = ChainTables.of(scenario, every_cut=True).down_bits[0, 0]
    rates = np.array([[2e5], [1.5e5], [4e5], [1.5e5], [3e5], [2e5]])
    channel = ChannelStates(0.05, np.full((6, 1), 8e6), rates)
    arrivals = [0.1 + 0.37 * number for number in range(20)]
    result = run(scenario, Scripted([(("input",), 0.25, 0.5)]), arrivals, 40, channel=channel)
    assert result.tasks is not None
    free, crossed = 0.0, 0
    for tail_end, done in result.tasks.stamps[:, 6:]:
        now, left = max(tail_end, free), bits
        step = first = int(now / 0.05 + 1e-9)
        while left > rates[step % 6, 0] * ((step + 1) * 0.05 - now):
            left -= rates[step % 6, 0] * ((step + 1) * 0.05 - now)
            step += 1
            now = step * 0.05
        free = now + left / rates[step % 6, 0]
        assert done == pytest.approx(free + 0.02)
        crossed += int(free / scenario.slot_seconds) > int(first * 0.05 / scenario.slot_seconds)
    assert crossed >= 2  # over the border of a slot, too


def test_a_transfer_sees_every_step_of_the_trace_and_the_slot_of_its_energy() -> None:
    scenario = rate_scenario()
    tables = ChainTables.of(scenario, every_cut=True)
    bits = tables.wire_bits[0, 0]
    rates = np.array([[2e5], [4e5], [0.0], [8e5]])  # bit/s; an outage in the third step
    channel = ChannelStates(0.5, rates, np.full((4, 1), 8e6))
    result = run(scenario, Scripted([(("input",), 0.25, 0.5)]), [0.0], 6, channel=channel)
    assert result.tasks is not None
    stamps = result.tasks.stamps[0]
    left, now, step, silent = bits, stamps[3], 0, 0.0
    while True:
        rate = max(rates[step % 4, 0], 1e-9)  # nothing passes until the outage is over
        until = (step + 1) * 0.5
        if left <= rate * (until - now):
            now += left / rate
            break
        left -= rate * (until - now)
        silent += (until - now) * (rates[step % 4, 0] == 0)
        now, step = until, step + 1
    assert silent > 0
    assert stamps[4] == pytest.approx(now + 0.01)
    charged = np.flatnonzero(result.transmit_joules[:, 0])
    assert charged.tolist() == [int(now)]
    assert result.transmit_joules[charged[0], 0] == pytest.approx(
        scenario.ues[0].transmit_watts * (now - stamps[3] - silent)
    )


@pytest.mark.parametrize("timeout", [np.inf, 5.0])
def test_a_held_outage_costs_no_radio_energy_however_many_slots_it_lasts(timeout: float) -> None:
    """Also of a task that is given up in it."""
    scenario = rate_scenario()
    bits = ChainTables.of(scenario, every_cut=True).wire_bits[0, 0]
    script = Scripted([(("input",), 0.25, 0.5)])
    started = 1.0 - 0.5 * bits / 8e6  # half of it is through when the outage of 9 s begins
    result = run(scenario, script, [started], 14, channel=_outage(9), task_timeout_seconds=timeout)
    assert result.tasks is not None
    on_air = bits / 8e6 if timeout == np.inf else 0.5 * bits / 8e6
    assert result.tasks.transmit_joules[0] == pytest.approx(scenario.ues[0].transmit_watts * on_air)
    assert result.transmit_joules.sum() == pytest.approx(result.tasks.transmit_joules[0])


def _outage(seconds: int) -> ChannelStates:
    """8 Mbit/s but for an outage from 1 s on, both ways, in steps of 0.5 s."""
    rates = np.full((80, 1), 8e6)
    rates[2 : 2 + 2 * seconds] = 0.0
    return ChannelStates(0.5, rates, rates.copy())


def test_an_outage_whose_end_is_in_sight_lets_nothing_through_and_a_longer_one_16_kbit_per_second() -> None:
    """As on a wire (docs/links.md): nothing passes in the last 10 s, and the step before them, of an outage."""
    scenario = rate_scenario()
    bits = ChainTables.of(scenario, every_cut=True).wire_bits[0, 0]
    script = Scripted([(("input",), 0.25, 0.5)])
    for seconds, leaking in ((9, 0.0), (14, 3.5)):
        result = run(scenario, script, [1.0], 30, channel=_outage(seconds))
        assert result.tasks is not None
        started, received = result.tasks.stamps[0, 3:5]
        left = bits - OUTAGE_BITS_PER_SECOND * max(0.0, leaking - (started - 1.0))
        assert 0 < left < bits or leaking == 0
        assert received == pytest.approx(1.0 + seconds + left / 8e6 + 0.01)


@pytest.mark.parametrize("result_bytes", [400, 4000])
def test_in_an_outage_a_result_of_one_packet_passes_an_empty_wire_and_others_wait(result_bytes: int) -> None:
    scenario = rate_scenario()
    profile = msgspec.structs.replace(scenario.ues[0].profile, result_bytes=result_bytes)
    scenario = with_arrivals(scenario, scenario.ues[0].arrivals, profile=profile)
    rates = np.full((80, 1), 8e6)
    down = rates.copy()
    down[2:12] = 0.0  # from 1 s to 6 s
    channel = ChannelStates(0.5, rates, down)
    result = run(scenario, Scripted([(("input",), 0.25, 0.5)]), [2.0, 3.0, 4.0], 12, channel=channel)
    assert result.tasks is not None
    tail_end, done = result.tasks.stamps[:, 6], result.tasks.stamps[:, 7]
    assert np.all((tail_end > 1.0) & (tail_end < 6.0))
    delay = scenario.ues[0].downlink_delay_seconds
    passing = result_bytes == 400
    if passing:
        assert done[0] == pytest.approx(tail_end[0] + delay)
    waiting = done[passing:]
    assert np.all((waiting > 6.0 + delay) & (waiting < 6.05))
    assert np.all(np.diff(waiting) > 0)


@pytest.mark.thorough
@pytest.mark.parametrize("cut", ["local", "input", "block3"])
def test_steady_state_agrees_with_the_exact_formula(cut: str) -> None:
    scenario = rate_scenario(6e6)
    scenario = with_arrivals(scenario, Arrivals(process="poisson", rates_per_second=(3.2,)))
    slots = 20_000
    result = simulate(scenario, Fixed(cut), slots, 5)
    tables = ChainTables.of(scenario, every_cut=True)
    at = scenario.ues[0].profile.chain_index(() if cut == "local" else (cut,))
    service = [
        tables.head_seconds[0, at] / 0.25,
        tables.wire_bits[0, at] / 6e6,
        tables.tail_seconds[0, at] / 0.8,
    ]
    expected = float(tandem_delay_seconds(3.2, service))
    if cut != "local":
        expected += 0.03 + tables.down_bits[0, at] / 6e6
    assert result.mean_delay_seconds() == pytest.approx(expected, rel=0.02)
    by_formula = simulate(scenario, Fixed(cut), 10, 5, mode="slot")
    assert by_formula.mean_delay_seconds() == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(result.mean_energy_joules(), by_formula.mean_energy_joules(), rtol=0.02)


def test_stages_sum_to_the_delay_queues_are_first_come_first_served_and_nothing_is_lost() -> None:
    scenario = with_arrivals(
        example_scenario(3, slot_seconds=2.0),
        Arrivals(process="switching", rates_per_second=(1.0, 3.0), switch_probability=0.2),
        uplink_delay_seconds=0.005,
    )
    rng = np.random.default_rng(1)
    gains = np.array([ue.mean_gain for ue in scenario.ues]) * rng.exponential(size=(400, 3))
    from controller.policies.static import Random

    result = simulate(scenario, Random(), 200, 3, channel=ChannelStates(0.1, gains, gains))
    tasks = result.tasks
    assert tasks is not None
    assert result.arrivals.sum() == tasks.ue.size > 800
    done = tasks.stamps[:, 7] <= 400.0
    assert result.completions.sum() == done.sum()
    stamps = tasks.stamps[done]
    assert np.all(np.diff(stamps, axis=1) >= -1e-9)
    for ue in range(3):
        mine = tasks.stamps[tasks.ue == ue]
        local = mine[:, 4] == mine[:, 2]
        for stamp in (1, 2):
            assert np.all(np.diff(mine[:, stamp])[~np.isnan(np.diff(mine[:, stamp]))] >= 0)
        sent = mine[~local & ~np.isnan(mine[:, 7])]
        assert sent.shape[0] > 50
        assert np.all(np.diff(sent[:, 3:], axis=0) >= -1e-9)
        # one at a time in each server
        assert np.all(sent[1:, 3] >= sent[:-1, 4] - 0.005 - 1e-9)
        assert np.all(sent[1:, 5] >= sent[:-1, 6] - 1e-9)
    # sums by slot are the sums over tasks
    np.testing.assert_allclose(
        result.compute_joules.sum(), tasks.compute_joules[tasks.stamps[:, 2] <= 400.0].sum(), rtol=1e-9
    )
    np.testing.assert_allclose(result.stage_seconds.sum(axis=(0, 1)), np.diff(stamps, axis=1).sum(axis=0), rtol=1e-9)
    mean_delay = np.nansum(np.where(result.completions > 0, result.delay_seconds, 0.0) * result.completions)
    assert mean_delay == pytest.approx((stamps[:, 7] - stamps[:, 0]).sum())


def test_queues_that_an_observation_reports_are_those_of_the_tasks() -> None:
    scenario = with_arrivals(rate_scenario(4e5), Arrivals(process="poisson", rates_per_second=(2.0,)))
    seen: list[Observation] = []

    class Watching(Fixed):
        def decide(self, observation: Observation) -> Decision:
            seen.append(observation)
            return super().decide(observation)

    result = simulate(scenario, Watching("block3"), 40, 2)
    tasks = result.tasks
    assert tasks is not None
    for observation in seen:
        now, ue = observation.monotonic_seconds, observation.ues[0]
        stamps = tasks.stamps
        arrived = stamps[:, 0] < now
        assert ue.in_flight_tasks == int(np.sum(arrived & ~(stamps[:, 7] <= now)))
        assert ue.device_queue_tasks == int(np.sum(arrived & ~(stamps[:, 1] < now)))
        sending = (stamps[:, 2] <= now) & ~(stamps[:, 4] - 0.01 <= now)
        assert ue.tx_queue_tasks == int(np.sum(sending))
    assert max(observation.ues[0].tx_queue_tasks for observation in seen) > 3
    assert max(observation.ues[0].tx_backlog_bytes for observation in seen) > 50_000


def test_arrivals_out_of_order_are_refused() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="sorted"):
        tandem.Tandem([np.array([1.0, 0.5])], given.Fixed(one, one, one, one, np.array([False]), one))


def given_up(times: list[float], service: tuple[float, float, float, float, float], timeout: float) -> list[float]:
    """Task by task: when each completes (positive) or is given up (negative), by the lab's rules.

    ``service``: seconds of head, transfer and tail, delay of the uplink, and of the downlink with its transfer.
    """
    head, transfer, tail, up, down = service
    device = link = edge = 0.0
    ends = []
    for arrival in times:
        expiry, start = arrival + timeout, max(arrival, device)
        if start > expiry:  # the device does not begin with it
            ends.append(-start)
            continue
        device = start + head
        if transfer == 0.0:  # local: it is through
            ends.append(device)
            continue
        sent = max(device, link)
        if sent >= expiry:
            ends.append(-max(expiry, device))
            continue
        link = min(sent + transfer, expiry)
        if link < sent + transfer:  # on the air
            ends.append(-expiry)
            continue
        begun = max(link + up, edge)
        if begun + tail > expiry:  # the edge drops it
            ends.append(-min(begun, expiry))
            continue
        edge = begun + tail
        ends.append(edge + down if edge + down <= expiry else -expiry)
    return ends


@pytest.mark.parametrize("cut", [(), ("input",), ("block3",)])
@pytest.mark.parametrize("timeout", [0.35, 0.8, 3.0])
@pytest.mark.parametrize(
    ("speed", "share", "rate_bits"), [(0.25, 0.8, 8e6), (0.04, 0.8, 8e6), (0.25, 0.02, 8e6), (0.25, 0.8, 3e5)]
)
def test_tasks_that_are_too_old_are_given_up_as_in_the_lab(
    cut: Cut, timeout: float, speed: float, share: float, rate_bits: float
) -> None:
    scenario = rate_scenario(rate_bits)
    alone = run(scenario, Scripted([(cut, speed, share)]), [0.0], 200).tasks
    assert alone is not None
    stages = np.diff(alone.stamps[0])  # queues are empty: arrival, head, tx, transfer, edge, tail, down
    delay = scenario.ues[0].uplink_delay_seconds
    transfer = 0.0 if not cut else float(stages[3]) - delay
    service = (float(stages[1]), transfer, float(stages[5]), delay, float(stages[6]))
    rng = np.random.default_rng(7)
    times = np.sort(rng.uniform(0.0, 20.0, 120)).tolist()
    result = run(scenario, Scripted([(cut, speed, share)]), times, 60, task_timeout_seconds=timeout)
    assert result.tasks is not None
    assert result.tasks.failed_seconds is not None
    expected = np.array(given_up(times, service, timeout))
    failed = result.tasks.failed_seconds
    completed = result.completed()
    assert completed.tolist() == (expected > 0).tolist()
    assert result.tasks.stamps[completed, 7] == pytest.approx(expected[completed], abs=1e-6)
    assert failed[~completed] == pytest.approx(-expected[~completed], abs=1e-6)
    assert int(result.completions.sum()) == int(completed.sum())
    assert not result.tasks.stamps[completed, 7].max(initial=0.0) > 60.0


class Watching(Scripted):
    """Remembers what it was told."""

    def __init__(self, script: list[tuple[Cut, float, float]]) -> None:
        super().__init__(script)
        self.failures: list[int] = []
        self.in_flight: list[int] = []

    def decide(self, observation: Observation) -> Decision:
        self.in_flight.append(observation.ues[0].in_flight_tasks)
        return super().decide(observation)

    def feedback(self, outcome: SlotOutcome) -> None:
        self.failures.append(outcome.ues[0].failures)


def test_a_lab_that_cannot_keep_up_fails_tasks_in_the_simulator_too() -> None:
    """Books stay balanced slot by slot: what arrived completed, failed, or is in flight."""
    policy = Watching([((), 0.04, 0.8)])
    times = np.sort(np.random.default_rng(3).uniform(0.0, 100.0, 1000)).tolist()
    result = run(rate_scenario(), policy, times, 100, task_timeout_seconds=10.0)
    assert result.tasks is not None
    assert result.failed().sum() > 500
    assert sum(policy.failures) == result.failed().sum()
    assert policy.in_flight[-1] < 200, "the device queue holds no more than ten seconds of tasks"
    assert (result.tasks.delay_seconds[result.completed()] < 10.0 + 2.0).all()
    arrived, completed = np.cumsum(result.arrivals.sum(axis=1)), np.cumsum(result.completions.sum(axis=1))
    held = np.array(policy.in_flight[1:])
    balance = arrived - completed - np.cumsum(policy.failures)
    assert balance[:-1].tolist() == held.tolist()


def test_what_is_under_way_at_the_end_may_finish() -> None:
    """The last task arrives just before the end: with a drain it completes as it would have in a longer run."""
    times, script = [0.5, 3.9], [(("block3",), 0.25, 0.8)]
    longer = run(rate_scenario(), Scripted(script), times, 10)
    cut_off = run(rate_scenario(), Scripted(script), times, 4)
    drained = run(rate_scenario(), Scripted(script), times, 4, drain_seconds=10.0)
    assert longer.tasks is not None
    assert drained.tasks is not None
    assert cut_off.completed().tolist() == [True, False]
    assert drained.completed().tolist() == [True, True]
    assert drained.tasks.stamps[:, 7] == pytest.approx(longer.tasks.stamps[:, 7])
    assert drained.drained_seconds == 1.0, "no longer than it takes"
    assert drained.arrivals.shape == cut_off.arrivals.shape
