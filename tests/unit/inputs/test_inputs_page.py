"""docs/inputs.md: its example runs, and what its lab would be is refused where something is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from testbed.cli.validate import command as validate
from testbed.errors import InputError
from testbed.front.results import Run
from tests import made_inputs as made
from tests.python_page import ROOT, go_through

TOPOLOGIES = ROOT / "topologies"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_the_example_runs(tmp_path: Path) -> None:
    run = go_through(tmp_path, lambda _code: True, "inputs.md")["run"]
    assert isinstance(run, Run)
    counts = run.summary.tasks
    assert counts.arrived == 300
    assert counts.dropped > 0
    assert counts.arrived == counts.completed + counts.failed + counts.in_flight + counts.dropped
    assert run.manifest.ues["ue1"].input is not None
    assert run.manifest.ues["ue1"].input.shape == (30, 3, 240, 320)
    tasks = run.tasks.to_pandas()
    assert (tasks["input"] == tasks["task"] % 30).all()
    resized = run.manifest.ues["ue1"].profile_sha256
    plain = go_through_plain(tmp_path)
    assert resized != plain.manifest.ues["ue1"].profile_sha256  # the device's work is on the books
    assert plain.summary.tasks.dropped == 0


def go_through_plain(folder: Path) -> Run:
    import testbed

    return testbed.simulate(folder / "topologies" / "quickstart.yaml", policy="device-only", slots=4)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"input": "{video: clip.mp4, images: images}"}, "'images' and 'video'"),
        ({"input": "{labels: y.csv}"}, "there is none"),
        ({"input": "{video: none.mp4}"}, "key 'input.video': the clip does not exist"),
        ({"input": "{array: x.npy}"}, "does not hold inputs"),
        ({"input": "{video: clip.mp4, labels: y.csv}"}, "another number of labels"),
        ({"input": "{images: images, size: [0, 4]}"}, "input.size"),
        ({"ues.0.arrivals": "{process: video}"}, "a video's frames"),
        ({"ues.0.arrivals": "{process: video, rate: 3 /s}", "input": "{video: clip.mp4}"}, "rate of its clip"),
        ({"ues.0.arrivals": "{rate: 3 /s, on_busy: wait}"}, "on_busy"),
        ({"model": "{name: torchvision:mobilenet_v2, weights: none.pt}"}, "file of weights does not exist"),
        ({"model": "{name: torchvision:mobilenet_v2, weight: w.pt}"}, "Did you mean 'weights'?"),
    ],
)
def test_what_is_wrong_with_a_lab_is_one_paragraph(tmp_path: Path, keys: dict[str, str], says: str) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text((TOPOLOGIES / "quickstart.yaml").read_text())
    made.clip(tmp_path / "clip.mp4")
    made.images(tmp_path / "images")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 4)))
    (tmp_path / "y.csv").write_text("1\n")
    profile = f"profile={TOPOLOGIES / 'profiles' / 'mobilenet_v2.json'}"
    texts = [profile, *(f"{key}={value}" for key, value in keys.items())]
    answer = CliRunner().invoke(
        validate, [str(lab), "--no-import", *(part for text in texts for part in ("--set", text))]
    )
    error = answer.exception
    assert isinstance(error, InputError), answer.output
    assert says in str(error)
    assert error.exit_code == 2
    assert "\n" not in str(error)
