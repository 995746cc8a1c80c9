"""Weights from a file: the very ones, in a model that they fit; anything else is refused in one paragraph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from testbed.errors import InputError
from testbed.inference.models import LoadedModel, load_model
from testbed.inference.published_weights import weights_of
from testbed.inference.weight_files import RANDOM_WEIGHTS, Weights

HERE = Path(__file__).parent
SMALL = "few_weights:small"


def loaded(weights: Weights = RANDOM_WEIGHTS, seed: int = 1, model: str = SMALL) -> LoadedModel:
    return load_model(model, seed, (HERE,), weights)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Of a model of another seed."""
    return loaded(seed=2).module.state_dict()


def saved(path: Path, content: object) -> Weights:
    if path.suffix == ".safetensors":
        save_file(content, path)  # type: ignore[arg-type]
    else:
        torch.save(content, path)
    return weights_of(SMALL, str(path), HERE)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
def test_a_models_weights_are_those_of_the_file_whatever_the_seed(
    tmp_path: Path, state: dict[str, torch.Tensor], name: str
) -> None:
    weights = saved(tmp_path / name, state)
    assert len(weights.sha256) == 64
    first, other = loaded(weights, seed=1), loaded(weights, seed=3)
    assert first.weights_digest == other.weights_digest == loaded(seed=2).weights_digest != loaded().weights_digest
    assert not torch.equal(first.probe, other.probe)  # the seed still draws the rest


def test_training_checkpoints_and_wrappers_are_seen_through(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    assert loaded(saved(tmp_path / "w.pt", wrapped)).weights_digest == loaded(seed=2).weights_digest


def test_tensors_that_share_memory_may_be_saved_once(tmp_path: Path) -> None:
    tied = loaded(model="few_weights:tied")
    state = tied.module.state_dict()
    del state["second.weight"]
    weights = weights_of("few_weights:tied", saved(tmp_path / "w.safetensors", state).path, HERE)
    assert loaded(weights, seed=2, model="few_weights:tied").weights_digest == tied.weights_digest


@contextlib.contextmanager
def refused(*says: str) -> Iterator[None]:
    with pytest.raises(InputError) as error:
        yield
    for words in says:
        assert words in str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_named_few(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    other = loaded(model="few_weights:deep").module.state_dict()
    with refused("missing: ", "unexpected: ", "and ", " more", "0.0.weight"):
        loaded(saved(tmp_path / "other.safetensors", other))
    wide = {**state, "1.bias": torch.zeros(1000)}
    with refused("of another shape: 1.bias (1000,) for (10,)"):
        loaded(saved(tmp_path / "wide.pt", wide))


class Foreign(nn.Module):
    pass


@pytest.mark.parametrize("content", [Foreign(), [1, 2], {}, {1: torch.zeros(1)}, {"state_dict": Foreign()}])
def test_what_is_no_state_dict_is_refused_and_nothing_is_unpickled(tmp_path: Path, content: object) -> None:
    with refused("model.weights", "w.pt"):
        loaded(saved(tmp_path / "w.pt", content))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_damaged_file_is_refused(tmp_path: Path, state: dict[str, torch.Tensor], name: str) -> None:
    path = Path(saved(tmp_path / name, state).path)
    path.write_bytes(path.read_bytes()[:-1000])
    with refused("these are no weights"):
        loaded(weights_of(SMALL, str(path), HERE))


def test_a_file_that_changed_is_refused_with_both_hashes(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    weights = saved(tmp_path / "w.safetensors", state)
    now = saved(tmp_path / "w.safetensors", {**state, "1.bias": torch.ones(10)})
    with refused(weights.sha256, now.sha256, "is not the one"):
        loaded(weights)


@pytest.mark.thorough
def test_published_weights_come_from_the_cache_or_a_line_says_that_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers
    with refused("are not on this host and cannot be fetched", "squeezenet1_1-b8a52dc0.pth", "random"):
        weights_of("torchvision:squeezenet1_1", "default", HERE)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    state = load_model("torchvision:squeezenet1_1", 5).module.state_dict()
    torch.save(state, tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    weights = weights_of("torchvision:squeezenet1_1", "default", HERE)
    found = load_model("torchvision:squeezenet1_1", 6, (), weights).module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    with refused("no library publishes weights of this model"):
        weights_of(SMALL, "default", HERE)


def test_weights_are_of_a_model_not_of_what_a_lab_wraps_it_in(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    wrapped = loaded(saved(tmp_path / "w.pt", {**state, "aux1.weight": torch.ones(3)}), model="few_weights:wrapped")
    found = wrapped.module.state_dict()
    assert all(torch.equal(found[f"inner.{key}"], value) for key, value in state.items())
