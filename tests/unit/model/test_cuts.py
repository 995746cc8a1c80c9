from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.contract import GraphNode
from controller.model import cuts


def node(name: str, *inputs: str) -> GraphNode:
    return GraphNode(name=name, inputs=inputs, output_shape=(1, 2), output_bytes=8, macs=1, parameter_bytes=0)


#: input - a - b - d - e, with c beside b
DIAMOND = (node("input"), node("a", "input"), node("b", "a"), node("c", "a"), node("d", "b", "c"), node("e", "d"))


@st.composite
def graphs(draw: st.DrawFn) -> tuple[GraphNode, ...]:
    """A random graph in topological order; whatever nobody reads is read by the last node."""
    size = draw(st.integers(2, 12))
    nodes = [node("input")]
    for index in range(1, size):
        earlier = [found.name for found in nodes]
        chosen = draw(st.sets(st.sampled_from(earlier), min_size=1, max_size=3))
        if index == size - 1:
            chosen |= set(earlier) - {name for found in nodes for name in found.inputs}
        nodes.append(node(f"n{index}", *sorted(chosen)))
    return tuple(nodes)


@st.composite
def device_sets(draw: st.DrawFn) -> tuple[tuple[GraphNode, ...], frozenset[str]]:
    nodes = draw(graphs())
    inside = {"input"}
    for found in nodes[1:]:
        if inside.issuperset(found.inputs) and draw(st.booleans()):
            inside.add(found.name)
    return nodes, frozenset(inside)


@given(device_sets())
def test_device_sets_and_cuts_determine_each_other(case: tuple[tuple[GraphNode, ...], frozenset[str]]) -> None:
    nodes, inside = case
    cut = cuts.canonical_cut(nodes, inside)
    assert cuts.device_set(nodes, cut) == inside
    cuts.check_cut(nodes, cut)


@given(graphs(), st.data())
def test_check_cut_accepts_exactly_the_canonical(nodes: tuple[GraphNode, ...], data: st.DataObject) -> None:
    names = [found.name for found in nodes]
    cut = tuple(data.draw(st.lists(st.sampled_from(names), unique=True, max_size=4)))
    inside = cuts.device_set(nodes, cut)
    crossing = {name for found in nodes if found.name not in inside for name in found.inputs} & inside
    canonical = tuple(name for name in names if name in crossing)
    if cut == canonical:
        cuts.check_cut(nodes, cut)
    else:
        with pytest.raises(ValueError, match="not canonical"):
            cuts.check_cut(nodes, cut)


@given(graphs())
def test_chain_cuts_are_all_canonical_single_tensors(nodes: tuple[GraphNode, ...]) -> None:
    found = cuts.chain_cuts(nodes)
    brute = [
        (each.name,) for each in nodes if cuts.canonical_cut(nodes, cuts.ancestors(nodes, [each.name])) == (each.name,)
    ]
    if ("input",) not in brute:
        raise AssertionError("everything depends on the input")
    assert set(found) == {*brute, ()}
    sets = [cuts.device_set(nodes, cut) for cut in found]
    assert all(small < large for small, large in itertools.pairwise(sets))


def test_diamond() -> None:
    assert cuts.chain_cuts(DIAMOND) == (("input",), ("a",), ("d",), ())
    assert cuts.ancestors(DIAMOND, ["b"]) == {"input", "a", "b"}
    assert cuts.canonical_cut(DIAMOND, {"input", "a", "b"}) == ("a", "b")
    assert cuts.consumers(DIAMOND)["a"] == ("b", "c")
    assert cuts.cut_bytes(DIAMOND, ("a", "b")) == 16
    assert cuts.cut_bytes(DIAMOND, ()) == 0


@pytest.mark.parametrize("cut", [("b",), ("b", "a"), ("e",), ("a", "a")])
def test_refused(cut: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not canonical"):
        cuts.check_cut(DIAMOND, cut)


@pytest.mark.parametrize(
    ("inside", "message"), [({"a"}, "holds the input"), ({"input", "b"}, "reads 'a'"), (set[str](), "holds the input")]
)
def test_impossible_device_sets(inside: set[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cuts.canonical_cut(DIAMOND, inside)


def test_unknown_value() -> None:
    with pytest.raises(ValueError, match="no graph value is called 'x'"):
        cuts.ancestors(DIAMOND, ["x"])
