"""Mutated frames at every decoder, in short; ``python -m benchmarks fuzz`` sends a million to each."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.fuzz import Protocol, fuzz, protocols
from controller.service import protocol
from testbed.inference import tensors, weights
from testbed.inference.tensors import MalformedFrame
from testbed.mechanisms.retraining import update_frames
from testbed.mechanisms.uploading import upload_frames
from testbed.node import task_frames
from testbed.protocol import records

#: ``options`` of a policy may hold anything, and so may a key that nobody knows.
NESTED = [b"\x81\xa7unknown" + nest * 5000 for nest in (b"\x91", b"\x81\xa1a")]


@pytest.mark.parametrize("name", protocols())
def test_no_frame_brings_a_decoder_down(name: str) -> None:
    outcome = fuzz(protocols()[name], 5000, seed=7)
    assert not outcome.crash, f"{outcome.crash}: {outcome.frame_hex}"
    assert outcome.accepted > 50
    assert outcome.refused > 1000


def test_the_fuzz_finds_what_msgspec_lets_through() -> None:
    raw = msgspec.msgpack.Decoder(protocol.Control)
    control = protocols()["control"]
    outcome = fuzz(Protocol(control.corpus, raw.decode, control.refusals), 20_000, seed=7)
    assert outcome.crash.startswith(("RecursionError", "UnicodeDecodeError"))
    assert outcome.frame_hex


@pytest.mark.parametrize("frame", NESTED)
def test_nesting_without_end_is_malformed(frame: bytes) -> None:
    for decode in (protocol.decode_control, records.decode_record):
        with pytest.raises(msgspec.DecodeError):
            decode(frame)
    for decode_wire in (task_frames.decode_chunk, task_frames.decode_down, upload_frames.decode_up,
                        upload_frames.decode_start, update_frames.decode_up, update_frames.decode_down,
                        tensors.decode_header):  # fmt: skip
        with pytest.raises(MalformedFrame):
            decode_wire(frame)


@pytest.mark.parametrize("shape", [(0, 1 << 30, 1 << 30, 1 << 30), (1 << 30,) * 8, (1 << 20, 1 << 20)])
def test_a_shape_that_no_tensor_has_reserves_nothing(shape: tuple[int, ...]) -> None:
    contents = weights.Contents((weights.TensorEntry("w", "f32", shape),), 0, bytes(16))
    with pytest.raises(MalformedFrame, match=r"over the limit|do not make up"):
        weights.Arriving(contents)
    with pytest.raises(MalformedFrame):
        weights.unpack(msgspec.structs.replace(contents, digest=weights.digest_of(b"")), bytearray())
    header = tensors.FrameHeader(1, 1, "a", "fp32", (tensors.TensorHeader("f32", shape, (), 1.0, 0.0),))
    with pytest.raises(MalformedFrame, match="over the limit"):
        tensors.decode_header(msgspec.msgpack.encode(header))
