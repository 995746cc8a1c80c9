"""Keys of points: content decides, names of files do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from campaigns import ROOT
from testbed.campaign import keys
from testbed.campaign.keys import key_of
from testbed.labfile.load import load

ORDER = {"where": "simulator", "slots": 5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lab").mkdir()
    for name in ("lymdo.yaml", "profiles", "checkpoints"):
        source = ROOT / "topologies" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / "lab" / name)
    return tmp_path / "lab"


def key(folder: Path, *overrides: str) -> str:
    keys._file_digest.cache_clear()  # as in another process
    return key_of(load(folder / "lymdo.yaml", overrides), folder, ORDER)


def test_a_lab_that_moves_keeps_its_points(folder: Path) -> None:
    before = key(folder)
    assert key(folder.rename(folder.parent / "elsewhere")) == before


def test_what_changes_a_lab_changes_its_points(folder: Path) -> None:
    before = key(folder)
    assert len({before, key(folder, "seed=3"), key(folder, "radio.uplink=3 MHz"), key(folder, "policy=edge-only")}) == 4
    assert key(folder, "radio.uplink=4000 kHz") == before  # as it is
    text = folder.joinpath("lymdo.yaml").read_text()
    folder.joinpath("lymdo.yaml").write_text(f"# a remark\n{text}")
    assert key(folder) == before


@pytest.mark.parametrize("name", ["profiles/alexnet.json", "checkpoints/lymdo.npz"])
def test_the_content_of_files_counts(folder: Path, name: str) -> None:
    before = key(folder)
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    assert key(folder) != before


def test_the_content_of_folders_counts(folder: Path) -> None:
    (folder / "images").mkdir()
    shutil.copy(ROOT / "docs" / "figures" / "lymdo-sweep.png", folder / "images" / "1.png")
    images = "input={images: images, size: [32, 32]}"
    before = key(folder, images)
    shutil.copy(ROOT / "docs" / "figures" / "lymdo-v-sweep.png", folder / "images" / "2.png")
    assert key(folder, images) != before


def test_code_beside_the_lab_counts_where_it_is_used(folder: Path) -> None:
    (folder / "mine.py").write_text("from controller.policies.static import EdgeOnly as Mine\n")
    without, with_it = key(folder), key(folder, "policy=mine:Mine")
    (folder / "helper.py").write_text("")
    assert key(folder) == without
    assert key(folder, "policy=mine:Mine") != with_it


def test_versions_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(folder)
    assert {"code", "python", "torch", "numpy"} <= set(keys.versions())
    monkeypatch.setattr(keys, "versions", lambda: {"numpy": "0"})
    assert key(folder) != before
