"""Chunks, credit and reassembly: what goes in comes out, in bounds, whatever the sizes and whoever sends."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.inference import tensors
from testbed.inference.tensors import MalformedFrame
from testbed.node import task_frames
from testbed.node.transport import (
    MAX_CHUNK_BYTES,
    Assembler,
    CreditSender,
    RateEstimate,
    ReceivedTask,
    RefusedTaskError,
    TaskStream,
)


def packed(task: int, sizes: list[int], seed: int = 0) -> tuple[bytes, list[memoryview]]:
    """uint8 tensors of ``sizes`` elements, one name of the cut each."""
    values = [
        torch.from_numpy(np.random.default_rng(seed + i).integers(0, 256, n, np.uint8)) for i, n in enumerate(sizes)
    ]
    return tensors.pack(task, tuple(f"v{i}" for i in range(len(sizes))), values, "fp32")


def accept(header: tensors.FrameHeader) -> None:
    """Any header will do."""


def frames_of(message: list[bytes | memoryview]) -> list[memoryview]:
    return [memoryview(bytes(frame)) for frame in message]


def deliver(stream: TaskStream, assembler: Assembler, limits: list[int]) -> ReceivedTask:
    """Send all chunks, with sizes as ``limits`` go round. Fails unless exactly the last one completes the task."""
    count = 0
    while True:
        message = stream.next_chunk(limits[count % len(limits)])
        ack, done = assembler.feed(frames_of(message), float(count))
        assert ack == task_frames.Ack(stream.task, stream.offset, float(count))
        assert (done is not None) == stream.finished
        count += 1
        if done is not None:
            return done


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=4),
    limits=st.lists(st.integers(1, 30_000), min_size=1, max_size=5),
)
def test_what_is_sent_in_chunks_is_what_is_received(sizes: list[int], limits: list[int]) -> None:
    header, buffers = packed(5, sizes)
    done = deliver(TaskStream(5, header, buffers), Assembler(accept), limits)
    assert done.task == 5
    assert [bytes(buffer) for buffer in done.buffers] == [bytes(buffer) for buffer in buffers]
    assert done.cut == tuple(f"v{i}" for i in range(len(sizes)))


def test_a_task_in_one_message_is_not_copied() -> None:
    header, buffers = packed(1, [1000, 50])
    frames = frames_of(TaskStream(1, header, buffers).next_chunk(10**9))
    _, done = Assembler(accept).feed(frames, 0.0)
    assert done is not None
    assert done.buffers[0].obj is frames[2].obj


def test_chunks_fill_whole_segments() -> None:
    header, buffers = packed(1, [100_000])
    stream = TaskStream(1, header, buffers)
    for _ in range(3):
        message = stream.next_chunk(6 * task_frames.SEGMENT_BYTES)
        assert task_frames.stream_bytes(len(frame) for frame in message) == 6 * task_frames.SEGMENT_BYTES


def test_layer_2_bytes_count_every_segments_frame() -> None:
    assert task_frames.layer2_bytes(1448) == 1514
    assert task_frames.layer2_bytes(1449) == 1449 + 2 * 66
    assert task_frames.message_layer2_bytes([b"x" * 255]) == 257 + 66
    assert task_frames.message_layer2_bytes([b"x" * 256]) == 265 + 66


def test_a_chunk_that_was_not_sent_is_made_again() -> None:
    header, buffers = packed(1, [5000])
    stream = TaskStream(1, header, buffers)
    first = frames_of(stream.next_chunk(1448))
    stream.take_back()
    assert frames_of(stream.next_chunk(1448)) == first


def test_a_new_task_voids_an_unfinished_one() -> None:
    assembler = Assembler(accept)
    abandoned = TaskStream(1, *packed(1, [5000]))
    assembler.feed(frames_of(abandoned.next_chunk(1448)), 0.0)
    assert deliver(TaskStream(2, *packed(2, [5000])), assembler, [1448]).task == 2


def test_chunks_out_of_order_are_malformed_and_the_next_task_goes_through() -> None:
    assembler = Assembler(accept)
    stream = TaskStream(1, *packed(1, [9000]))
    messages = [frames_of(stream.next_chunk(1448)) for _ in range(3)]
    assembler.feed(messages[0], 0.0)
    with pytest.raises(MalformedFrame):
        assembler.feed(messages[2], 0.0)
    with pytest.raises(MalformedFrame):
        assembler.feed(messages[1], 0.0)
    assert deliver(TaskStream(2, *packed(2, [9000])), assembler, [1448]).task == 2


def test_more_payload_than_announced_is_malformed() -> None:
    assembler = Assembler(accept)
    stream = TaskStream(1, *packed(1, [3000]))
    assembler.feed(frames_of(stream.next_chunk(1448)), 0.0)
    last = frames_of(stream.next_chunk(10_000))
    with pytest.raises(MalformedFrame):
        assembler.feed([*last, memoryview(b"x")], 0.0)


def test_a_refused_task_is_said_once_and_its_bytes_still_acknowledged() -> None:
    def refuse(header: tensors.FrameHeader) -> None:
        raise RefusedTaskError(f"no tail of {header.cut}")

    assembler = Assembler(refuse)
    stream = TaskStream(1, *packed(1, [9000]))
    refusals = []
    while not stream.finished:
        ack, done = assembler.feed(frames_of(stream.next_chunk(1448)), 0.0)
        assert ack.end == stream.offset
        refusals += [done.refusal] if done else []
    assert refusals == ["no tail of v0"]


def test_damaged_messages_raise_malformed_and_nothing_else() -> None:
    """2000 messages, each with bytes flipped, frames lost, doubled or swapped."""
    rng = random.Random(1)
    assembler = Assembler(accept)
    malformed = 0
    for number in range(2000):
        stream = TaskStream(number, *packed(number, [300, 2000]))
        frames = [bytearray(bytes(frame)) for frame in stream.next_chunk(rng.choice([400, 10_000]))]
        for _ in range(rng.randint(1, 4)):
            damage = rng.randrange(4)
            if damage == 0:
                frame = rng.choice(frames)
                frame[rng.randrange(len(frame))] = rng.randrange(256)
            elif damage == 1 and len(frames) > 1:
                frames.pop(rng.randrange(len(frames)))
            elif damage == 2:
                frames.append(bytearray(rng.choice(frames)))
            else:
                rng.shuffle(frames)
        try:
            assembler.feed([memoryview(bytes(frame)) for frame in frames], 0.0)
        except MalformedFrame:
            malformed += 1
    assert malformed > 500
    assert deliver(TaskStream(9999, *packed(9999, [5000])), assembler, [1448]).task == 9999


def test_credit_bounds_what_is_unacknowledged_and_a_lost_connection_frees_it() -> None:
    sender = CreditSender(round_trip_seconds=0.02)
    sender.rate.command(8e6)
    stream = TaskStream(1, *packed(1, [500_000]))
    while sender.may_send:
        message = stream.next_chunk(sender.chunk_stream_bytes)
        sender.sent(stream, task_frames.message_layer2_bytes(message))
    assert 8e6 / 8 * 0.02 < sender.outstanding_bytes <= sender.window_bytes
    assert sender.window_bytes <= 8e6 / 8 * (0.02 + 2 * 10e-3) + 2 * 1514
    sender.reset()
    assert sender.may_send
    assert not sender.acknowledged(1, stream.offset, 0.0)


def test_a_chunk_lasts_ten_milliseconds_within_its_bounds() -> None:
    sender = CreditSender(0.0)
    for rate, low, high in ((20e3, 1448, 1448), (5e6, 4 * 1448, 5 * 1448), (1e9, 45 * 1448, MAX_CHUNK_BYTES)):
        sender.rate.command(rate)
        assert low <= sender.chunk_stream_bytes <= high


def test_one_chunk_may_always_leave() -> None:
    sender = CreditSender(0.0)
    sender.rate.command(1.0)
    assert sender.may_send


def test_rate_follows_acknowledgements_while_the_link_is_busy() -> None:
    rate = RateEstimate()
    rate.command(10e6)
    now = 0.0
    for _ in range(200):
        rate.acknowledged(5000, now, still_busy=True)
        now += 5000 * 8 / 2e6
    assert rate.bits_per_second == pytest.approx(2e6, rel=0.05)


def test_rate_ignores_pauses() -> None:
    rate = RateEstimate()
    rate.command(10e6)
    for second in range(100):
        rate.acknowledged(5000, float(second), still_busy=False)
    assert rate.bits_per_second == 10e6
