"""A lab whose UE ``mallory`` attacks it, and what has to be true of it afterwards, in either runtime."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.emulation.conftest import LABS, Bench


@dataclass
class Attacked:
    """A run under attack."""

    directory: Path
    outcomes: dict[str, str]  # by attack, as it saw it
    tasks: list[dict[str, Any]]
    events: list[dict[str, Any]]
    manifest: dict[str, Any]

    def of(self, ue: str) -> list[dict[str, Any]]:
        return [task for task in self.tasks if task["ue"] == ue]


def write_lab(folder: Path, lab: str = "hostile.yaml") -> Path:
    """A copy of the lab with its models, in a new folder."""
    folder.mkdir()
    for parent in (folder, folder.parent):
        parent.chmod(0o755)  # containers have a user of their own
    for name in (lab, "hostile_model.py", "tiny_model.py"):
        shutil.copy(LABS / name, folder / name)
    profile = (LABS / "tiny_profile.json").read_text()
    (folder / "hostile_profile.json").write_text(re.sub(r"tiny_model:make", "hostile_model:make", profile))
    return folder / lab


def attack(bench: Bench, folder: Path) -> Attacked:
    lab, directory = write_lab(folder / "hostile"), folder / "run"
    # exit code 4: the edge was told what it could not read
    options = ("--name", bench.name(), "--runtime", bench.runtime, "--duration", "25 s", "--out", str(directory))
    bench.call("run", str(lab), *options, code=4)
    lines = re.findall(r"ATTACK (\w+): (.*)", (directory / "logs" / "mallory.log").read_text())
    return Attacked(
        directory,
        dict(lines),
        pq.read_table(directory / "tasks.parquet").to_pylist(),
        pq.read_table(directory / "events.parquet").to_pylist(),
        json.loads((directory / "manifest.json").read_text()),
    )


def check_messages(run: Attacked) -> None:
    """What holds in either runtime: nothing that mallory said reached anybody but as mallory's."""
    outcomes = run.outcomes
    assert outcomes["all"] == "done", outcomes
    for name in ("speak_as_others", "command_the_lab", "nest"):  # what the lab tells every UE comes to it, too
        assert not re.search("Welcome|Reply|Status", outcomes[name]), outcomes[name]
    assert outcomes["say_another_name_on_the_wire"] == "no answer"
    for name in ("never_end", "claim_lengths"):
        assert outcomes[name].count("cut off") == 2, outcomes[name]
    assert "cut off" in outcomes["never_end_on_the_wire"]
    assert outcomes["connect_often_on_the_wire"].startswith("0 of "), outcomes
    assert outcomes["send_wrong_shapes"].count("first is f32 of shape (1, 8, 16, 16), not") == 3
    # the other UE is served as if nothing were
    alice = run.of("alice")
    assert len(alice) > 90
    assert {task["status"] for task in alice} == {"completed"}
    assert {task["task"] for task in alice} == set(range(len(alice)))
    # nothing was switched, stopped or recorded for others
    assert {task["cut"] for task in alice[-40:]} == {"input"}
    kinds = {(event["node"], event["kind"]) for event in run.events}
    assert ("mallory", "malformed") in kinds
    assert ("edge", "cut-off") in kinds
    assert not {kind for kind in kinds if kind[1] in ("policy", "link", "died") or kind == ("alice", "malformed")}
    assert next(event["text"] for event in run.events if event["kind"] == "stop") == "end of the run"
    assert not run.manifest["ended_programs"]
