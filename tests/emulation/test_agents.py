"""UEs and edge as processes, without links and runtime: every task ends once, with the right answer and true stages."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest
import torch
import zmq

from controller.contract import Cut, cut_label
from testbed.inference import tensors
from testbed.inference.partition import load_split_model
from testbed.node import ledger, task_frames
from testbed.node.backend import task_input
from testbed.node.transport import TaskStream
from tests.emulation.agents_lab import MODEL, SEED, AgentsLab

EVENLY = [0.05 + 0.03 * number for number in range(1000)]


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


def unsplit_answers(ue_index: int, count: int) -> list[int]:
    split = load_split_model(MODEL, SEED)
    images = [task_input(split.model.signature, SEED, ue_index, number) for number in range(count)]
    with torch.inference_mode():
        return [int(split.partition(()).head(image)[0].argmax()) for image in images]


def test_every_cut_gives_the_unsplit_answer_and_stages_sum(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY, EVENLY], gpu="auto") as lab:
        edge = lab.hellos["edge"]
        assert edge.device.startswith("cuda: ") or (edge.device == "cpu" and "CUDA" in edge.device_reason)
        cuts = lab.profile.chain_cuts
        lab.apply(dict.fromkeys(lab.names, cuts[0]))
        lab.begin()
        applied: dict[int, Cut] = {1: cuts[0]}
        for cut in cuts:
            sequence = lab.apply(dict.fromkeys(lab.names, cut))
            applied[sequence] = cut
            for name in lab.names:
                lab.wait(
                    lambda name=name, sequence=sequence: any(  # type: ignore[misc]
                        task.ue == name and task.decision_sequence == sequence for task in lab.tasks
                    )
                )
        lab.stop()
        assert [task.reason for task in lab.tasks if task.status != "completed"] == []
        assert {task.cut for task in lab.tasks} == {cut_label(cut) for cut in cuts}
        for index, name in enumerate(lab.names):
            tasks = [task for task in lab.tasks if task.ue == name]
            answers = unsplit_answers(index, 1 + max(task.task for task in tasks))
            assert [task.answer for task in tasks] == [answers[task.task] for task in tasks]
        for task in lab.tasks:
            assert task.cut == cut_label(applied[task.decision_sequence])
            stages = ledger.stage_seconds(task)
            assert all(seconds >= 0 for seconds in stages.values()), stages
            assert sum(stages.values()) == pytest.approx(task.result_received_seconds - task.arrival_seconds, abs=1e-9)
            assert stages["head"] >= task.head_target_seconds - 1e-9  # rounding of the stamps
            assert stages["tail"] >= task.tail_target_seconds - 1e-9
            assert task.boundary_bytes == lab.profile.boundary_bytes(applied[task.decision_sequence], "fp32")
            assert task.wire_bytes > task.boundary_bytes or task.cut == "local"
            expected = 2.0 * stages["head"] if task.head_target_seconds else 0.0
            assert task.compute_joules == pytest.approx(expected)
            assert task.transmit_joules == pytest.approx(0.5 * stages["uplink"])


def test_arrived_is_completed_failed_and_in_flight(tmp_path: Path) -> None:
    """More than the edge can serve, stopped in the middle of it."""
    with AgentsLab(tmp_path, [EVENLY, [0.01 * number for number in range(2000)]]) as lab:
        middle = lab.profile.chain_cuts[2]
        lab.apply(dict.fromkeys(lab.names, middle), share=0.01)
        lab.begin()
        lab.pump(2.0)
        lab.stop()
        arrived = [(record.ue, record.task) for record in lab.arrived]
        ended = [(record.ue, record.task) for record in lab.tasks]
        assert len(set(arrived)) == len(arrived)
        assert len(set(ended)) == len(ended)
        assert set(ended) < set(arrived)
        in_flight = sum(
            msgspec.json.decode(event.text.split("; ")[1])["in_flight_tasks"]
            for event in lab.events("stopped")
            if event.node != "edge"
        )
        assert len(arrived) == len(ended) + in_flight
        for name in lab.names:
            reports = lab.ue_reports(name)
            assert [report.slot for report in reports] == list(range(-1, len(reports) - 1))
            assert sum(report.arrivals for report in reports) - sum(
                report.completions + report.failures for report in reports
            ) == pytest.approx(reports[-1].in_flight_tasks)
        backlog = lab.edge_reports()[-1].ues
        assert all(row.edge_queue_tasks > 0 and row.edge_backlog_seconds > 0 for row in backlog)


def test_stale_and_impossible_decisions_change_nothing(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        last, first = lab.profile.chain_cuts[-1], lab.profile.chain_cuts[0]
        lab.apply({"ue0": last}, sequence=10)
        lab.begin()
        lab.wait(lambda: len(lab.tasks) > 2)
        for sequence, cut, speed in ((9, first, 0.5), (10, first, 0.5), (11, ("no_such_value",), 0.5), (12, last, 0.0)):
            lab.apply({"ue0": cut}, sequence=sequence, speed=speed)
        seen = len(lab.tasks)
        lab.wait(lambda: len(lab.tasks) > seen + 10)
        assert {(task.cut, task.decision_sequence) for task in lab.tasks} == {("local", 10)}
        assert len(lab.events("decision-refused")) == 2
        lab.wait(lambda: lab.ue_reports("ue0")[-1].stale_decisions == 2)
        lab.apply({"ue0": first}, sequence=13)
        lab.wait(lambda: lab.tasks[-1].cut == "input")


def test_hello_is_repeated_until_welcome(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        lab.wait(lambda: all(lab.hello_counts.get(node, 0) >= 3 for node in ("edge", "ue0")))
        lab.begin()
        lab.pump(0.5)
        counts = dict(lab.hello_counts)
        lab.pump(1.0)
        assert lab.hello_counts == counts
        hello = lab.hellos["ue0"]
        tids = {int(task.name) for task in Path(f"/proc/{hello.pid}/task").iterdir()}
        assert {hello.stage_tid, *hello.extra_tids} <= tids
        assert len({hello.stage_tid, *hello.extra_tids}) == 1 + len(hello.extra_tids) >= 5


def test_garbage_at_the_edges_port_is_counted_and_survived(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        middle = lab.profile.chain_cuts[2]
        lab.apply({"ue0": middle})
        lab.begin()
        lab.wait(lambda: len(lab.tasks) > 2)
        with socket.create_connection(("127.0.0.1", lab.port)) as raw:
            raw.sendall(os.urandom(100_000))
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.set(zmq.LINGER, 1000)
            stranger.set(zmq.IDENTITY, b"nobody")
            stranger.connect(f"tcp://127.0.0.1:{lab.port}")
            for size in (0, 1, 20, 100_000):
                stranger.send_multipart([os.urandom(size)] * 3)
            lab.wait(lambda: any(report.malformed_frames >= 1 for report in lab.edge_reports()))
        # on a wire the newest connection counts: the UE's own was closed for it, and is made again
        lab.wait(lambda: len(lab.tasks) > 12 and {task.status for task in lab.tasks[-10:]} == {"completed"})
        assert lab.processes["edge"].is_alive()


def test_what_the_edge_cannot_serve_is_answered_with_the_reason(tmp_path: Path) -> None:
    """Spoken to directly, as a UE whose model differs from the edge's would."""
    with AgentsLab(tmp_path, [[], []]) as lab:
        context = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.set(zmq.IDENTITY, b"ue1")  # ROUTER_HANDOVER: takes the place of the real one
        lab.processes["ue1"].kill()
        lab.processes["ue1"].join()
        dealer.connect(f"tcp://{lab.address('ue1')}:{lab.port}")
        for number, (cut, shape, word) in enumerate(
            [
                (("nothing",), (4,), "nothing"),
                (lab.profile.chain_cuts[2], (1, 2, 3), "shape (1, 8, 16, 16), not f32 of (1, 2, 3)"),
                (lab.profile.chain_cuts[2], (2, 2048 // 2), "shape"),
            ]
        ):
            header, buffers = tensors.pack(number, cut, [torch.zeros(shape)], "fp32")
            dealer.send_multipart(TaskStream(number, header, buffers).next_chunk(1 << 20))
            ack = task_frames.decode_down(dealer.recv_multipart()[0])
            result = task_frames.decode_down(dealer.recv_multipart()[0])
            assert isinstance(ack, task_frames.Ack)
            assert isinstance(result, task_frames.Result)
            assert word in result.reason
        assert lab.processes["edge"].is_alive()
        context.destroy(linger=0)


def test_a_killed_edge_fails_the_task_in_transfer_and_later_ones_go_on(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        middle = lab.profile.chain_cuts[1]  # the largest tensor: several chunks at this rate
        lab.apply({"ue0": middle}, rate=1e6)
        lab.begin()
        lab.wait(lambda: len(lab.tasks) > 2)
        lab.kill("edge", signal.SIGSTOP)
        lab.pump(0.5)
        lab.kill("edge", signal.SIGKILL)
        lab.wait(lambda: any(task.status == "failed" for task in lab.tasks))
        lab.processes["edge"].join()
        lab.start_process("edge")
        lab.wait(lambda: "edge" in lab.hellos, 60)
        back = time.monotonic()
        lab.wait(lambda: any(t.status == "completed" and t.arrival_seconds > back for t in lab.tasks))
        failed = [task for task in lab.tasks if task.status == "failed"]
        assert {task.reason for task in failed} <= {
            "edge disconnected during transfer",
            "edge disconnected before the answer",
        }
        assert any(task.reason == "edge disconnected during transfer" for task in failed)
        assert len(failed) < 6, "tasks that had not been sent wait for the edge"
        numbers = [task.task for task in lab.tasks]
        assert len(set(numbers)) == len(numbers)


def test_a_task_that_cannot_be_answered_in_time_is_dropped_by_the_edge_which_says_so(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [[0.05, 0.06]], task_timeout_seconds=0.5) as lab:
        reference = lab.profile.tail_seconds[1]
        lab.apply({"ue0": lab.profile.chain_cuts[1]}, share=reference / 1.0)  # a tail takes a second
        lab.begin()
        lab.wait(lambda: len(lab.tasks) == 2)
        assert all(task.status == "failed" and task.reason.startswith("timeout: ") for task in lab.tasks)
        lab.stop()
        assert len(lab.tasks) == 2
        (edge,) = [event.text for event in lab.events("stopped") if event.node == "edge"]
        assert "dropped_tasks=2 " in edge


def test_sigterm_ends_agents_at_once_with_their_books_sent(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        lab.apply({"ue0": ()})
        lab.begin()
        lab.wait(lambda: len(lab.tasks) > 5)
        for node in ("edge", "ue0"):
            lab.kill(node, signal.SIGTERM)
        lab.wait(lambda: not any(process.is_alive() for process in lab.processes.values()))
        lab.pump(0.1)
        assert {process.exitcode for process in lab.processes.values()} == {0}
        assert {event.node for event in lab.events("stopped")} == {"edge", "ue0"}
        assert 0 <= len(lab.arrived) - len(lab.tasks) <= 2


def test_agents_go_on_without_a_controller_that_answers(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        sequence = lab.apply({"ue0": ("input",)})
        lab.begin()
        lab.wait(lambda: len(lab.tasks) > 2)
        lab.silence_controller()
        seen = len(lab.tasks)
        lab.wait(lambda: len(lab.tasks) > seen + 20)
        assert {task.decision_sequence for task in lab.tasks} == {sequence}
