from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable

import pytest
import torch

from controller.contract import Codec, GraphNode, ModelProfile
from testbed.errors import InputError
from testbed.inference import codec as codecs
from testbed.inference import tensors
from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.partition import SplitModel
from testbed.node.backend import CpuBackend
from testbed.node.device_backend import DeviceBackend
from testbed.node.devices import HostStream

CODECS: tuple[Codec, ...] = ("fp32", "fp16", "uint8")
MODELS = ("bfloat16", "half", "double", "Spectral", "int8", "int8_logits")
ALL_DTYPES = sorted({v for v in vars(torch).values() if isinstance(v, torch.dtype)}, key=str)
warnings.filterwarnings("ignore", message="ComplexHalf")
Load = Callable[[str], SplitModel]


def a_tensor(dtype: torch.dtype) -> torch.Tensor | None:
    """(1, 3, 4, 4) of that type; None where torch has no such tensor, or none that one can fill."""
    numbers = torch.randn(1, 3, 4, 4)
    try:
        if dtype in (torch.quint8, torch.qint8, torch.qint32):
            return torch.quantize_per_tensor(numbers, 0.05, 3, dtype)
        return numbers.to(dtype)
    except (RuntimeError, NotImplementedError):
        return None


def memory(tensor: torch.Tensor) -> bytes:
    return bytes(codecs.raw(tensor))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_type_of_torch_crosses_with_the_bytes_foretold_or_is_refused(dtype: torch.dtype, codec: Codec) -> None:
    tensor = a_tensor(dtype)
    if tensor is None:
        return
    if reason := tensors.why_not(tensor):
        assert str(dtype).removeprefix("torch.") in reason
        assert dtype not in codecs.DTYPE_NAMES
        return
    for laid_out in (tensor, tensor.contiguous(memory_format=torch.channels_last)):
        header, buffers = tensors.pack(0, ("x",), [laid_out], codec)
        (received,) = tensors.unpack(header, [bytes(buffer) for buffer in buffers]).tensors
        size = tensor.numel() * tensor.element_size()
        node = GraphNode("x", ("input",), (1, 3, 4, 4), size, 0, 0, codecs.DTYPE_NAMES[dtype])
        assert sum(buffer.nbytes for buffer in buffers) == node.encoded_bytes(codec)
        assert (received.dtype, received.shape, received.stride()) == (dtype, laid_out.shape, laid_out.stride())
        if codecs.coded_dtype(dtype, codec).itemsize >= dtype.itemsize:
            assert memory(received) == memory(laid_out)
        if tensor.is_quantized:
            assert (received.q_scale(), received.q_zero_point()) == (tensor.q_scale(), tensor.q_zero_point())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_the_8_bit_code_is_right_to_half_a_step(dtype: torch.dtype) -> None:
    for _ in range(100):
        tensor = torch.randn(1, 64, 7, 7).to(dtype)
        coded, scale, offset = codecs.encode(tensor, "uint8")
        result = codecs.decode(coded, dtype, "uint8", scale, offset)
        rounding = torch.finfo(dtype).eps / 2 * float(tensor.abs().max())
        assert result.dtype == dtype
        assert float((result.double() - tensor.double()).abs().max()) <= 0.501 * scale + rounding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_widest_range_of_a_type_has_a_code(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max if dtype == torch.float16 else 1.5e38
    tensor = torch.tensor([-most, 0.0, most]).to(dtype)
    coded, scale, offset = codecs.encode(tensor, "uint8")
    assert coded[0] == 0
    assert coded[-1] == 255
    assert torch.all(codecs.decode(coded, dtype, "uint8", scale, offset).isfinite())


def test_half_precision_saturates_whatever_the_type() -> None:
    for dtype in (torch.float32, torch.float64):
        assert codecs.encode(torch.tensor([1e6], dtype=dtype), "fp16")[0].item() == codecs.FP16_MAX
    wide = torch.tensor([1e30], dtype=torch.bfloat16)
    assert codecs.encode(wide, "fp16")[0] is wide, "as many bits: it stays what it is"


@pytest.mark.parametrize("model", MODELS)
def test_same_class_and_checksum_at_every_cut_and_the_bytes_foretold(
    model: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = load(f"number_types:{model}")
    monkeypatch.setattr("testbed.node.backend.split_model", lambda *_: split)
    profile = _profile(split)
    backend = CpuBackend("number_types", 7, profile)
    answer = split.model.answer
    expected = (int(answer.dequantize().argmax()), zlib.crc32(memory(answer)))
    assert profile.result_bytes == len(memory(answer))
    for cut in split.graph.chain_cuts:
        for codec in CODECS:
            header, buffers = backend.head(0, cut, codec, split.model.probe)
            sent = [memoryview(bytes(buffer)) for buffer in buffers]
            if cut:
                assert sum(len(buffer) for buffer in sent) == profile.boundary_bytes(cut, codec), (cut, codec)
                tail = backend.tail(tensors.decode_header(header), sent)
                while not tail.finished:
                    tail.step()
                sent = [tail.logits()]
            if codec == "fp32" or cut in ((), ("input",)):
                assert backend.answer_of(sent[0]) == expected, (cut, codec)
    with pytest.raises(ValueError, match="bytes"):
        backend.answer_of(memoryview(b"123"))


@pytest.mark.parametrize("model", ["bfloat16", "double"])
def test_an_accelerator_answers_in_the_models_type_too(model: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load(f"number_types:{model}")
    monkeypatch.setattr("testbed.node.backend.split_model", lambda *_: split)
    profile = _profile(split)
    backend = DeviceBackend("number_types", 7, profile, HostStream())
    backend.prepare_tails(profile.chain_cuts)
    header, buffers = backend.head(0, ("trunk_1",), "fp32", split.model.probe)
    tail = backend.tail(tensors.decode_header(header), buffers)
    while not tail.finished:
        tail.step()
    assert bytes(tail.logits()) == memory(split.model.answer)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Sparse", ["'to_sparse'", "sparse_coo"]),
        ("PerChannel", ["'quantize_per_channel'", "scale per channel"]),
        ("Complex", ["complex numbers"]),
    ],
)
def test_what_cannot_cross_is_refused_with_the_layers_name(model: str, words: list[str], load: Load) -> None:
    with pytest.raises(InputError) as refused:
        load(f"number_types:{model}")
    assert all(word in str(refused.value) for word in words)


def test_int8_parameters_are_counted(load: Load) -> None:
    nodes = {node.name: node for node in load("number_types:int8").graph.nodes}
    assert nodes["head"].parameter_bytes == 64 * 10 + 4 * 10  # weights of a byte, biases of four


def _profile(split: SplitModel) -> ModelProfile:
    return profile_of_device(split, LayerTimes("none", "none", {}), "here")
