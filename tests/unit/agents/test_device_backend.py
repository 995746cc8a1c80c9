"""Tails on an accelerator: everything but CUDA itself, on the CPU; with CUDA too, where there is a GPU."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from controller.contract import ALL_ON_EDGE, Codec, Cut, ModelProfile
from testbed.errors import HostError
from testbed.inference import tensors
from testbed.inference.partition import load_split_model
from testbed.inference.profiles import read_profile
from testbed.node import devices
from testbed.node.backend import CpuBackend, Tail, task_input
from testbed.node.control import DecisionBox
from testbed.node.device_backend import ANSWER_TOLERANCE, DeviceBackend, DeviceUsage, UnfitDeviceError
from testbed.node.devices import CudaStream, HostStream, Mark, Stream, cuda_missing
from testbed.node.pacing import DeadlineThread
from testbed.node.task_frames import Result
from testbed.node.times import StageTimes
from testbed.node.transport import ReceivedTask
from testbed.programs.edge.edge_backends import load_backends, usage_of
from testbed.programs.edge.edge_compute import ComputeThread
from testbed.protocol.configs import EdgeConfig, EdgeUe

ROOT = Path(__file__).parents[3]
TINY = ("tests.emulation.labs.tiny_model:make", ROOT / "tests" / "emulation" / "labs" / "tiny_profile.json")
MOBILENET = ("torchvision:mobilenet_v2", ROOT / "topologies" / "profiles" / "mobilenet_v2.json")
SEED = 11


class ObservedStream(HostStream):
    """Writes down what it is asked for, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[Mark] = []

    def wait(self, mark: Mark) -> None:
        self.waited.append(mark)


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    return read_profile(TINY[1])


@pytest.fixture(scope="module")
def cpu(profile: ModelProfile) -> CpuBackend:
    return CpuBackend(TINY[0], SEED, profile)


def sent(backend: CpuBackend, task: int, cut: Cut, codec: Codec) -> tuple[tensors.FrameHeader, list[memoryview]]:
    """A task as it is received."""
    header, buffers = backend.head(task, cut, codec, task_input(backend.split.model.signature, SEED, 0, task))
    return tensors.decode_header(header), [memoryview(bytes(buffer)) for buffer in buffers]


def finish(tail: Tail) -> bytes:
    while not tail.finished:
        tail.step()
    return bytes(tail.logits())


def answer(backend: CpuBackend, task: int, cut: Cut, codec: Codec) -> torch.Tensor:
    header, buffers = sent(backend, task, cut, codec)
    return torch.frombuffer(bytearray(finish(backend.tail(header, buffers))), dtype=torch.float32)


@pytest.mark.parametrize("codec", ["fp32", "fp16", "uint8"])
def test_every_cut_answers_what_the_cpu_answers(cpu: CpuBackend, profile: ModelProfile, codec: Codec) -> None:
    backend = DeviceBackend(TINY[0], SEED, profile, HostStream())
    backend.prepare_tails(profile.chain_cuts)
    for cut in profile.chain_cuts[:-1]:
        assert torch.equal(answer(backend, 3, cut, codec), answer(cpu, 3, cut, codec)), cut


def test_transfers_are_counted_to_the_byte_and_time_is_the_streams(profile: ModelProfile) -> None:
    backend = DeviceBackend(TINY[0], SEED, profile, HostStream())
    backend.prepare_tails(profile.chain_cuts)
    assert backend.usage == DeviceUsage(), "what preparing took is not a task's"
    cuts: list[tuple[Cut, Codec]] = [
        (ALL_ON_EDGE, "uint8"),
        (profile.chain_cuts[2], "fp32"),
        (profile.chain_cuts[3], "uint8"),
    ]
    for cut, codec in cuts:
        answer(backend, 0, cut, codec)
    usage = backend.usage
    assert usage.tails == len(cuts)
    assert usage.uploaded_bytes == sum(profile.boundary_bytes(cut, codec) for cut, codec in cuts)
    assert usage.downloaded_bytes == len(cuts) * 4 * backend.split.model.classes
    assert min(usage.tail_seconds, usage.upload_seconds, usage.download_seconds) > 0
    assert usage_of({"ue1": backend, "ue2": backend}).tails == len(cuts), "a backend that UEs share counts once"
    assert usage_of({"ue1": CpuBackend(TINY[0], SEED, profile)}) == DeviceUsage()


