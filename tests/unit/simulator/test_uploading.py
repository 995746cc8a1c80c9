"""Uploads in the simulator: the planners' recursions on an idle lab, rates that change, caches, what is recorded."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from uploading_lab import uploading_lab

from controller.model.uploading import INPUT, UploadWork
from controller.policies.static import DeviceOnly, EdgeOnly
from controller.policies.upload import FullUpload, Ionn, MjoaMu, MjoaMuSerial, SerialUpload, UploadPolicy
from controller.simulator.result import SimulationResult
from controller.simulator.simulate import simulate
from controller.simulator.upload_task import Capacities, UploadTask, task_seconds
from controller.solvers.upload.graph import graph_seconds
from controller.solvers.upload.plan import pipelined_seconds, plan_upload, serial_seconds
from controller.solvers.upload.problem import Rates, UploadProblem
from testbed.lab.simulated_tables import Watched

CHAINS = 300


def sent_by(result: SimulationResult) -> np.ndarray:
    """Bytes up of each task."""
    assert result.tasks is not None
    assert result.tasks.sent_bytes is not None
    return result.tasks.sent_bytes


def random_chain(rng: np.random.Generator, delays: bool) -> UploadWork:
    count = int(rng.integers(2, 9))
    parameters = rng.integers(0, 3, count) * rng.integers(1, 400_000, count)
    return UploadWork(
        names=tuple(f"node{i}" for i in range(count)),
        inputs=tuple((i - 1,) for i in range(count)),
        device_seconds=rng.uniform(0.001, 0.02, count),
        edge_seconds=rng.uniform(0.001, 0.02, count),
        output_bits=rng.uniform(1e4, 2e6, count),
        parameter_bits=8.0 * parameters,
        parameter_bytes=parameters,
        input_bits=1e6,
        block_ends=tuple(range(count)),
        up_delay_seconds=float(rng.uniform(0, 0.05)) if delays else 0.0,
        down_delay_seconds=float(rng.uniform(0, 0.05)) if delays else 0.0,
    )


@pytest.mark.parametrize("delays", [False, True])
def test_an_idle_lab_takes_what_the_recursion_says(delays: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(CHAINS):
        problem = UploadProblem(random_chain(rng, delays))
        work = problem.work
        rates = Rates(0.02, 0.5, float(rng.uniform(1e6, 2e7)), float(rng.uniform(1e6, 2e7)))
        capacities = Capacities(rates.speed, rates.share, rates.up_bits_per_second, rates.down_bits_per_second)
        sites = rng.integers(0, 2, len(work.names))
        uploads = [node for node in range(len(work.names)) if sites[node] and work.parameter_bytes[node]]
        at_edge = [bool(site) for site in sites]
        pipelined = task_seconds(work, at_edge, uploads, capacities)
        assert pipelined == pytest.approx(pipelined_seconds(problem.chain(rates), sites), abs=1e-9)
        assert pipelined == pytest.approx(graph_seconds(problem.graph(rates), sites), abs=1e-9)
        serial = task_seconds(work, at_edge, uploads, capacities, serial=True)
        assert serial == pytest.approx(serial_seconds(problem.chain(rates), sites), abs=1e-9)


def test_a_plan_of_blocks_takes_what_the_graph_says() -> None:
    """The example's network has a skip connection inside a block."""
    problem = UploadProblem.of(uploading_lab(), 0)
    rng = np.random.default_rng(4)
    assert problem.blocks < len(problem.work.names)
    for _ in range(50):
        sites = rng.integers(0, 2, problem.blocks)
        rates = Rates(0.01, 0.4, float(rng.uniform(1e6, 1e8)), 5e7)
        nodes = problem.by_node(sites)
        at_edge = [bool(site) for site in nodes]
        uploads = [i for i, there in enumerate(at_edge) if there and problem.work.parameter_bytes[i]]
        took = task_seconds(problem.work, at_edge, uploads, Capacities(0.01, 0.4, rates.up_bits_per_second, 5e7))
        assert took == pytest.approx(graph_seconds(problem.graph(rates), nodes), abs=1e-9)
        assert took == pytest.approx(pipelined_seconds(problem.nodes(rates), nodes), abs=1e-9)
        # a block that waits for all its parameters is never earlier
        assert pipelined_seconds(problem.chain(rates), sites) >= took - 1e-9


def two_nodes() -> UploadWork:
    """The first on the device for 1 s, the second at the edge for 0.1 s: 1 Mbit of features, 4 Mbit of parameters."""
    return UploadWork(
        names=("first", "second"), inputs=((INPUT,), (0,)), device_seconds=np.array([1.0, 1.0]),
        edge_seconds=np.array([0.1, 0.1]), output_bits=np.array([1e6, 1e5]), parameter_bits=np.array([0.0, 4e6]),
        parameter_bytes=np.array([0, 500_000]), input_bits=1e6, block_ends=(0, 1), up_delay_seconds=0.0,
        down_delay_seconds=0.0,
    )  # fmt: skip


