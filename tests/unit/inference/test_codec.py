from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from testbed.inference.codec import FP16_MAX, LEVELS, decode, encode

values = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=200, deadline=None)
@example(np.array([9.3268593e-38, 0.0], np.float32))
@given(values)
def test_uint8_error_is_at_most_half_a_step(array: np.ndarray) -> None:
    tensor = torch.from_numpy(array)
    coded, scale, offset = encode(tensor, "uint8")
    assert coded.dtype == torch.uint8
    result = decode(coded, torch.float32, "uint8", scale, offset)
    rounding = 4 * float(np.finfo(np.float32).eps) * float(np.abs(array).max())
    flat = LEVELS * float(np.finfo(np.float32).tiny)  # a range that is none
    assert float((result.double() - tensor.double()).abs().max()) <= 0.501 * scale + rounding + flat


@settings(max_examples=200, deadline=None)
@given(values)
def test_fp16_error(array: np.ndarray) -> None:
    tensor = torch.from_numpy(array)
    result = decode(encode(tensor, "fp16")[0], torch.float32, "fp16", 1.0, 0.0)
    expected = tensor.clamp(-FP16_MAX, FP16_MAX)
    assert torch.all((result - expected).abs() <= expected.abs() * 2.0**-11 + 2.0**-25)


def test_uint8_uses_all_levels_and_hits_both_ends() -> None:
    tensor = torch.linspace(-3.0, 5.0, 256)
    coded, scale, offset = encode(tensor, "uint8")
    assert coded.tolist() == list(range(256))
    result = decode(coded, torch.float32, "uint8", scale, offset)
    assert torch.allclose(result, tensor, atol=1e-5)


@pytest.mark.parametrize("codec", ["fp16", "uint8"])
def test_what_is_no_float_stays_as_it_is(codec: str) -> None:
    image = torch.arange(256, dtype=torch.uint8)
    coded, scale, offset = encode(image, codec)  # type: ignore[arg-type]
    assert coded is image
    assert decode(coded, torch.uint8, codec, scale, offset) is image  # type: ignore[arg-type]


def test_a_constant_tensor_is_exact() -> None:
    coded, scale, offset = encode(torch.full((4,), -2.5), "uint8")
    assert torch.equal(decode(coded, torch.float32, "uint8", scale, offset), torch.full((4,), -2.5))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -3.4e38])
def test_what_has_no_code_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no 8-bit code"):
        encode(torch.tensor([3.4e38, value]), "uint8")
