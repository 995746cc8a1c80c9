"""Versions of weights: what is packed comes back, damage is found, and every cut of a version is that version."""

from __future__ import annotations

import pytest
import torch

from controller.model.cuts import device_set
from testbed.inference.partition import load_split_model
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import Contents, pack, unpack

MODELS = ("tests.emulation.labs.tiny_model:make", "torchvision:resnet18")


@pytest.mark.parametrize("model", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.thorough)])
def test_head_and_tail_of_a_version_answer_as_the_whole_model_of_that_version(model: str) -> None:
    edge, device = load_split_model(model, 3), load_split_model(model, 3)
    edge.weights.train(1, 3, 0.2)
    image = edge.model.probe
    answers = []
    for version in (0, 1):
        edge.weights.use(version)
        answers.append(edge.partition(()).head(image)[0].clone())
    assert torch.equal(answers[0], edge.model.answer)
    assert not torch.equal(answers[0], answers[1])
    chain = edge.graph.chain_cuts
    for cut in (chain[0], chain[len(chain) // 2], chain[-2]):
        nodes = device_set(edge.graph.nodes, cut)
        contents, block = pack(edge.weights.tensors(1, nodes))
        assert contents.total_bytes == sum(node.parameter_bytes for node in edge.graph.nodes if node.name in nodes)
        device.weights.use(0)
        device.weights.add(1, unpack(contents, bytearray(block)))
        device.weights.use(1)
        edge.weights.use(1)
        values = device.partition(cut).head(image) if cut != ("input",) else (image,)
        assert torch.equal(edge.partition(cut).tail(values), answers[1])
        device.weights.use(0)
        assert torch.equal(device.partition(()).head(image)[0], answers[0])
        device.weights.drop(1)


def test_the_same_seed_trains_the_same_versions() -> None:
    first, second = (load_split_model(MODELS[0], 3) for _ in range(2))
    for split in (first, second):
        split.weights.train(1, 3, 0.1)
        split.weights.train(2, 3, 0.1)
    everything = [node.name for node in first.graph.nodes]
    ours, theirs = first.weights.tensors(2, everything), second.weights.tensors(2, everything)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_more_of_the_version_in_force_takes_effect_at_once() -> None:
    edge, device = load_split_model(MODELS[0], 3), load_split_model(MODELS[0], 3)
    edge.weights.train(1, 3, 0.2)
    everything = [node.name for node in edge.graph.nodes]
    device.weights.add(1, edge.weights.tensors(1, device_set(edge.graph.nodes, edge.graph.chain_cuts[1])))
    device.weights.use(1)
    device.weights.add(1, edge.weights.tensors(1, everything))
    edge.weights.use(1)
    image = edge.model.probe
    assert torch.equal(device.partition(()).head(image)[0], edge.partition(()).head(image)[0])


def test_damage_is_found() -> None:
    split = load_split_model(MODELS[0], 3)
    everything = [node.name for node in split.graph.nodes]
    contents, block = pack(split.weights.tensors(0, everything))
    damaged = bytearray(block)
    damaged[len(block) // 2] ^= 1
    with pytest.raises(MalformedFrame, match="checksum"):
        unpack(contents, damaged)
    with pytest.raises(MalformedFrame, match="checksum"):
        unpack(contents, bytearray(block[:-1]))
    fewer = Contents(contents.tensors[:-1], contents.total_bytes, contents.digest)
    with pytest.raises(MalformedFrame, match="belong to no tensor"):
        unpack(fewer, bytearray(block))
    more = Contents((*contents.tensors, contents.tensors[0]), contents.total_bytes, contents.digest)
    with pytest.raises(MalformedFrame, match="before their last"):
        unpack(more, bytearray(block))
    with pytest.raises(MalformedFrame, match="no place in this model"):
        split.weights.add(1, {"nonesuch": torch.zeros(3)})
    with pytest.raises(ValueError, match="version 7 is not here"):
        split.weights.use(7)