def test_rates_change_while_a_task_is_under_way() -> None:
    task = UploadTask(two_nodes(), [False, True], [1], serial=False, arrival=10.0, start=10.5)
    task.advance(12.0, Capacities(1.0, 1.0, 1e6, 1e6))
    # 1 Mbit of parameters until the feature comes at 11.5, half of the feature by 12
    assert task.progress_ratio() == 0.0
    task.advance(math.inf, Capacities(1.0, 1.0, 2e6, 1e6))
    # the other half 0.25 s, 3 Mbit of parameters 1.5 s, 0.1 s of the edge, 0.1 s down
    assert task.done == pytest.approx(12.0 + 0.25 + 1.5 + 0.1 + 0.1)
    assert task.uplink_seconds == pytest.approx(1.5 + 1.75)
    assert task.sent_bits == pytest.approx(5e6)
    # the feature takes the link at once: it waits for nothing; what the parameters take behind it is tx_queue
    assert task.stages() == pytest.approx([0.5, 1.0, 1.5, 0.75, 0.0, 0.1, 0.1])
    assert sum(task.stages()) == pytest.approx(task.done - task.arrival)


def test_a_task_that_finds_nobody_takes_what_the_policy_predicted() -> None:
    scenario = uploading_lab(3)
    for policy in (MjoaMu(), MjoaMuSerial(), FullUpload(), SerialUpload()):
        result = simulate(scenario, policy, 200, 5)
        assert result.tasks is not None
        done = np.isfinite(result.tasks.delay_seconds)
        assert done.sum() > 20
        predicted = np.array([policy.state()[f"predicted_seconds.{ue.name}"] for ue in scenario.ues])
        served = result.tasks.delay_seconds - (result.tasks.stamps[:, 1] - result.tasks.stamps[:, 0])
        assert served[done] == pytest.approx(predicted[result.tasks.ue[done]], abs=1e-9)
        assert np.nansum(sent_by(result)) > 0


def test_a_ue_serves_one_task_at_a_time() -> None:
    result = simulate(uploading_lab(1, rate=4.0), MjoaMu(), 60, 5)
    assert result.tasks is not None
    stamps = result.tasks.stamps[np.isfinite(result.tasks.stamps[:, -1])]
    assert len(stamps) > 5
    assert np.all(stamps[1:, 1] >= stamps[:-1, -1] - 1e-9)
    assert stamps[-1, 1] - stamps[-1, 0] > 1.0  # its queue grows


def test_kept_layers_serve_later_queries_and_other_ues_of_the_model() -> None:
    cold = simulate(uploading_lab(2), EdgeOnly(), 120, 5)
    warm = simulate(uploading_lab(2, "keep"), EdgeOnly(), 120, 5)
    assert cold.tasks is not None
    assert warm.tasks is not None
    total = uploading_lab(2).ues[0].profile.nodes
    parameters = sum(node.parameter_bytes for node in total)
    assert np.all(sent_by(cold)[cold.tasks.cut >= 0] > parameters)
    sent = np.sort(sent_by(warm)[warm.tasks.cut >= 0])
    assert sent[-1] > parameters
    assert np.all(sent[:-1] < parameters)  # the first query of one UE has loaded the edge for both
    assert warm.mean_delay_seconds() < 0.5 * cold.mean_delay_seconds()


def test_a_warm_edge_gets_another_plan() -> None:
    scenario = uploading_lab(1, "keep")
    policy = MjoaMu()
    result = simulate(scenario, policy, 200, 5)
    assert result.tasks is not None
    sent = sent_by(result)[np.isfinite(result.tasks.delay_seconds)]
    assert sent[0] > sent[-1]
    assert policy.state()["upload_bytes.ue0"] == 0.0
    problem = UploadProblem.of(scenario, 0)
    assert result.task_delays()[-1] < result.task_delays()[0]
    assert policy.state()["edge_nodes.ue0"] <= len(problem.work.names)


def test_evicted_layers_are_those_that_were_used_last_of_all() -> None:
    scenario = uploading_lab(2, "keep", rate=0.02)
    size = sum(node.parameter_bytes for node in scenario.ues[0].profile.nodes)
    other = msgspec.structs.replace(scenario.ues[1].profile, model="another")
    ues = (scenario.ues[0], msgspec.structs.replace(scenario.ues[1], profile=other))
    assert scenario.uploading is not None
    tight = msgspec.structs.replace(
        scenario, ues=ues, uploading=msgspec.structs.replace(scenario.uploading, memory_bytes=int(1.1 * size))
    )
    result = simulate(tight, EdgeOnly(), 300, 5)
    assert result.tasks is not None
    sent = sent_by(result)[np.isfinite(result.tasks.delay_seconds)]
    assert np.all(sent > 0.8 * size)  # each UE's query finds the other's model
    roomy = simulate(msgspec.structs.replace(scenario, ues=ues), EdgeOnly(), 300, 5)
    assert roomy.tasks is not None
    assert np.sum(sent_by(roomy) > size) == 2


