"""The wheel has all that the program needs: installed into another folder, it starts a lab of its own there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.installed import CODE
from testbed.runtime.docker.images import node_tag, prometheus_tag
from tests.emulation.conftest import Bench

pytestmark = pytest.mark.thorough
SOURCES = ("testbed", "controller", "images", "grafana", "topologies", "campaigns", "examples")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "constraints.txt", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel brings, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files beside its source
    for name in SOURCES:
        shutil.copytree(CODE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(CODE / name, source / name)
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*PIP, "wheel", *offline, "--wheel-dir", str(folder), str(source)], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*PIP, "install", *offline, "--target", str(folder / "site"), str(wheel)], check=True)
    shutil.rmtree(source)
    return folder / "site"


def inside(site: Path, folder: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    return done.stdout


def test_images_and_dashboards_are_those_of_the_checkout(site: Path, tmp_path: Path) -> None:
    program = (
        "import json, testbed\n"
        "from testbed.installed import shipped\n"
        "from testbed.runtime.docker.images import node_tag, prometheus_tag\n"
        "dashboards = sorted(path.name for path in shipped('grafana', 'dashboards').iterdir())\n"
        "print(json.dumps([testbed.__file__, node_tag(), prometheus_tag(), dashboards]))\n"
    )
    where, node, prometheus, dashboards = json.loads(inside(site, tmp_path, "-c", program))
    assert Path(where).is_relative_to(site)
    assert (node, prometheus) == (node_tag(), prometheus_tag())
    assert dashboards == sorted(path.name for path in (CODE / "grafana" / "dashboards").iterdir())


@pytest.fixture
def name(tmp_path: Path) -> Iterator[str]:
    with Bench(tmp_path) as bench:
        yield bench.name()


@pytest.mark.root
def test_init_and_run_in_another_folder(site: Path, name: str, tmp_path: Path) -> None:
    inside(site, tmp_path, "-m", "testbed", "init", "lab")
    quiet = ("--set", "monitoring={prometheus: off, grafana: off}", "--runtime", "netns")
    lab = tmp_path / "lab"
    run = ("-m", "testbed", "run", "--name", name, "--duration", "5s", "--json", *quiet)
    # 4: a busy host carried no valid run; that there was one is what is asked here
    summary = json.loads(inside(site, lab, *run, codes=(0, 4)))
    assert summary["tasks"]["completed"] > 0
    assert (Path(summary["run_dir"]) / "report.html").is_file()
    assert Path(summary["run_dir"]).is_relative_to(lab)
