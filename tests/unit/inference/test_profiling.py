"""What a measured profile promises whatever the machine is doing: its structure, never its values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from controller.contract import ModelProfile
from controller.model.cuts import chain_cuts, device_set
from testbed.errors import InputError
from testbed.inference.partition import SplitModel
from testbed.inference.profiles import profile_cache_path, read_profile, write_profile
from testbed.inference.profiling import Effort, profile_split

EFFORT = Effort(budget_seconds=0.5, idle_seconds=0.0, minimum_repetitions=3, codec_repetitions=2)


@pytest.fixture(scope="module")
def profile(load: Callable[[str], SplitModel]) -> ModelProfile:
    heard: list[float] = []
    found = profile_split(
        load("branching:Branching"),
        reference_fraction=0.5,
        effort=EFFORT,
        progress=lambda text, ratio: heard.append(ratio),
    )
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    return found


def test_heads_never_fall_and_tails_never_rise(profile: ModelProfile) -> None:
    assert profile.chain_cuts == chain_cuts(profile.nodes)
    head, tail = np.array(profile.head_seconds), np.array(profile.tail_seconds)
    assert head[0] == tail[-1] == 0.0
    assert head[-1] == tail[0] > 0.0
    assert np.all(np.diff(head) >= 0)
    assert np.all(np.diff(tail) <= 0)
    assert tail[-2] < tail[0]


def test_node_seconds_sum_to_the_heads(profile: ModelProfile) -> None:
    seconds = {node.name: spent for node, spent in zip(profile.nodes, profile.node_seconds, strict=True)}
    assert min(seconds.values()) >= 0
    for cut, head in zip(profile.chain_cuts, profile.head_seconds, strict=True):
        assert sum(seconds[name] for name in device_set(profile.nodes, cut)) == pytest.approx(head, abs=1e-7)


def test_codecs_have_a_time_for_each_cut(profile: ModelProfile) -> None:
    for codec in ("fp32", "fp16", "uint8"):
        times = profile.codecs[codec]  # type: ignore[index]
        assert len(times.encode_seconds) == len(times.decode_seconds) == len(profile.chain_cuts)
        assert min(times.encode_seconds[:-1]) > 0
        assert times.encode_seconds[-1] == times.decode_seconds[-1] == 0
    assert profile.result_bytes == 40


@pytest.mark.thorough
def test_times_are_those_of_the_reference_core(load: Callable[[str], SplitModel]) -> None:
    split = load("branching:Branching")
    thousandth = profile_split(split, reference_fraction=0.001, effort=EFFORT, progress=lambda text, ratio: None)
    core = thousandth.reference_core
    assert core.fraction == 0.001
    assert core.kernel_seconds is not None
    assert 0 < core.kernel_seconds < 1, "the kernel's is the host's own time"
    # A thousandth of a core: far outside of what noise could explain.
    assert thousandth.head_seconds[-1] > 20 * profile_split_seconds(split)


def profile_split_seconds(split: SplitModel) -> float:
    whole = profile_split(split, reference_fraction=1.0, effort=EFFORT, progress=lambda text, ratio: None)
    return whole.head_seconds[-1]


def test_a_profile_survives_its_file(profile: ModelProfile, tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    write_profile(profile, path)
    assert read_profile(path) == profile


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "not a model profile"),
        (b"{}", "not a model profile"),
        (b'{"version": 1, "model": "\xff"}', "not a model profile"),
        (b'{"version": 99}', "another version"),
        (b'{"version": 1}', "not a model profile"),
    ],
)
def test_bad_files_are_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_profile(path)
    assert str(path) in str(caught.value)


def test_inconsistent_profile_is_refused(profile: ModelProfile, tmp_path: Path) -> None:
    path = tmp_path / "short.json"
    fields = msgspec.to_builtins(profile)
    fields["head_seconds"] = fields["head_seconds"][1:]
    path.write_bytes(msgspec.json.encode(fields))
    with pytest.raises(InputError, match="one entry per chain cut"):
        read_profile(path)


def test_a_profile_of_another_graph_is_refused(profile: ModelProfile, load: Callable[[str], SplitModel]) -> None:
    load("branching:Branching").check_profile(profile, "mine.json")
    with pytest.raises(InputError, match=r"theirs\.json: the profile describes another graph .*input"):
        load("branching:ReadsWhatWasWritten").check_profile(profile, "theirs.json")


def test_cache_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert profile_cache_path("torchvision:resnet18") == Path("/somewhere/testbed/profiles/torchvision-resnet18.json")


def test_shipped_profiles_can_be_read() -> None:
    shipped = sorted((Path(__file__).parents[3] / "topologies" / "profiles").glob("*.json"))
    assert {path.stem for path in shipped} >= {"mobilenet_v2", "alexnet", "resnet18"}
    for path in shipped:
        profile = read_profile(path)
        kind, _, name = profile.model.partition(":")
        assert kind != "torchvision" or name == path.stem.rpartition("-")[2]  # DEVICE-MODEL, or MODEL of this core
        assert profile.holdout_error_ratio <= 0.05
