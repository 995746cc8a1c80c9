"""Any model: other inputs, other answers, parts that cannot be followed - split as classifiers are, to the last bit."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from controller.contract import ALL_ON_DEVICE, ModelProfile
from testbed.cli.profile import command
from testbed.errors import InputError
from testbed.inference import tensors
from testbed.inference.bundles import MalformedBundle, bundle, parts_of
from testbed.inference.codec import raw
from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.models import answer_to, load_model
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.pytrees import leaves
from testbed.node.backend import CpuBackend, task_input
from testbed.node.device_backend import DeviceBackend
from testbed.node.devices import HostStream

HERE = Path(__file__).parent
Load = Callable[[str], SplitModel]
OWN = ["Lstm", "UNet", "Sound", "Gated", "SmallDetector", "named_opaque", "Kept"]
OWN += ["Scribbled", "LooksAtItself", "Assigns"]
TRANSFORMERS = ["dinov2", "yolos", "segformer", "bert", "whisper_encoder"]


def profile_of(split: SplitModel) -> ModelProfile:
    return profile_of_device(split, LayerTimes("d", "s", {n.name: 1e-3 for n in split.graph.nodes[1:]}), "x")


def split_at_every_cut(split: SplitModel) -> None:
    """The answer of the split model is that of the module untouched, to the last bit, on inputs that tracing never
    saw; what crosses has the size that the profile foretells, and heads write into nothing."""
    for number in range(2):
        value = task_input(split.model.signature, 11, 0, number)
        expected = answer_to(split.model, value)
        (whole,) = split.partition(ALL_ON_DEVICE).head(value)
        assert raw(whole) == raw(expected)
        for cut in split.graph.chain_cuts[:-1]:
            partition = split.partition(cut)
            sent = partition.head(value)
            before = [tensor.clone() for tensor in sent]
            header, buffers = tensors.pack(0, cut, sent, "fp32")
            frame = tensors.unpack(header, [bytearray(buffer) for buffer in buffers])
            assert raw(partition.tail(frame.tensors)) == raw(expected), cut
            assert raw(partition.tail(sent)) == raw(expected), cut
            assert all(raw(old) == raw(new) for old, new in zip(before, sent, strict=True)), f"{cut} was written to"
            node = next(node for node in split.graph.nodes if node.name == cut[0])
            assert node.varies or sum(len(buffer) for buffer in buffers) == node.output_bytes, cut


@pytest.mark.parametrize("name", OWN)
def test_every_cut_answers_what_the_module_answers(name: str, load: Load) -> None:
    split = load(f"any_models:{name}")
    assert len(split.graph.chain_cuts) >= 3
    split_at_every_cut(split)


@pytest.mark.thorough
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_hugging_face_models_at_every_cut(name: str, load: Load) -> None:
    split = load(f"any_models:{name}")
    assert len(split.graph.chain_cuts) >= 6
    split_at_every_cut(split)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_torchvisions_detectors_and_segmentation_split(name: str, load: Load) -> None:
    split = load(f"torchvision:{name}")
    cuts = split.graph.chain_cuts
    value = task_input(split.model.signature, 11, 0, 1)
    expected = answer_to(split.model, value)
    for cut in cuts[: -1 : len(cuts) // 4]:
        partition = split.partition(cut)
        assert raw(partition.tail(partition.head(value))) == raw(expected), cut
    if name.startswith("ssd"):
        (found,) = split.model.unpacked(expected)
        assert set(found) == {"boxes", "scores", "labels"}
        assert len(found["boxes"]) == len(found["scores"]) > 0
        assert any(node.opaque.endswith("postprocess_detections") for node in split.graph.nodes)
        assert not any(node.opaque in ("detector", "detector.backbone") for node in split.graph.nodes)


# ------------------------------------------------------------------------------------------------- what a graph is like


def opaque(split: SplitModel) -> dict[str, str]:
    return {node.name: node.opaque for node in split.graph.nodes if node.opaque}


def test_the_smallest_part_that_works_is_taken_whole(load: Load) -> None:
    assert opaque(load("any_models:Gated")) == {"gate": "gate"}
    assert opaque(load("any_models:LooksAtItself")) == {"brightest": "brightest"}
    assert opaque(load("any_models:Lstm")) == opaque(load("any_models:Assigns")) == {}
    detector = load("any_models:SmallDetector")
    assert list(opaque(detector).values()) == ["boxes"]
    assert ("backbone_2",) in detector.graph.chain_cuts
    named = load("any_models:named_opaque")
    assert list(opaque(named).values()) == ["backbone", "boxes"]
    assert not any(node.name.startswith("backbone_") for node in named.graph.nodes)


def test_a_method_that_is_one_node_holds_no_layers_of_others(load: Load) -> None:
    split = load("any_models:LooksAtItself")
    by_name = {node.name: node for node in split.graph.nodes}
    assert by_name["brightest"].parameter_bytes == 0
    assert by_name["other"].parameter_bytes == 4 * (16 + 4)
    assert split.weights.names(["brightest"]) == ()


def test_what_makes_several_tensors_is_computed_once(load: Load) -> None:
    split = load("any_models:Lstm")
    assert [node.name for node in split.graph.nodes][:2] == ["input", "lstm_values"]
    lstm = split.graph.nodes[1]
    assert lstm.dtype == "u8"
    assert [node.parameter_bytes > 0 for node in split.graph.nodes].count(True) == 2, "the layer and the linear one"
    answer, state = split.model.unpacked(split.model.answer)
    assert answer.shape == (1, 12, 4)
    assert list(state) == ["hidden", "cell"]


def test_the_input_is_what_an_application_sends(load: Load) -> None:
    sound = load("any_models:Sound")
    first = sound.graph.nodes[0]
    assert (first.name, first.dtype, len(first.output_shape)) == ("input", "u8", 1)  # a bundle of both
    assert {"samples", "gain"} <= {node.name for node in sound.graph.nodes}
    samples, gain = sound.model.signature.taken(sound.model.signature.random(1, 2, 3))
    assert (samples.dtype, samples.shape, gain.dtype) == (torch.int16, (1, 800), torch.float64)
    assert -400 <= int(samples.min()) <= int(samples.max()) <= 399
    alone = load("any_models:Lstm").graph.nodes[0]
    assert (alone.dtype, alone.output_shape, alone.output_bytes) == ("f32", (1, 12, 6), 288)


def test_weights_are_the_models_own(load: Load) -> None:
    """A new version of them changes the answer: nothing was baked into the graph."""
    split = load("any_models:Gated")
    assert {"stem.weight", "head.bias"} <= set(split.weights.names([node.name for node in split.graph.nodes]))
    before = split.partition(ALL_ON_DEVICE).head(split.model.probe)[0].clone()
    split.weights.train(1, 3, 0.5)
    split.weights.use(1)
    assert not torch.equal(split.partition(ALL_ON_DEVICE).head(split.model.probe)[0], before)
    split.weights.use(0)
    assert torch.equal(split.partition(ALL_ON_DEVICE).head(split.model.probe)[0], before)


def test_a_profile_of_a_model_with_varying_sizes_fits_another_seed(load: Load) -> None:
    split = load("any_models:SmallDetector")
    profile = msgspec.json.decode(msgspec.json.encode(profile_of(split)), type=ModelProfile)
    nodes = [
        msgspec.structs.replace(node, output_shape=(4711,)) if node.varies and len(node.output_shape) == 1 else node
        for node in profile.nodes
    ]
    split.check_profile(msgspec.structs.replace(profile, nodes=tuple(nodes)), "x")


def test_opaque_that_names_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"opaque names no module.*backbones.*backbone"):
        load_model("any_models:misnamed_opaque", 0, (HERE,))


def test_cuts_show_opaque_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    rows = json.loads(CliRunner().invoke(command, ["any_models:Gated", "--cuts", "--json"]).stdout)
    assert [row["cut"] for row in rows if row.get("opaque") == "gate"] == ["gate"]
    assert "opaque: gate is one node" in CliRunner().invoke(command, ["any_models:Gated", "--cuts"]).stdout


# ---------------------------------------------------------------------------------------------------------- the agents


@pytest.fixture(params=["SmallDetector", "Lstm", "Kept", "Sound"])
def backend(request: pytest.FixtureRequest, load: Load, monkeypatch: pytest.MonkeyPatch) -> CpuBackend:
    split = load(f"any_models:{request.param}")
    monkeypatch.setattr("testbed.node.backend.split_model", lambda *_: split)
    return CpuBackend("any_models", 7, profile_of(split))


def answered(backend: CpuBackend, cut: tuple[str, ...], value: Tensor, codec: str = "fp32") -> memoryview:
    header, buffers = backend.head(0, cut, codec, value)  # type: ignore[arg-type]
    if not cut:
        return memoryview(bytes(buffers[0]))
    decoded = tensors.decode_header(header)
    backend.check_tensors(cut, decoded.tensors)
    tail = backend.tail(decoded, [memoryview(bytearray(buffer)) for buffer in buffers])
    while not tail.finished:
        tail.step()
    return tail.logits()


def test_both_sides_compute_one_answer(backend: CpuBackend) -> None:
    model = backend.split.model
    backend.prepare_heads(backend.profile.chain_cuts)
    backend.prepare_tails(backend.profile.chain_cuts)
    sizes = set()
    for number in range(4):
        value = task_input(model.signature, 5, 1, number)
        expected = answer_to(model, value)
        sizes.add(expected.numel())
        for cut in backend.profile.chain_cuts:
            answer = answered(backend, cut, value)
            assert backend.answer_of(answer) == (
                0 if model.classes == 1 else backend.answer_of(answer)[0],
                zlib.crc32(raw(expected)),
            )
    varies = backend.split.graph.nodes[-1].varies
    assert len(sizes) > 1 if varies else len(sizes) == 1


def test_bytes_that_are_no_answer_are_refused(backend: CpuBackend) -> None:
    answer = bytes(answered(backend, (), backend.split.model.probe))
    for bad in (b"", answer[:-1], answer + b"0", b"\xff" * len(answer) if backend.split.model.bundled else answer * 2):
        with pytest.raises(ValueError):
            backend.answer_of(memoryview(bad))


def test_an_accelerator_answers_with_several_tensors(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load("any_models:SmallDetector")
    monkeypatch.setattr("testbed.node.backend.split_model", lambda *_: split)
    device = DeviceBackend("any_models", 7, profile_of(split), HostStream())
    device.prepare_tails(split.graph.chain_cuts)
    for number in range(4):
        value = task_input(split.model.signature, 5, 1, number)
        assert answered(device, ("input",), value) == raw(answer_to(split.model, value))


# -------------------------------------------------------------------------------------------------------------- bundles


def test_a_bundle_holds_what_was_put_in() -> None:
    parts = [torch.randn(3, 5).half(), torch.tensor(True), torch.empty(0, 4), torch.arange(7), torch.randn(2, 3).T]
    found = parts_of(bundle(parts))
    assert [(one.dtype, one.shape) for one in found] == [(one.dtype, one.shape) for one in parts]
    assert all(torch.equal(one, other) for one, other in zip(found, parts, strict=True))
    moved = torch.cat([torch.zeros(3, dtype=torch.uint8), bundle(parts)])[3:]
    assert all(one.data_ptr() % 64 == 0 for one in parts_of(moved) if one.numel()), "kernels round otherwise"


@pytest.mark.parametrize(
    "words",
    [
        [-1], [1 << 40], [3], [1, 99, 1, 4], [1, 0, 9] + [1] * 9, [1, 0, 1, -4], [1, 0, 2, 1 << 40, 0],
        [1, 0, 2, 1 << 31, 1 << 31], [1, 0, 1, 1 << 29], [2, 0, 1, 4],
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_refused_before_memory_is_taken(words: list[int]) -> None:
    data = torch.cat([torch.tensor(words).view(torch.uint8), torch.zeros(64, dtype=torch.uint8)])
    with pytest.raises(MalformedBundle):
        parts_of(data)


def test_leaves_of_any_tree() -> None:
    class Holder:
        def __init__(self) -> None:
            self.tensors, self.sizes = torch.ones(1), [(3, 4)]

    tree = {"a": [torch.zeros(1), None, 3], "b": (Holder(), torch.full((1,), 2.0))}
    assert [float(one) for one in leaves(tree)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ["detector", "keywords"])
def test_the_examples_of_the_page(name: str, tmp_path: Path) -> None:
    page = (HERE.parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# my_models.py\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / f"page_{name}.py").write_text(code)
    split = load_split_model(f"page_{name}:{name}", 3, (tmp_path,))
    split_at_every_cut(split)
    assert sorted(opaque(split).values()) == (["boxes"] if name == "detector" else [])
