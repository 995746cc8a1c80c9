from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from testbed.errors import InputError
from testbed.inference import partition, vouching
from testbed.inference.layer_times import LayerTimes, profile_of_device
from testbed.inference.profiles import profile_cache_path, write_profile
from testbed.lab import checks
from testbed.labfile.load import load
from testbed.labfile.schema import Topology

HERE = Path(__file__).parent
LAB = """
name: lab
model: {model}
{more}
codec: {{boundary: fp32}}
radio: {{uplink: 1 MHz, downlink: 1 MHz}}
ues: [{{name: ue, arrivals: {{rate: 1 /s}}, channel: {{fading: static, distance: 1 m}}}}]
policy: edge-only
"""


class Folder:
    """A lab beside a module of its own, and how often its model was traced."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.traced, self._monkeypatch = path, 0, monkeypatch
        monkeypatch.setenv("XDG_CACHE_HOME", str(path / "cache"))
        monkeypatch.setattr(sys, "path", sys.path.copy())
        self._real = partition.load_split_model
        monkeypatch.setattr(partition, "load_split_model", self._load)
        shutil.copy(HERE / "odd.py", path / "own_odd.py")

    def _load(self, *args: Any) -> partition.SplitModel:
        self.traced += 1
        return self._real(*args)

    def lab(self, factory: str = "plain", more: str = "", module: str = "own_odd") -> Topology:
        (self.path / "lab.yaml").write_text(LAB.format(model=f"{module}:{factory}", more=more))
        return load(self.path / "lab.yaml")

    def check(self, topology: Topology) -> None:
        self._monkeypatch.delitem(sys.modules, "own_odd", raising=False)
        checks.check_models(topology, "lab.yaml", self.path, traced=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


def test_a_model_is_traced_once_per_content(folder: Folder) -> None:
    topology = folder.lab()
    for _ in range(3):
        folder.check(topology)
    assert folder.traced == 1
    (folder.path / "another-lab.yaml").write_text("name: another")
    folder.check(topology)
    assert folder.traced == 1, "another lab in the folder changes nothing"
    module = folder.path / "own_odd.py"
    module.write_text(module.read_text() + "\n# edited\n")
    folder.check(topology)
    assert folder.traced == 2
    (folder.path / "beside.pt").write_bytes(b"new")
    folder.check(topology)
    assert folder.traced == 3


def test_what_was_traced_does_not_outlive_its_weights(folder: Folder) -> None:
    torch.save(partition.load_split_model("odd:plain", 1, (HERE,)).model.module.state_dict(), folder.path / "beside.pt")
    topology = folder.lab("beside")
    folder.check(topology)
    (folder.path / "beside.pt").unlink()
    with pytest.raises(InputError, match=r"lab\.yaml: model: the factory failed.*beside\.pt"):
        folder.check(topology)


def test_a_model_that_cannot_be_cut_is_refused_although_it_runs(folder: Folder) -> None:
    with pytest.raises(InputError, match=r"lab\.yaml: model: the model cannot be traced"):
        folder.check(folder.lab("EarlyExit"))


def test_a_profile_of_another_graph_is_refused_and_a_cached_one_is_measured_anew(folder: Folder) -> None:
    other = partition.load_split_model("odd:ScriptedTrunk", 1, (HERE,))
    profile = profile_of_device(other, LayerTimes("none", "none", {}), "here")
    profile = msgspec.structs.replace(profile, model="own_odd:plain")
    write_profile(profile, folder.path / "profile.json")
    with pytest.raises(InputError, match=r"profile\.json: the profile describes another graph"):
        folder.check(folder.lab(more="profile: profile.json"))
    cached = profile_cache_path("own_odd:plain")
    write_profile(profile, cached)
    folder.check(folder.lab())
    assert not cached.exists()


def test_packed_weights_cannot_move(folder: Folder) -> None:
    shutil.copy(HERE / "number_types.py", folder.path / "own_types.py")
    folder.check(folder.lab("int8", module="own_types"))
    with pytest.raises(InputError, match=r"'trunk\.0'.*packed by a quantised layer"):
        folder.check(folder.lab("int8", "retraining: {interval: 5 s}", module="own_types"))


def test_a_cache_that_cannot_be_written_costs_time_only(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.path / "cache").write_text("a file in its place")
    monkeypatch.setattr(vouching, "cache_file", lambda *parts: (folder.path / "cache").joinpath(*parts))  # nowhere else
    for _ in range(2):
        folder.check(folder.lab())
    assert folder.traced == 2