def test_what_the_edge_cannot_hold_is_not_simulated() -> None:
    scenario = uploading_lab(1)
    assert scenario.uploading is not None
    tiny = msgspec.structs.replace(
        scenario, uploading=msgspec.structs.replace(scenario.uploading, memory_bytes=1_000_000)
    )
    with pytest.raises(ValueError, match=r"running tasks need \d+ bytes of parameters at the edge"):
        simulate(tiny, EdgeOnly(), 60, 5)
    policy = FullUpload()
    simulate(tiny, policy, 60, 5)
    assert 0 < policy.state()["upload_bytes.ue0"] <= 1_000_000


def test_a_policy_sees_what_the_edge_holds_and_how_far_an_upload_is() -> None:
    policy = Watched(MjoaMu())
    simulate(uploading_lab(1, "keep"), policy, 60, 5)
    seen = [closed.observation for closed in policy.closed]
    progress = [one.ues[0].upload_progress_ratio for one in seen]
    cached = [len(one.ues[0].cached_nodes) for one in seen]
    assert any(0 < ratio < 1 for ratio in progress)
    assert cached == sorted(cached)
    assert 0 == cached[0] < cached[-1]
    assert {one.ues[0].in_flight_tasks for one in seen} == {0, 1}


def test_local_tasks_send_nothing_and_modes_are_told_apart() -> None:
    scenario = uploading_lab(1)
    local = simulate(scenario, DeviceOnly(), 60, 5)
    assert local.tasks is not None
    total = scenario.ues[0].profile.head_seconds[-1] / scenario.ues[0].max_speed
    assert local.task_delays() == pytest.approx(total, abs=1e-9)
    assert sent_by(local).sum() == 0
    assert local.cut_shares() == {"local": 1.0}
    with pytest.raises(ValueError, match="mode 'event'"):
        simulate(scenario, DeviceOnly(), 60, 5, mode="slot")


@pytest.mark.parametrize("policy", [MjoaMu(), Ionn()])
def test_policies_of_uploads_want_such_a_lab(policy: UploadPolicy) -> None:
    scenario = msgspec.structs.replace(uploading_lab(), uploading=None)
    with pytest.raises(ValueError, match="the lab needs the key 'uploading'"):
        simulate(scenario, policy, 10, 5)


def test_the_plan_is_the_exact_one_over_blocks() -> None:
    problem = UploadProblem.of(uploading_lab(), 0)
    rates = Rates(0.01, 0.4, 3e7, 3e7)
    plan = plan_upload(problem.chain(rates))
    assert plan.sites.any()
    assert problem.by_node(plan.sites).tolist() == MjoaMu().sites(problem, rates).tolist()


def test_a_task_that_is_too_old_is_given_up_as_in_the_lab() -> None:
    """The first one leaves device, link and edge at its timeout; those that waited too long meanwhile never begin."""
    lab = uploading_lab(1)
    arrivals = msgspec.structs.replace(lab.ues[0].arrivals, process="file", rates_per_second=(1.0,))
    lab = msgspec.structs.replace(lab, ues=(msgspec.structs.replace(lab.ues[0], arrivals=arrivals),))
    whole = simulate(lab, EdgeOnly(), 60, 1, arrival_files={"ue0": [0.5]})
    assert whole.tasks is not None
    seconds = float(whole.tasks.delay_seconds[0])
    timeout = 0.6 * seconds
    times = [0.5, 0.6, 0.5 + timeout / 2, 0.5 + 5 * seconds]
    result = simulate(lab, EdgeOnly(), 60, 1, arrival_files={"ue0": times}, task_timeout_seconds=timeout)
    assert result.tasks is not None
    assert result.tasks.failed_seconds is not None
    assert result.failed().tolist() == [True, True, True, True]
    expected = [0.5 + timeout, 0.6 + timeout, 0.5 + 1.5 * timeout, 0.5 + 5 * seconds + timeout]
    assert result.tasks.failed_seconds == pytest.approx(expected)
    assert not result.completed().any()
    patient = simulate(lab, EdgeOnly(), 60, 1, arrival_files={"ue0": times}, task_timeout_seconds=1.5 * seconds)
    assert patient.completed().tolist()[0] is True
    assert patient.completed().tolist()[3] is True
