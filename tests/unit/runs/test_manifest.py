import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import testbed
from controller.policies.examples import example_scenario
from testbed.errors import InputError, TestbedError
from testbed.lab.prepare import RunOrder
from testbed.lab.run import bring_up
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load
from testbed.protocol.configs import read_scenario
from testbed.records.manifest import Manifest, describe_run, read_manifest, require_unused, write_manifest
from testbed.records.run_format import RUN_FORMAT
from testbed.records.tables import open_table, read_tables
from testbed.report.compare import compare
from testbed.report.summary import read_summary

OLD_RUN = Path(__file__).parent / "old_run"
LAB = Path(__file__).resolve().parents[3] / "topologies" / "lymdo.yaml"


def simulation_of(order: RunOrder) -> SimulationOrder:
    return SimulationOrder(order.topology, order.where, order.folder, order.run_directory, 2, "event")


def described(tmp_path: Path) -> Manifest:
    for name in ("ue1.csv", "delay/ue1.csv"):
        trace = tmp_path / "traces" / name
        trace.parent.mkdir(exist_ok=True)
        trace.write_text(f"# note={name}\ntime_seconds,up,down\n0,1,1\n")
    return describe_run(
        run_id="run-1",
        lab={"name": "x", "slot": "0.5 s"},
        scenario=example_scenario(),
        seed=7,
        policy="fixed",
        policy_options={"cut": "local"},
        runtime="netns",
        runtime_features={"realtime": True},
        link_backend="htb",
        duration_seconds=30.0,
        trace_folder=tmp_path / "traces",
        command_line=["testbed", "run", "x.yaml"],
    )


def test_it_survives_its_file(tmp_path: Path) -> None:
    manifest = described(tmp_path)
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert manifest.trace_sha256 == {
        name: hashlib.sha256((tmp_path / "traces" / name).read_bytes()).hexdigest()
        for name in ("delay/ue1.csv", "ue1.csv")
    }
    assert set(manifest.ues) == {ue.name for ue in example_scenario().ues}
    assert manifest.versions["python"].startswith("3.")
    assert "torch" in manifest.versions
    assert manifest.ended_utc is None


def test_equal_profiles_have_equal_hashes(tmp_path: Path) -> None:
    manifest = described(tmp_path)
    scenario = example_scenario()
    same = {ue.name for ue in scenario.ues if ue.profile == scenario.ues[0].profile}
    hashes = {manifest.ues[name].profile_sha256 for name in same}
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


@pytest.mark.thorough
def test_what_only_reads_or_plans_loads_no_compiler() -> None:
    """55 MB and a second of each command, and of the trace player and the recorder of each lab."""
    modules = (
        "testbed.cli.main, testbed.lab.plan, testbed.report.conclude, testbed.report.live, "
        "testbed.programs.player.player, testbed.programs.recorder.recorder"
    )
    code = f"import sys, {modules}; print(sorted({{'torch', 'numba', 'llvmlite'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("version", [0, RUN_FORMAT + 1, 99])
def test_a_run_of_another_version_is_refused_whatever_is_read_of_it(tmp_path: Path, version: int) -> None:
    shutil.copytree(OLD_RUN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manifest.json").write_text(json.dumps({"manifest_version": version, "lab": {"new": "form"}}))
    readers = (read_manifest, read_summary, read_tables, lambda run: open_table(run / "tasks.parquet"))
    for read in readers:
        with pytest.raises(InputError, match=rf"another version of the testbed; got 'manifest_version {version}'"):
            read(tmp_path)


def test_an_old_run_is_read() -> None:
    """Of form 2, from before tables had no version of their own; it lacks the tables that came last."""
    run = testbed.open_run(OLD_RUN)
    assert run.manifest.manifest_version == 2
    assert run.summary.tasks.completed == len(run.tasks) == 1
    assert run.table("slots").num_rows == 4
    tables = read_tables(OLD_RUN)
    assert len(tables.slots) == 4
    assert len(tables.uploads) == 0
    assert compare([OLD_RUN])[0].lab == "quickstart"


def test_the_scenario_of_an_old_lab_is_read() -> None:
    """It has a price of the edge and a floor of gains, which nothing read."""
    text = (OLD_RUN / "scenario.json").read_text(encoding="utf-8")
    assert '"price"' in text
    assert '"gain_floor"' in text
    scenario = read_scenario(OLD_RUN / "scenario.json")
    assert msgspec.structs.replace(example_scenario(), ues=example_scenario().ues[:1]) == scenario


@pytest.mark.parametrize("broken", ['"cpu": 0.8', "}"])
def test_a_scenario_that_cannot_be_read_says_so(tmp_path: Path, broken: str) -> None:
    text = (OLD_RUN / "scenario.json").read_text(encoding="utf-8")
    path = tmp_path / "scenario.json"
    path.write_text(text.replace('"price": 0.0', broken, 1))
    with pytest.raises(TestbedError, match=r"scenario\.json cannot be read .*take the lab down, and up again"):
        read_scenario(path)


@pytest.mark.parametrize("content", [b'{"manifest_version": 1}', b'{"lab": "\xff"}', b""])
def test_a_broken_manifest_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json: the manifest cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("left", ["manifest.json", "summary.json", "streams/tasks.arrows", "tasks.parquet"])
def test_a_folder_that_holds_a_run_takes_no_second_one(tmp_path: Path, left: str) -> None:
    path = tmp_path / "run" / left
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of the first run")
    topology = load(LAB)
    for start in (bring_up, lambda order, notify: simulate_lab(simulation_of(order), notify)):
        order = RunOrder(topology, str(LAB), LAB.parent, "netns", tmp_path / "run", 1.0)
        with pytest.raises(InputError, match="there is a run already") as refused:
            start(order, lambda _text: None)
        assert refused.value.exit_code == 2
    assert [p for p in (tmp_path / "run").rglob("*") if p.is_file()] == [path]
    assert path.read_bytes() == b"of the first run"


def test_a_folder_without_a_run_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    require_unused(tmp_path)
    require_unused(tmp_path / "not-there")
