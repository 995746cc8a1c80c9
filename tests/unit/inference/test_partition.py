"""Every cut of real models: same bits, disjoint parameters, the bytes that the contract says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from controller.contract import ALL_ON_DEVICE, ALL_ON_EDGE, Cut
from controller.model.cuts import canonical_cut, cut_bytes, device_set
from testbed.inference import tensors
from testbed.inference.partition import Partition, SplitModel

Load = Callable[[str], SplitModel]

MODELS = [
    "small:alexnet",
    "small:resnet18",
    pytest.param("small:mobilenet_v2", marks=pytest.mark.thorough),
    pytest.param("small:googlenet", marks=pytest.mark.thorough),
    "small:vision_transformer",
    "branching:Branching",
]


def storages(partition: Partition, side: str) -> set[int]:
    module = partition.head_module if side == "head" else partition.tail_module
    assert module is not None
    return {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}


def run_segments(split: SplitModel, cut: Cut, received: tuple[torch.Tensor, ...], target: float) -> torch.Tensor:
    partition = split.partition(cut)
    segments = partition.tail_segments(target, [1.0] * len(split.graph.nodes))
    assert all(len(segment.nodes) <= max(target, 1) for segment in segments)
    state = partition.start(received)
    for segment in segments:
        segment(state)
    assert list(state) == [split.graph.answer]
    return state[split.graph.answer]


@pytest.mark.parametrize("name", MODELS)
def test_every_single_tensor_cut_over_the_wire(name: str, load: Load) -> None:
    split = load(name)
    model, nodes = split.model, split.graph.nodes
    assert model.answer.std() > 0, "an answer that is the same for every image would prove nothing"
    whole = {parameter.untyped_storage().data_ptr() for parameter in split.graph.root.parameters()}
    for number, cut in enumerate(split.graph.chain_cuts[:-1]):
        partition = split.partition(cut)
        sent = partition.head(model.probe)
        header, buffers = tensors.pack(number, cut, sent, "fp32")
        assert tensors.frame_bytes(header, buffers) == cut_bytes(nodes, cut) + len(header)
        assert len(header) <= 160
        payload = bytearray(b"".join(buffers))
        frame = tensors.unpack(header, tensors.split_payload(tensors.decode_header(header), payload))
        assert (frame.task, frame.cut) == (number, cut)
        assert torch.equal(partition.tail(frame.tensors), model.answer), cut
        assert payload == b"".join(buffers), f"the tail of {cut} wrote into what it received"
        assert storages(partition, "head").isdisjoint(storages(partition, "tail")), cut
        assert storages(partition, "head") | storages(partition, "tail") == whole
        if number % 7 == 3:
            assert torch.equal(run_segments(split, cut, frame.tensors, 5), model.answer), cut
    (answer,) = split.partition(ALL_ON_DEVICE).head(model.probe)
    assert torch.equal(answer, model.answer)


@pytest.mark.parametrize(
    "name", ["small:googlenet", "branching:Branching", pytest.param("small:shufflenet", marks=pytest.mark.thorough)]
)
def test_random_cuts_of_several_tensors(name: str, load: Load) -> None:
    split = load(name)
    nodes = split.graph.nodes
    several = 0
    for seed in range(12):
        rng = random.Random(seed)
        on_device = {nodes[0].name}
        size = rng.randrange(1, len(nodes))
        for node in nodes[1:]:  # any node whose inputs are there may join: a random down-closed set
            if len(on_device) < size and on_device.issuperset(node.inputs) and rng.random() < 0.9:
                on_device.add(node.name)
        cut = canonical_cut(nodes, on_device)
        several += len(cut) > 1
        partition = split.partition(cut)
        header, buffers = tensors.pack(0, cut, partition.head(split.model.probe), "fp32")
        frame = tensors.unpack(header, buffers)
        assert torch.equal(partition.tail(frame.tensors), split.model.answer), cut
        assert torch.equal(run_segments(split, cut, frame.tensors, 3), split.model.answer), cut
        assert storages(partition, "head").isdisjoint(storages(partition, "tail")), cut
    assert several >= 4


@pytest.mark.parametrize("name", MODELS)
def test_later_cuts_leave_less_for_the_edge(name: str, load: Load) -> None:
    nodes, cuts = load(name).graph.nodes, load(name).graph.chain_cuts
    total = sum(node.macs for node in nodes)
    tails = [sum(node.macs for node in nodes if node.name not in device_set(nodes, cut)) for cut in cuts]
    assert tails[0] == total > 0
    assert tails[-1] == 0
    assert tails == sorted(tails, reverse=True)
    assert len(set(tails)) > 2


def test_input_crosses_as_it_is(load: Load) -> None:
    split = load("branching:Branching")
    (image,) = split.partition(ALL_ON_EDGE).head(split.model.probe)
    assert image.dtype == torch.uint8
    assert torch.equal(image, split.model.probe)
    assert storages(split.partition(ALL_ON_EDGE), "head") == set()


def test_partitions_are_built_once(load: Load) -> None:
    split = load("branching:Branching")
    cut = split.graph.chain_cuts[3]
    assert split.partition(cut) is split.partition(cut)
    split.prepare([cut])
    assert split.partition(cut).tail_module is split.partition(cut).tail_module
    seconds = [1.0] * len(split.graph.nodes)
    assert split.partition(cut).tail_segments(2, seconds) is split.partition(cut).tail_segments(2, seconds)


def test_a_node_longer_than_the_target_is_a_segment_of_its_own(load: Load) -> None:
    split = load("branching:Branching")
    names = [node.name for node in split.graph.nodes]
    seconds = [5.0 if name == "skip" else 0.5 for name in names]
    segments = split.partition(ALL_ON_EDGE).tail_segments(2.0, seconds)
    assert ("skip",) in [segment.nodes for segment in segments]
    assert sum(segment.seconds for segment in segments) == pytest.approx(sum(seconds[1:]))
    assert [name for segment in segments for name in segment.nodes] == names[1:]


def test_a_cut_that_is_not_canonical_is_refused(load: Load) -> None:
    split = load("branching:Branching")
    with pytest.raises(ValueError, match="not canonical"):
        split.partition((split.graph.answer,))
    with pytest.raises(ValueError, match="no graph value"):
        split.partition(("nowhere",))


def test_local_cut_has_no_tail(load: Load) -> None:
    partition = load("branching:Branching").partition(ALL_ON_DEVICE)
    assert partition.tail_module is None
    with pytest.raises(ValueError, match="nothing for the edge"):
        partition.tail(())
