"""Cuts of several tensors: 50 random ones of each model, through the wire's format, and their times in a profile."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from controller.contract import Codec, Cut, GraphNode, cut_label
from controller.model.cut_times import estimated_seconds
from controller.model.cuts import canonical_cut
from controller.model.delay import stage_work
from testbed.cli.profile import command
from testbed.errors import InputError
from testbed.inference import tensors
from testbed.inference.cut_profiling import measure_cuts
from testbed.inference.partition import SplitModel
from testbed.inference.profiles import read_profile, write_profile
from testbed.inference.profiling import Effort, profile_split
from testbed.node.backend import CpuBackend

Load = Callable[[str], SplitModel]
HERE = Path(__file__).parent
QUICK = Effort(budget_seconds=0.2, idle_seconds=0.0, minimum_repetitions=2, codec_repetitions=2)


def random_cuts(nodes: tuple[GraphNode, ...], count: int, seed: int) -> list[Cut]:
    """Different cuts of several tensors, of device sets of all sizes that grew by any node whose inputs were there."""
    rng = random.Random(seed)
    cuts: dict[Cut, None] = {}
    for _ in range(40 * count):
        on_device = {nodes[0].name}
        for _ in range(rng.randrange(1, len(nodes) - 1)):
            ready = [n.name for n in nodes if n.name not in on_device and on_device.issuperset(n.inputs)]
            on_device.add(rng.choice(ready))
        cut = canonical_cut(nodes, on_device)
        if len(cut) > 1:
            cuts[cut] = None
        if len(cuts) == count:
            return list(cuts)
    raise AssertionError(f"{len(cuts)} different cuts instead of {count}")


@pytest.mark.parametrize(
    "name",
    [pytest.param("small:googlenet", marks=pytest.mark.thorough), "families:InceptionLike", "families:DenseLike"],
)
def test_any_down_closed_cut_answers_bit_for_bit(name: str, load: Load) -> None:
    split = load(name)
    sizes = {node.name: node.output_bytes for node in split.graph.nodes}
    for cut in random_cuts(split.graph.nodes, 50, 1):
        partition = split.partition(cut)
        header, buffers = tensors.pack(3, cut, partition.head(split.model.probe), "fp32")
        payload = b"".join(buffers)  # as it travels: in one message
        assert len(payload) == sum(sizes[value] for value in cut)
        frame = tensors.unpack(header, tensors.split_payload(tensors.decode_header(header), payload))
        assert torch.equal(partition.tail(frame.tensors), split.model.answer), cut


@pytest.mark.parametrize("codec", ["fp16", "uint8"])
def test_bytes_are_what_policies_count_with(codec: Codec, load: Load) -> None:
    split = load("families:DenseLike")
    profile = profile_split(split, reference_fraction=0.5, effort=QUICK, progress=lambda text, ratio: None)
    for cut in random_cuts(split.graph.nodes, 15, 2):
        _, buffers = tensors.pack(0, cut, split.partition(cut).head(split.model.probe), codec)
        assert sum(map(len, buffers)) == profile.boundary_bytes(cut, codec)


def test_a_backend_serves_a_cut_that_it_was_not_prepared_for(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    split = load("families:InceptionLike")
    monkeypatch.setattr("testbed.node.backend.split_model", lambda *_: split)
    profile = profile_split(split, reference_fraction=0.5, effort=QUICK, progress=lambda text, ratio: None)
    backend = CpuBackend(profile.model, 7, profile)
    for cut in random_cuts(split.graph.nodes, 5, 3):
        backend.check(cut)
        header, buffers = backend.head(1, cut, "fp32", split.model.probe)
        tail = backend.tail(tensors.decode_header(header), buffers)
        while not tail.finished:
            tail.step()
        assert bytes(tail.logits()) == split.model.answer.numpy().tobytes()
        assert min(stage_work(profile, cut, "fp32")) >= 0


def test_a_measured_cut_is_in_the_profile_beside_its_estimate(load: Load, tmp_path: Path) -> None:
    split = load("families:DenseLike")
    profile = profile_split(split, reference_fraction=0.5, effort=QUICK, progress=lambda text, ratio: None)
    cut = max(random_cuts(split.graph.nodes, 20, 4), key=len)
    other = next(one for one in random_cuts(split.graph.nodes, 20, 5) if one != cut)
    found = measure_cuts(split, profile, [cut_label(cut)], rounds=3, idle_seconds=0.0)
    found = measure_cuts(split, found, [cut_label(other)], rounds=2, idle_seconds=0.0)
    assert [one.cut for one in found.measured_cuts] == [cut, other]
    measured = found.measured_cuts[0]
    estimate = estimated_seconds(profile, cut)
    assert (measured.estimated_head_seconds, measured.estimated_tail_seconds) == pytest.approx(estimate, abs=1e-9)
    assert 0.2 < measured.head_seconds / estimate[0] < 5
    assert found.known_cuts[-2:] == (cut, other)
    write_profile(found, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == found


def test_only_cuts_of_several_tensors_are_measured(load: Load) -> None:
    split = load("families:DenseLike")
    profile = profile_split(split, reference_fraction=0.5, effort=QUICK, progress=lambda text, ratio: None)
    with pytest.raises(InputError, match="of a single tensor"):
        measure_cuts(split, profile, ["input"])
    with pytest.raises(InputError, match="no cut of"):
        measure_cuts(split, profile, ["nonesuch+input"])


def test_cuts_are_added_to_a_profile_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    arguments = ["families:DenseLike", "--cut", "a+b", "--out", str(tmp_path / "none.json")]
    with pytest.raises(InputError, match="cannot be read"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
