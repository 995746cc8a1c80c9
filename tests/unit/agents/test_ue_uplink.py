"""A UE's uplink over connections that break: a real socket, and an edge that goes away and comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import torch
import zmq

from controller.service import protocol
from testbed.inference import tensors
from testbed.node import task_frames
from testbed.node.ledger import Books, Task
from testbed.programs.ue.ue_uplink import Uplink
from testbed.protocol.records import TaskRecord

SECONDS = 20.0


def task(number: int) -> Task:
    header, buffers = tensors.pack(number, ("a",), [torch.ones(3)], "fp32")
    size = sum(len(buffer) for buffer in buffers)
    return Task(number, time.monotonic(), header=header, buffers=list(buffers), boundary_bytes=size)


def wait(condition: Callable[[], bool]) -> None:
    """Without a pause: what is looked for takes microseconds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_sent_right_after_a_disconnect_is_not_lost_with_the_connection(count: int) -> None:
    """The socket still takes messages for the connection that it has told is gone."""
    with zmq.Context() as context:
        edge = context.socket(zmq.ROUTER)
        edge.set(zmq.LINGER, 0)
        port = edge.bind_to_random_port("tcp://127.0.0.1")
        told: list[protocol.Message] = []
        books = Books("ue0", told.append)
        uplink = Uplink(context, "ue0", f"tcp://127.0.0.1:{port}", 0.01, 60.0, books, lambda _: (0, 0))

        def turn() -> None:
            uplink.watch()
            uplink.send()

        def has_come() -> bool:
            turn()
            return bool(edge.poll(0))

        uplink.add(task(0))
        wait(has_come)
        edge.close(linger=0)
        for number in range(1, count + 1):
            uplink.add(task(number))

        def is_told() -> bool:
            uplink.watch()
            return uplink.disconnects == 1

        wait(is_told)
        uplink.send()
        assert uplink.sender.outstanding_bytes == 0
        edge = context.socket(zmq.ROUTER)
        edge.set(zmq.LINGER, 0)
        edge.bind(f"tcp://127.0.0.1:{port}")
        wait(has_come)
        uplink.close()
        edge.close(linger=0)
    assert [(one.task, one.status) for one in told if isinstance(one, TaskRecord)] == [(0, "failed")]


@pytest.mark.parametrize("silent", [0.0, 1.5, 9.0])
def test_a_transfer_is_charged_for_its_time_on_the_air(silent: float) -> None:
    """Not for the way, nor for a time in which the wire let nothing through."""
    asked: list[tuple[float, float]] = []

    def silent_seconds(begin: float, end: float) -> float:
        asked.append((begin, end))
        return silent

    books = Books("ue0", lambda _: None)
    with zmq.Context() as context:
        edge = context.socket(zmq.ROUTER)
        edge.set(zmq.LINGER, 0)
        port = edge.bind_to_random_port("tcp://127.0.0.1")
        uplink = Uplink(context, "ue0", f"tcp://127.0.0.1:{port}", 0.5, 60.0, books, lambda _: (0, 0))
        uplink.silent_seconds = silent_seconds
        sent = task(0)
        sent.transmit_watts, sent.head_end_seconds = 0.3, sent.arrival_seconds
        uplink.add(sent)

        def has_come() -> bool:
            uplink.watch()
            uplink.send()
            return bool(edge.poll(0))

        wait(has_come)
        peer, *_ = edge.recv_multipart()
        edge.send_multipart(
            [peer, task_frames.encode(task_frames.Ack(0, sent.boundary_bytes, sent.head_end_seconds + 3.0))]
        )

        def is_received() -> bool:
            uplink.receive()
            return not math.isnan(sent.received_seconds)

        wait(is_received)
        uplink.close()
        edge.close(linger=0)
    [(begin, end)] = asked
    assert (begin, end - begin) == (sent.head_end_seconds, pytest.approx(2.75))
    assert sent.received_seconds - sent.transfer_start_seconds == pytest.approx(3.0)
    assert sent.transmit_joules == pytest.approx(0.3 * max(2.75 - silent, 0.0))
    sums = books.take_sums()
    assert (sums.transmit_joules, sums.acked_bytes) == (sent.transmit_joules, sent.boundary_bytes)
