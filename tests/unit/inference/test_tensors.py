from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.contract import Codec
from testbed.inference import tensors
from testbed.inference.tensors import MalformedFrame

CODECS: tuple[Codec, ...] = ("fp32", "fp16", "uint8")


def packed(codec: Codec = "fp32") -> tuple[bytes, list[memoryview]]:
    return tensors.pack(5, ("a", "b"), [torch.randn(1, 3, 4), torch.arange(6).view(2, 3)], codec)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(1, 5, 7),
        torch.randn(1, 5, 7).permute(0, 2, 1),
        torch.randn(2, 5, 7, 3).permute(3, 1, 0, 2),
        torch.randn(1, 8, 6, 6).contiguous(memory_format=torch.channels_last),
        torch.randn(4, 6)[:, ::2],
        torch.randn(1, 4).expand(3, 4),
        torch.randn(()),
        torch.randn(0, 3),
        torch.randn(3, 2, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16),
        torch.randn(3).bfloat16(),
    ],
)
def test_round_trip_keeps_every_bit(tensor: torch.Tensor) -> None:
    header, buffers = tensors.pack(2**40, ("x",), [tensor], "fp32")
    assert sum(buffer.nbytes for buffer in buffers) == tensor.numel() * tensor.element_size()
    (received,) = tensors.unpack(header, buffers).tensors
    assert received.dtype == tensor.dtype
    assert received.shape == tensor.shape
    assert torch.equal(received, tensor)


def test_permuted_memory_stays_permuted() -> None:
    tensor = torch.randn(1, 16, 5, 7).permute(0, 2, 3, 1)
    (received,) = tensors.unpack(*tensors.pack(0, ("x",), [tensor], "fp32")).tensors
    assert received.stride() == tensor.stride()


def test_fp32_is_not_copied() -> None:
    tensor = torch.randn(1, 64)
    header, buffers = tensors.pack(0, ("x",), [tensor], "fp32")
    received = bytearray(b"".join(buffers))
    tensor[0, 0] = 7.0
    assert memoryview(buffers[0]).cast("f")[0] == 7.0
    (result,) = tensors.unpack(header, [received]).tensors
    received[:4] = torch.tensor([9.0]).numpy().tobytes()
    assert result[0, 0] == 9.0


def test_payload_in_one_piece_at_an_odd_offset() -> None:
    header, buffers = tensors.pack(0, ("a", "b"), [torch.ones(3, dtype=torch.uint8), torch.randn(5)], "fp32")
    parts = tensors.split_payload(tensors.decode_header(header), b"".join(buffers))
    first, second = tensors.unpack(header, parts).tensors
    assert torch.equal(first, torch.ones(3, dtype=torch.uint8))
    assert bytes(second.numpy().data) == bytes(buffers[1])


@pytest.mark.parametrize("codec", CODECS)
def test_payload_bytes_of_the_header(codec: Codec) -> None:
    header, buffers = packed(codec)
    width = {"fp32": 4, "fp16": 2, "uint8": 1}[codec]
    assert tensors.decode_header(header).buffer_bytes == (12 * width, 6 * 8)
    assert [buffer.nbytes for buffer in buffers] == [12 * width, 6 * 8]


def header_with(**changes: Any) -> bytes:
    """A valid one-tensor header with some fields replaced."""
    fields: dict[str, Any] = {"version": 1, "task": 0, "cut": "x", "codec": "fp32"}
    tensor: dict[str, Any] = {"dtype": "f32", "shape": [2, 3], "order": [], "scale": 1.0, "offset": 0.0}
    for key, value in changes.items():
        (tensor if key in tensor else fields)[key] = value
    return msgspec.msgpack.encode([*fields.values(), [list(tensor.values())]])


def test_the_base_of_the_malformed_headers_is_well_formed() -> None:
    assert tensors.unpack(header_with(), [bytes(24)]).tensors[0].shape == (2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"task": -1},
        {"task": 2**64 - 1},
        {"cut": "x+y"},
        {"codec": "gzip"},
        {"dtype": "object"},
        {"shape": [-2, -3]},
        {"shape": [2, 4]},
        {"shape": [2**29, 2**29]},
        {"shape": [1] * 9},
        {"order": [0, 0]},
        {"order": [1]},
        {"order": [7, 1]},
        {"scale": float("nan")},
        {"scale": 2.2e41},
        {"offset": float("inf")},
    ],
)
def test_malformed_headers(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedFrame):
        tensors.unpack(header_with(**changes), [bytes(24)])


@pytest.mark.parametrize("size", [0, 23, 25])
def test_buffers_of_the_wrong_size(size: int) -> None:
    with pytest.raises(MalformedFrame):
        tensors.unpack(header_with(), [bytes(size)])
    with pytest.raises(MalformedFrame):
        tensors.split_payload(tensors.decode_header(header_with()), bytes(size))


def test_wrong_number_of_buffers_and_oversized_header() -> None:
    with pytest.raises(MalformedFrame):
        tensors.unpack(header_with(), [])
    with pytest.raises(MalformedFrame):
        tensors.decode_header(bytes(tensors.MAX_HEADER_BYTES + 1))


def survives(header: bytes, buffers: list[bytes]) -> None:
    try:
        frame = tensors.unpack(header, buffers)
    except MalformedFrame:
        return
    assert all(tensor.numel() >= 0 for tensor in frame.tensors)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.lists(st.binary(max_size=64), max_size=3))
def test_noise_never_crashes(header: bytes, buffers: list[bytes]) -> None:
    survives(header, buffers)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damaged_frames_never_crash(data: st.DataObject) -> None:
    header, views = packed(data.draw(st.sampled_from(CODECS)))
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        damaged[position] = data.draw(st.integers(0, 255))
    survives(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), [bytes(view) for view in views])
    survives(bytes(damaged), [bytes(view) for view in views])


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["version", "task", "cut", "codec", "dtype", "shape", "order", "scale", "offset"]), json_like)
def test_wrong_types_never_crash(key: str, value: Any) -> None:
    survives(header_with(**{key: value}), [bytes(24)])
