"""What a profile says of codecs: measured on inputs, kept, and what a lab still needs of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from controller.contract import ALL_ON_EDGE, ModelProfile, cut_label
from controller.contract.codec import has_fixed_size
from controller.model.cut_times import NodeWork
from controller.model.delay import stage_work
from testbed.cli.profile import command
from testbed.errors import InputError
from testbed.inference import coders, tensors
from testbed.inference.codec_profiling import agrees, measure_codecs
from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.profiles import Uses, read_profile, with_device, write_profile
from testbed.inference.samples import sample_inputs
from testbed.labfile.codec_profiles import fitted, missing
from testbed.labfile.codecs import CodecSpec
from testbed.node.backend import CpuBackend

Load = Callable[[str], SplitModel]
HERE = Path(__file__).parent
MODEL = "tiny_model:make"
TINY = Path(__file__).parents[2] / "emulation" / "labs"
CODECS = Uses(("png", "jpeg-90"), ("int4", "int4-per-channel+lz4", "fp32+zstd", "own_codecs:Halves"))


@cache
def tiny() -> SplitModel:
    return load_split_model(MODEL, 3, (TINY,))


@cache
def plain() -> ModelProfile:
    return read_profile(TINY / "tiny_profile.json")


@cache
def measured() -> ModelProfile:
    coders.load_own("own_codecs:Halves", 3, (HERE,))
    samples = sample_inputs(tiny(), 3, 4)
    return measure_codecs(tiny(), plain(), CODECS, samples, idle_seconds=0.0)


def sent(codec: str, sample: Tensor, cut: tuple[str, ...]) -> int:
    values = (sample,) if cut == ALL_ON_EDGE else tiny().partition(cut).head(sample)
    return sum(len(one) for one in tensors.pack(0, cut, values, codec)[1])


def test_sizes_are_of_what_is_sent(tmp_path: Path) -> None:
    profile, samples = measured(), sample_inputs(tiny(), 3, 4)
    for raw, codecs in ((True, CODECS.raw), (False, CODECS.boundary)):
        for codec in codecs:
            for cut in profile.chain_cuts[:1] if raw else profile.chain_cuts[1:-1]:
                sizes = [sent(codec, sample, cut) for sample in samples]
                assert profile.boundary_bytes(cut, codec) == round(sum(sizes) / 4)
                if has_fixed_size(codec):
                    assert len(set(sizes)) == 1
                    continue
                known, at = profile.sizes[codec], profile.chain_index(cut)
                assert min(sizes) <= known.p10_bytes[at] <= known.p50_bytes[at] <= known.p90_bytes[at] <= max(sizes)
    write_profile(profile, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == profile
    assert read_profile(TINY / "tiny_profile.json").agreement == {}, "profiles of before are read as they are"


def test_agreement_is_that_of_the_split_model() -> None:
    profile = measured()
    assert profile.agreement["fp32+zstd"] == (0.0, *(1.0,) * 7), "not for the input; without loss everywhere else"
    assert profile.agreement_of(("relu",), "fp32") == profile.agreement_of(ALL_ON_EDGE, "png") == 1.0
    assert profile.agreement_of(("relu",), "uint8") is None, "nobody tried"
    assert profile.agreement_of((), "int4") == 1.0
    samples = sample_inputs(tiny(), 3, 4)
    for cut in (("first",), ("relu_1",)):
        same = 0
        for sample in samples:
            header, buffers = tensors.pack(0, cut, tiny().partition(cut).head(sample), "int4")
            answer = tiny().partition(cut).tail(tensors.unpack(header, buffers).tensors)
            same += int(answer.argmax() == tiny().partition(()).head(sample)[0].argmax())
        assert profile.agreement_of(cut, "int4") == same / 4


def test_what_agreeing_means() -> None:
    assert agrees(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0.0, 9.0, 1.0]])), "the same class"
    assert not agrees(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 9.0]]))
    boxes = {"boxes": torch.rand(3, 4), "labels": torch.tensor([1, 2, 3])}
    near = {"boxes": boxes["boxes"] + 1e-5, "labels": boxes["labels"]}
    assert agrees(near, boxes)
    assert not agrees({**near, "labels": torch.tensor([1, 2, 4])}, boxes)
    assert not agrees({**near, "boxes": torch.rand(2, 4)}, boxes), "as many as it finds"


def test_encoding_is_in_the_head_and_decoding_in_the_tail() -> None:
    profile = measured()
    assert stage_work(profile, ALL_ON_EDGE, "uint8")[0] == 0.0, "as an application has it"
    times = profile.codecs["jpeg-90"]
    assert stage_work(profile, ALL_ON_EDGE, "jpeg-90") == (
        times.encode_seconds[0],
        profile.tail_seconds[0] + times.decode_seconds[0],
    )
    assert times.encode_seconds[0] > 0
    times, at = profile.codecs["int4-per-channel+lz4"], profile.chain_index(("relu",))
    assert stage_work(profile, ("relu",), "int4-per-channel+lz4") == (
        profile.head_seconds[at] + times.encode_seconds[at],
        profile.tail_seconds[at] + times.decode_seconds[at],
    )
    work = NodeWork.of(profile, "jpeg-90", "int4-per-channel+lz4")
    assert work.boundary_bytes[0] == profile.boundary_bytes(ALL_ON_EDGE, "jpeg-90")
    assert work.encode_seconds[0] == profile.codecs["jpeg-90"].encode_seconds[0]
    relu = [node.name for node in profile.nodes].index("relu")
    assert work.boundary_bytes[relu] == profile.boundary_bytes(("relu",), "int4-per-channel+lz4")


def test_what_was_not_measured_shrinks_as_what_was() -> None:
    profile = measured()
    both = profile.boundary_bytes(("first", "second"), "fp32+zstd")
    apart = sum(node.output_bytes for node in profile.nodes if node.name in ("first", "second"))
    code = sum(node.output_bytes for node in profile.nodes if (node.name,) in profile.chain_cuts[1:-1])
    known = sum(profile.sizes["fp32+zstd"].mean_bytes[1:-1])
    assert both == round(apart * known / code) < apart


def test_a_codec_that_does_not_work_is_said_with_its_cut() -> None:
    coders.load_own("own_codecs:Fails", 1, (HERE,))
    samples = sample_inputs(tiny(), 3, 1)
    with pytest.raises(InputError, match=r"own_codecs:Fails does not work at cut normalise.*no such weight"):
        measure_codecs(tiny(), plain(), Uses((), ("own_codecs:Fails",)), samples, idle_seconds=0.0)


def test_what_a_lab_lacks() -> None:
    assert missing(plain(), CodecSpec()) == ([], [])
    assert missing(plain(), CodecSpec(input="jpeg-90", boundary="int4")) == (["jpeg-90"], ["int4"])
    assert missing(measured(), CodecSpec(input="jpeg-90", boundary="int4")) == ([], [])
    assert missing(measured(), CodecSpec(choices=("int4", "uint8"))) == ([], ["uint8"]), "its agreement"
    assert missing(measured(), CodecSpec(input="own_codecs:Halves")) == (["own_codecs:Halves"], []), "for values only"
    kept = fitted(measured(), ("uint8", "fp32"))
    assert "own_codecs:Halves" in measured().codecs
    assert "own_codecs:Halves" not in {*kept.codecs, *kept.sizes, *kept.agreement}
    assert "int4" in kept.codecs


def test_another_device_encodes_as_much_slower_as_it_computes() -> None:
    board = profile_of_device(tiny(), LayerTimes("board", "x", {n.name: 1e-3 for n in tiny().graph.nodes}), "here")
    lab = with_device(measured(), board)
    ratio = board.head_seconds[-1] / measured().head_seconds[-1]
    ours, theirs = measured().codecs["int4"], lab.codecs["int4"]
    assert theirs.decode_seconds == ours.decode_seconds
    assert theirs.encode_seconds == pytest.approx([ratio * seconds for seconds in ours.encode_seconds], abs=1e-9)
    assert lab.sizes == measured().sizes


def test_an_edge_takes_the_labs_codecs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CpuBackend(MODEL, 3, fitted(measured(), ("int4",)), str(TINY))
    image = tiny().model.probe

    def check(cut: tuple[str, ...], codec: str) -> None:
        header, _ = backend.head(1, cut, codec, image)
        backend.check_codec(cut, tensors.decode_header(header))

    for cut, codec in ((("relu",), "int4"), (ALL_ON_EDGE, "jpeg-90"), (("relu",), "fp32+zstd"), (ALL_ON_EDGE, "uint8")):
        check(cut, codec)
    for cut, codec in ((("relu",), "int4+zstd"), (("relu",), "own_codecs:Halves"), (ALL_ON_EDGE, "int4")):
        with pytest.raises(ValueError, match=f"is not for cut {cut_label(cut)}"):
            check(cut, codec)
    header, _ = backend.head(1, ("relu",), "int4", image)
    short = msgspec.structs.replace(
        backend.profile,
        nodes=tuple(msgspec.structs.replace(node, output_shape=(1, 1, 2, 2)) for node in backend.profile.nodes),
    )
    monkeypatch.setattr(backend, "profile", short)
    with pytest.raises(ValueError, match="cut relu has 10 bytes, not 1032"):
        backend.check_codec(("relu",), tensors.decode_header(header))


def test_the_verb_adds_codecs_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TINY)
    file = tmp_path / "profile.json"
    write_profile(plain(), file)
    arguments = [MODEL, "--seed", "3", "--codec", "int4+zstd", "--codec", "png", "--samples", "2"]
    result = CliRunner().invoke(command, [*arguments, "--out", str(file)])
    assert result.exit_code == 0, result.output
    assert "int4+zstd" in result.output
    profile = read_profile(file)
    assert set(profile.agreement) == {"int4+zstd", "png"}
    assert profile.head_seconds == plain().head_seconds, "the rest stays as it was"
    assert "needs --out" in CliRunner().invoke(command, arguments).output
    refused = CliRunner().invoke(command, [MODEL, "--codec", "zip", "--out", str(file)])
    assert isinstance(refused.exception, InputError)
    assert "no such codec" in str(refused.exception)
