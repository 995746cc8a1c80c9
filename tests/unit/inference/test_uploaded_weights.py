"""Weights that come piece by piece to a model that has none: the same bits, whoever's they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from testbed.inference.models import LoadedModel, load_model
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.tracing import trace
from testbed.inference.weights import Arriving, Contents, contents_of

MODELS = ("tests.emulation.labs.branches_model:make", "torchvision:resnet18")


def layers(split: SplitModel) -> dict[str, tuple[Contents, bytes]]:
    table = split.weights.tensors(0, split.weights.layers)
    found = {}
    for node, names in split.weights.layers.items():
        contents, parts = contents_of({name: table[name] for name in names})
        found[node] = (contents, b"".join(parts))
    return found


def arrived(contents: Contents, data: bytes, piece: int = 10_007) -> Arriving:
    arriving = Arriving(contents)
    for start in range(0, len(data), piece):
        arriving.write(memoryview(data)[start : start + piece])
    return arriving


@pytest.mark.parametrize("model", [MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.thorough)])
def test_a_stripped_model_answers_as_the_one_whose_weights_it_was_sent(model: str) -> None:
    sent = layers(load_split_model(model, 3))
    answer = load_split_model(model, 3).model.answer
    edge = load_split_model(model, 4)
    image = load_split_model(model, 3).model.probe
    assert sum(len(data) for _, data in sent.values()) == sum(node.parameter_bytes for node in edge.graph.nodes)
    edge.weights.strip()
    with pytest.raises(RuntimeError):
        edge.partition(()).head(image)
    for node, (contents, data) in sent.items():
        assert edge.weights.fits(node, contents)
        arriving = arrived(contents, data)
        assert arriving.complete
        assert arriving.sound
        edge.weights.bind(node, arriving.tensors)
    values = {"input": image}
    for one in edge.graph.nodes[1:]:
        values[one.name] = edge.run_node(one.name, values)
    assert torch.equal(values[edge.graph.answer], answer)


def test_one_wrong_bit_is_found() -> None:
    contents, data = layers(load_split_model(MODELS[0], 3))["right_body"]
    wrong = bytearray(data)
    wrong[len(wrong) // 3] ^= 1
    arriving = arrived(contents, bytes(wrong))
    assert arriving.complete
    assert not arriving.sound


def test_what_is_of_another_model_has_no_place() -> None:
    branches, resnet = (load_split_model(model, 3) for model in MODELS)
    own, foreign = layers(branches), layers(resnet)
    assert branches.weights.fits("left_body", own["left_body"][0])
    assert not branches.weights.fits("left_body", own["right_body"][0])
    assert not branches.weights.fits("conv1", foreign["conv1"][0])
    assert not branches.weights.fits("relu", own["stem"][0])


class _Shared(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.answer = nn.Linear(192, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        again = torch.relu(self.twice(torch.relu(self.twice(image))))
        return self.answer(again.flatten(1))


def test_a_layer_that_is_used_twice_belongs_to_its_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.emulation.labs.tiny_model.Tiny", _Shared)
    model: LoadedModel = load_model("tests.emulation.labs.tiny_model:make", 3)
    weights = SplitModel(trace(model)).weights
    assert "twice_1" not in weights.layers
    assert weights.layers_of("twice_1") == ("twice",)
    assert weights.layers_of("relu") == ()