def test_tails_that_take_turns_do_not_touch_each_other(cpu: CpuBackend, profile: ModelProfile) -> None:
    """The staging buffer is one for all: a task's tensors have left it before the next one's come."""
    backend = DeviceBackend(TINY[0], SEED, profile, HostStream())
    tails = {task: backend.tail(*sent(backend, task, ALL_ON_EDGE, "uint8")) for task in range(4)}
    answers: dict[int, bytes] = {}
    while tails:
        for task, tail in list(tails.items()):
            tail.step()
            if tail.finished:
                del tails[task]
                answers[task] = bytes(tail.logits())
    assert len(set(answers.values())) == 4
    for task, logits in answers.items():
        assert logits == finish(cpu.tail(*sent(cpu, task, ALL_ON_EDGE, "uint8")))


def test_the_staging_buffer_is_waited_for_and_so_is_every_step(profile: ModelProfile) -> None:
    stream = ObservedStream()
    backend = DeviceBackend(TINY[0], SEED, profile, stream)
    first = backend.tail(*sent(backend, 0, ALL_ON_EDGE, "uint8"))
    assert stream.waited == [], "the copy is under way while the host goes on"
    backend.tail(*sent(backend, 1, ALL_ON_EDGE, "uint8"))
    (staged,) = stream.waited
    steps = 0
    while not first.finished:
        before = len(stream.waited)
        first.step()
        steps += 1
        assert len(stream.waited) == before + 1
    assert steps == 1 + len(
        backend.split.partition(ALL_ON_EDGE).tail_segments(backend._segment_seconds, profile.node_seconds)
    ), "whole segments, then the answer"
    assert stream.waited == sorted(stream.waited)
    assert stream.waited[0] == staged


def test_a_cut_of_several_tensors_is_moved_tensor_by_tensor() -> None:
    profile = read_profile(MOBILENET[1])
    cpu = CpuBackend(MOBILENET[0], SEED, profile)
    backend = DeviceBackend(MOBILENET[0], SEED, profile, HostStream())
    adder = next(node for node in profile.nodes if len(node.inputs) == 2)
    assert torch.equal(answer(backend, 0, adder.inputs, "uint8"), answer(cpu, 0, adder.inputs, "uint8"))
    assert backend.usage.uploaded_bytes == profile.boundary_bytes(adder.inputs, "uint8")


@pytest.mark.parametrize(
    "model",
    [
        "torchvision:mobilenet_v2",
        "torchvision:resnet18",
        "torchvision:alexnet",
        "torchvision:googlenet",
        pytest.param("torchvision:vit_b_16", marks=pytest.mark.thorough),
    ],
)
def test_nothing_of_a_tail_stays_on_the_cpu(model: str) -> None:
    """torch refuses to mix devices, so a tail that runs on ``meta`` (shapes, no numbers) is there as a whole."""
    split = load_split_model(model, SEED)
    there = split.graph.on("meta")
    assert {parameter.device.type for parameter in there.root.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in split.graph.root.parameters()} == {"cpu"}
    tail = there.compile("Tail", ALL_ON_EDGE, (there.answer,))
    (moved,) = tail(split.model.probe.to("meta"))
    assert (moved.device.type, moved.shape) == ("meta", split.model.answer.shape)


def test_a_device_with_another_answer_is_found_out(profile: ModelProfile) -> None:
    backend = DeviceBackend(TINY[0], SEED, profile, HostStream())
    with torch.no_grad():
        next(iter(backend._moved.graph.root.parameters())).mul_(1.5)
    with pytest.raises(UnfitDeviceError, match="differs from the CPU's"):
        backend.prepare_tails(profile.chain_cuts)


# --------------------------------------------------------------------------------------------------------- the choice


