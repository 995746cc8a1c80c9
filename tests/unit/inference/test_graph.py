from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from controller.contract import ALL_ON_EDGE
from testbed.errors import InputError
from testbed.inference.partition import SplitModel
from testbed.inference.signature import Normalise

Load = Callable[[str], SplitModel]


def test_nodes_are_tensors_that_depend_on_the_image(load: Load) -> None:
    graph = load("branching:Branching").graph
    assert [node.name for node in graph.nodes[:2]] == ["input", "normalise"]
    assert graph.nodes[0].output_bytes == 3 * 32 * 32
    assert graph.nodes[1].output_bytes == 4 * 3 * 32 * 32
    assert graph.nodes[-1].output_shape == (1, 10)
    names = {node.name for node in graph.nodes}
    for node in graph.nodes[1:]:
        assert node.inputs, f"{node.name} does not depend on the image"
        assert names.issuperset(node.inputs)
    assert not names & {"chunk", "scale", "attention", "getattr_1"}, "tuples, parameters and sizes are not values"


def test_both_halves_of_a_tuple_read_its_input(load: Load) -> None:
    graph = load("branching:Branching").graph
    by_name = {node.name: node for node in graph.nodes}
    assert by_name["getitem"].inputs == by_name["getitem_1"].inputs == ("relu",)
    assert by_name["getitem"].output_shape == (1, 8, 16, 16)


def test_macs_and_parameters_are_counted_where_they_are_used(load: Load) -> None:
    split = load("branching:Branching")
    by_name = {node.name: node for node in split.graph.nodes}
    assert by_name["stem"].macs == 16 * 16 * 16 * 3 * 9
    assert by_name["stem"].parameter_bytes == 4 * (16 * 27 + 16)
    assert by_name["mul"].parameter_bytes == 4 * 16  # the parameter that is used directly
    assert by_name["classifier"].macs == 160
    tokens, width = 256, 16
    attention = next(node for node in split.graph.nodes if node.parameter_bytes == 4 * (4 * width * width + 4 * width))
    assert attention.macs == 4 * tokens * width * width + 2 * tokens * tokens * width
    parameters = list(split.model.module.parameters())
    buffers = list(split.model.module.buffers())
    own = 2 * 4 * 3  # mean and deviation of the normalisation
    expected = own + sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *buffers])
    assert sum(node.parameter_bytes for node in split.graph.nodes) == expected


@pytest.mark.parametrize(
    ("name", "macs"),
    # As published with the weights (torchvision's "_ops", in 1e9 multiply-accumulates).
    [
        ("alexnet", 0.714e9),
        ("resnet18", 1.814e9),
        ("mobilenet_v2", 0.301e9),
        ("googlenet", 1.498e9),
        pytest.param("vit_b_16", 17.564e9, marks=pytest.mark.thorough),
    ],
)
def test_macs_of_known_models(name: str, macs: float, load: Load) -> None:
    assert sum(node.macs for node in load(f"torchvision:{name}").graph.nodes) == pytest.approx(macs, rel=2e-3)


@pytest.mark.parametrize("name", ["ReadsWhatWasWritten", "WritesThroughView", "BranchesOnSize"])
def test_answers_what_the_model_answers(name: str, load: Load) -> None:
    split = load(f"branching:{name}")
    partition = split.partition(ALL_ON_EDGE)
    assert torch.allclose(partition.tail((split.model.probe,)), split.model.answer, rtol=1e-5)
    for cut in split.graph.chain_cuts[:-1]:
        sent = split.partition(cut).head(split.model.probe)
        before = [tensor.clone() for tensor in sent]
        assert torch.equal(split.partition(cut).tail(sent), partition.tail((split.model.probe,)))
        assert all(torch.equal(old, new) for old, new in zip(before, sent, strict=True)), f"{cut} was written to"


def test_untraceable_model_names_the_line(load: Load) -> None:
    with pytest.raises(InputError, match=r"branching\.py:\d+: if features\.sum\(\) > 0"):
        load("branching:BranchesOnValue")


def test_compile_refuses_values_that_do_not_determine_the_output(load: Load) -> None:
    graph = load("branching:Branching").graph
    with pytest.raises(ValueError, match="do not determine"):
        graph.compile("Tail", ("skip",), (graph.answer,))


@pytest.mark.parametrize("name", ["Transformer", "Encoder"])
def test_attention_is_exported_counted_and_run_in_one_way(name: str, load: Load) -> None:
    split = load(f"attending:{name}")
    with torch.inference_mode():
        unsplit = split.model.module(Normalise(3)(split.model.probe))
    for cut in split.graph.chain_cuts[:-1]:
        partition = split.partition(cut)
        assert torch.equal(partition.tail(partition.head(split.model.probe)), unsplit), cut
    tokens, width, heads = 16, 16, 2
    products = 2 * tokens * tokens * (width // heads) * heads  # queries by keys, and what comes out by values
    assert sum(node.macs for node in split.graph.nodes) >= products
    assert not torch.backends.cuda.flash_sdp_enabled()


def test_torchscript_inside_a_model_is_one_node(load: Load) -> None:
    graph = load("odd:ScriptedTrunk").graph
    assert [node.name for node in graph.nodes] == ["input", "normalise", "trunk", "flatten", "head"]


def test_an_early_exit_is_refused_in_one_paragraph(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"odd\.py:\d+: if early.*one model each") as refused:
        load("odd:EarlyExit")
    assert len(str(refused.value).splitlines()) == 1
    assert capfd.readouterr().err == ""
