"""Whole codecs: what comes out, how many bytes it was, and what a decoder makes of bytes that nobody encoded."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lz4 import block as lz4
from PIL import Image
from torch import Tensor

from controller.contract import Codec
from controller.contract.codec import CODE_BITS, LOSSLESS_STAGES
from testbed.errors import InputError
from testbed.inference import coders, lossless, tensors
from testbed.inference.partition import SplitModel
from testbed.inference.quantise import dequantise, quantise

Load = Callable[[str], SplitModel]
HERE = Path(__file__).parent
CODES = tuple(CODE_BITS)
BUILT_IN = (*CODES, *(f"{code}+{stage}" for code in CODES for stage in LOSSLESS_STAGES))
PICTURES = ("png", "jpeg-90")
SHAPES = ((1, 3, 5, 7), (1, 6, 8), (1, 10), (2, 2, 1, 3, 2), (1, 4, 0, 2), ())
OWN = "own_codecs:Halves"


def there_and_back(tensor: Tensor, codec: Codec, cut: tuple[str, ...] = ("x",)) -> Tensor:
    header, buffers = tensors.pack(1, cut, [tensor], codec)
    decoded = tensors.decode_header(header)
    payload = b"".join(buffers)
    assert len(payload) == decoded.payload_bytes
    return tensors.unpack(decoded, tensors.split_payload(decoded, payload)).tensors[0]


@pytest.mark.parametrize("codec", BUILT_IN)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shape_type_and_error_of_every_codec(codec: Codec, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int16, torch.bool):
        tensor = (10 * torch.randn(shape, generator=torch.Generator().manual_seed(3))).to(dtype)
        result = there_and_back(tensor, codec)
        assert (result.dtype, result.shape) == (dtype, tensor.shape)
        bits = CODE_BITS[codec.partition("+")[0]]
        if not dtype.is_floating_point or bits >= 8 * dtype.itemsize:
            assert torch.equal(result, tensor)
        elif tensor.numel():
            step = float(tensor.double().max() - tensor.double().min()) / ((1 << min(bits, 8)) - 1)
            rounding = float(tensor.double().abs().max()) * max(float(torch.finfo(dtype).eps), 2.0**-11)
            assert float((result.double() - tensor.double()).abs().max()) <= 0.501 * step + rounding


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(2, 5),
    size=st.integers(2, 7),
    seed=st.integers(0, 1000),
    code=st.sampled_from(("uint8", "int4")),
)
def test_each_channel_has_a_scale_of_its_own(channels: int, size: int, seed: int, code: Codec) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = 10.0 ** torch.arange(channels).view(1, channels, 1, 1)
    tensor = spread * torch.randn(1, channels, size, 3, generator=generator)
    for given_tensor in (tensor, tensor.to(memory_format=torch.channels_last)):
        result = there_and_back(given_tensor, f"{code}-per-channel")
        range_of = tensor.amax((0, 2, 3)) - tensor.amin((0, 2, 3))
        allowed = 0.501 * range_of / ((1 << CODE_BITS[code]) - 1) + 1e-6 * tensor.abs().amax((0, 2, 3))
        assert bool(((result - tensor).abs().amax((0, 2, 3)) <= allowed).all())
        assert result.stride() == given_tensor.stride(), "the tail computes with the strides that the head made"


def test_one_number_per_half_byte() -> None:
    levels = torch.arange(16.0).view(1, 1, 4, 4)
    stream = quantise(levels, "int4", None)
    assert stream.tolist()[8:] == [low | (low + 1) << 4 for low in range(0, 16, 2)]
    assert torch.allclose(dequantise(stream, "int4", (1, 1, 4, 4), None, torch.float32), levels, atol=1e-5)


@pytest.mark.parametrize("codec", ["int4", "uint8-per-channel", "int4-per-channel+zstd"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_values_without_a_code_are_refused(codec: Codec, value: float) -> None:
    tensor = torch.tensor([[-3e38, value, 1.0]])
    with pytest.raises(ValueError, match="has no"):
        tensors.pack(0, ("x",), [tensor], codec)


@pytest.mark.parametrize("codec", PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures(codec: Codec, channels: int) -> None:
    rows = torch.arange(40, dtype=torch.uint8).view(1, 1, 40, 1)
    image = (3 * rows).expand(1, channels, 40, 24).contiguous()
    result = there_and_back(image, codec, ("input",))
    assert (result.dtype, result.shape) == (torch.uint8, image.shape)
    difference = (result.int() - image.int()).abs().max()
    assert difference == 0 if codec == "png" else difference <= 8
    with pytest.raises(ValueError, match="takes a uint8 image"):
        tensors.pack(0, ("input",), [image.float()], codec)


def test_a_raw_input_of_any_type_goes_out_as_it_is() -> None:
    sound = torch.randn(1, 1600)
    assert torch.equal(there_and_back(sound, "uint8", ("input",)), sound)
    assert torch.equal(there_and_back(sound, "uint8+zstd", ("input",)), sound)


# ------------------------------------------------------------------------------------------------------------ hostile


def framed(codec: Codec, data: bytes, shape: tuple[int, ...] = (1, 3, 8, 8), dtype: str = "f32") -> Tensor:
    """What a receiver makes of these bytes."""
    header = tensors.FrameHeader(
        tensors.WIRE_VERSION, 1, "x", codec, (tensors.TensorHeader(dtype, shape, (), 1.0, 0.0, len(data)),)
    )
    return tensors.unpack(tensors.decode_header(msgspec.msgpack.encode(header)), [memoryview(data)]).tensors[0]


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """100 MB of zeros in a few kB: the tensor has 768 bytes, and nothing larger may be allocated."""
    zeros = bytes(100_000_000)
    with pytest.raises(tensors.MalformedFrame, match="a zstd frame of 100000000 bytes in the place of 768"):
        framed("fp32+zstd", zstandard.ZstdCompressor(level=19).compress(zeros)[:1500])
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(zeros[:1_000_000])
    with pytest.raises(tensors.MalformedFrame, match="in the place of 768"):
        framed("fp32+zstd", silent)
    with pytest.raises(tensors.MalformedFrame, match="lz4"):
        framed("fp32+lz4", lz4.compress(zeros[:100_000], store_size=False))
    picture = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(picture, "PNG")
    with pytest.raises(tensors.MalformedFrame, match="bytes are said"):
        framed("png", picture.getvalue(), dtype="u8")
    picture = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(picture, "PNG")
    assert len(picture.getvalue()) < 65_000
    with pytest.raises(tensors.MalformedFrame, match=r"\(4000, 4000\) in the place of"):
        framed("png", picture.getvalue(), dtype="u8")


@pytest.mark.parametrize("codec", ["int4+zstd", "uint8+lz4", *PICTURES])
def test_a_header_that_claims_more_than_its_shape_is_refused(codec: Codec) -> None:
    dtype = "u8" if codec in PICTURES else "f32"
    with pytest.raises(tensors.MalformedFrame, match="bytes are said of x"):
        framed(codec, bytes(300_000), dtype=dtype)


@pytest.mark.parametrize("codec", [*BUILT_IN[6:], *PICTURES])
@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=300), flips=st.lists(st.integers(0, 10_000), max_size=3))
def test_garbage_is_malformed_or_a_tensor_of_that_shape(codec: Codec, data: bytes, flips: list[int]) -> None:
    dtype = torch.uint8 if codec in PICTURES else torch.float32
    tensor = (60 * torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))).to(dtype)
    right = bytearray(b"".join(tensors.pack(1, ("x",), [tensor], codec)[1]))
    for flip in flips:
        right[flip // 8 % len(right)] ^= 1 << flip % 8
    for attempt in (data, bytes(right), bytes(right[: len(data)])):
        try:
            result = framed(codec, attempt, dtype="u8" if codec in PICTURES else "f32")
        except tensors.MalformedFrame:
            continue
        assert (result.shape, result.dtype) == (tensor.shape, dtype)


def test_scales_that_are_none_are_malformed() -> None:
    tensor = torch.rand(1, 3, 8, 8)
    header, buffers = tensors.pack(1, ("x",), [tensor], "int4")
    broken = np.frombuffer(buffers[0], dtype=np.uint8).copy()
    broken[:4] = np.frombuffer(np.float32("nan").tobytes(), dtype=np.uint8)
    with pytest.raises(tensors.MalformedFrame, match="not finite"):
        tensors.unpack(header, [broken.data])


def test_a_name_on_the_wire_imports_nothing() -> None:
    for codec in ("os:system", "this:that", "gzip", "jpeg-0", "int4+zip", "x" * 200):
        with pytest.raises(tensors.MalformedFrame):
            framed(codec, b"1234")


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
@pytest.mark.parametrize("stage", LOSSLESS_STAGES)
def test_no_content_needs_more_than_is_allowed(stage: str, size: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8).tobytes()
    packed = lossless.compress(memoryview(noise), stage)
    assert len(packed) <= lossless.most_bytes(size)
    assert lossless.decompress(memoryview(packed), stage, size) == noise


# --------------------------------------------------------------------------------------------------------- a user's own


def test_a_users_codec(tmp_path: Path) -> None:
    coders.load_own(OWN, 7, (HERE,))
    tensor = torch.arange(24.0).view(1, 2, 3, 4)
    assert there_and_back(tensor, OWN).view(-1)[:4].tolist() == [0.0, 0.0, 2.0, 2.0]
    vector = torch.randn(1, 10)
    assert torch.equal(there_and_back(vector, OWN), vector), "what it leaves travels as it is"
    _, buffers = tensors.pack(1, ("x",), [tensor], OWN)
    assert sum(map(len, buffers)) == 48


def test_the_same_seed_makes_the_same_codec_and_leaves_other_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    weights = []
    for seed in (7, 7, 8):
        coders.load_own(OWN, seed, (HERE,))
        weights.append(float(coders.coder(OWN)._codec._made.noise))  # type: ignore[attr-defined]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_codecs:Nothing", "no class 'Nothing'"),
        ("own_codecs:torch", "no class 'torch'"),
        ("small:nn", "no class"),
        ("nowhere_at_all:Codec", "cannot be imported"),
        ("own_codecs:NeedsArguments", "cannot be made: TypeError"),
    ],
)
def test_one_that_cannot_be_had(name: Codec, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        coders.load_own(name, 1, (HERE,))
    assert caught.value.value == name