def edge_config(gpu: Any) -> EdgeConfig:
    ues = tuple(EdgeUe(name, TINY[0], str(TINY[1]), "127.0.0.1") for name in ("ue1", "ue2"))
    return EdgeConfig("lab", "run", "edge", "/nowhere", SEED, 0, ues, 0.8, gpu, 0.5)


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torch had found a GPU; the streams that tests open are others."""
    monkeypatch.setattr(devices, "cuda_missing", lambda: "")


def test_off_is_the_cpu_though_there_were_a_gpu(with_cuda: None) -> None:
    backends, choice = load_backends(edge_config("off"), HostStream)
    assert (choice.device, choice.reason) == ("cpu", "the lab says `gpu: off`")
    assert not any(isinstance(backend, DeviceBackend) for backend in backends.values())


@pytest.mark.skipif(not cuda_missing(), reason="needs a host without CUDA")
def test_without_cuda_auto_is_the_cpu_with_the_reason_and_required_is_refused() -> None:
    backends, choice = load_backends(edge_config("auto"))
    assert choice.device == "cpu"
    assert "CUDA" in choice.reason
    assert backends["ue1"] is backends["ue2"], "one backend per model"
    with pytest.raises(HostError, match="gpu: required") as refusal:
        load_backends(edge_config("required"))
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_device_that_works_is_taken(with_cuda: None, mode: str) -> None:
    backends, choice = load_backends(edge_config(mode), HostStream)
    assert choice.reason == ""
    assert all(isinstance(backend, DeviceBackend) for backend in backends.values())
    assert backends["ue1"] is backends["ue2"]


def no_memory() -> Stream:
    raise torch.OutOfMemoryError("CUDA out of memory\nand much more text")


@pytest.mark.parametrize(
    ("open_stream", "says"), [(no_memory, "CUDA out of memory"), (lambda: HostStream("meta"), "meta")]
)
def test_a_device_that_fails_is_left_alone_unless_it_is_required(
    with_cuda: None, open_stream: Callable[[], Stream], says: str
) -> None:
    backends, choice = load_backends(edge_config("auto"), open_stream)
    assert choice.device == "cpu"
    assert says in choice.reason
    assert "\n" not in choice.reason
    assert type(backends["ue1"]) is CpuBackend
    with pytest.raises(HostError, match=says):
        load_backends(edge_config("required"), open_stream)


# ------------------------------------------------------------------------------------------------- behind the shares


def test_shares_are_kept_on_a_device_as_on_the_cpu(profile: ModelProfile) -> None:
    """Two UEs, one task each at once: both end at their targets, not when the device is through."""
    backend = DeviceBackend(TINY[0], SEED, profile, HostStream())
    backend.prepare_tails(profile.chain_cuts)
    results: dict[str, tuple[Result, bytes]] = {}
    done = threading.Event()

    def take(ue: str, result: Result, logits: memoryview) -> None:
        results[ue] = result, bytes(logits)
        if len(results) == 2:
            done.set()

    deadlines = DeadlineThread("deadlines")
    thread = ComputeThread({"ue1": backend, "ue2": backend}, 0.2, DecisionBox(), deadlines, take)
    deadlines.start()
    thread.start()
    try:
        for number, ue in enumerate(("ue1", "ue2")):
            header, buffers = sent(backend, number, ALL_ON_EDGE, "uint8")
            thread.add(ue, ReceivedTask(number, header, ALL_ON_EDGE, buffers, time.monotonic()))
        assert done.wait(20)
    finally:
        thread.stop()
        deadlines.stop()
    times = StageTimes(profile)
    for number, ue in enumerate(("ue1", "ue2")):
        result, logits = results[ue]
        assert result.reason == ""
        assert result.share == 0.1
        assert result.tail_target_seconds == pytest.approx(times.tail_seconds(ALL_ON_EDGE, "uint8") / 0.1)
        assert result.tail_end_seconds >= result.tail_start_seconds + result.tail_target_seconds
        assert logits == finish(backend.tail(*sent(backend, number, ALL_ON_EDGE, "uint8")))


# ------------------------------------------------------------------------------------------------------ on a real GPU


@pytest.mark.gpu
@pytest.mark.parametrize(
    "model", [MOBILENET, ("torchvision:resnet18", ROOT / "topologies" / "profiles" / "resnet18.json")]
)
def test_a_gpu_answers_what_the_cpu_answers(model: tuple[str, Path]) -> None:
    if reason := cuda_missing():
        pytest.skip(reason)
    profile = read_profile(model[1])
    cpu = CpuBackend(model[0], SEED, profile)
    gpu = DeviceBackend(model[0], SEED, profile, CudaStream())
    gpu.prepare_tails(profile.chain_cuts)
    inner = profile.chain_cuts[:-1]
    for cut in inner[:: max(1, len(inner) // 6)]:
        for codec in ("fp32", "fp16", "uint8"):
            expected = answer(cpu, 1, cut, codec)  # type: ignore[arg-type]
            found = answer(gpu, 1, cut, codec)  # type: ignore[arg-type]
            allowed = ANSWER_TOLERANCE * float(expected.abs().max())
            assert float((found - expected).abs().max()) <= allowed, (cut, codec)
    assert gpu.usage.tail_seconds > 0
    assert math.isfinite(gpu.usage.upload_seconds)
    # two tails in turns on one staging buffer that the GPU reads on its own time
    tails = [gpu.tail(*sent(gpu, task, ALL_ON_EDGE, "uint8")) for task in range(2)]
    for task, tail in enumerate(tails):
        found = torch.frombuffer(bytearray(finish(tail)), dtype=torch.float32)
        expected = answer(cpu, task, ALL_ON_EDGE, "uint8")
        assert float((found - expected).abs().max()) <= ANSWER_TOLERANCE * float(expected.abs().max())
