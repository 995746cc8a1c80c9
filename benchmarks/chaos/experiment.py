"""One lab, one event, one verdict."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.chaos.events import EVENTS, Event
from benchmarks.chaos.facts import read_facts
from benchmarks.chaos.host import differences, labs_of_others, left_behind, processes, snapshot
from benchmarks.chaos.judge import Outcome, Second, faults
from benchmarks.chaos.scene import PATIENCE_SECONDS, Scene, end_of, wait_until

#: When something happens: while the lab comes up, while tasks arrive, after that.
MOMENTS = (("coming up", 0.2), ("running", 0.65), ("ending", 0.15))
COMING_UP_SECONDS = {"netns": 4.0, "docker": 8.0}
ENDING_SECONDS = 4.0
REPORTED_RATIO = 0.2
#: What ends by itself is gone after so long.
SETTLED_SECONDS = 5.0


@dataclass(frozen=True)
class Verdict:
    """An outcome, and what is wrong with it."""

    runtime: str
    outcome: Outcome
    faults: tuple[str, ...]

    def line(self) -> str:
        """For a person who waits."""
        one = self.outcome
        valid = "no summary" if one.facts is None else "valid" if one.facts.valid else "invalid"
        lost = sum(one.expected.values()) - (0 if one.facts is None else one.facts.counted["completed"])
        text = f"{one.event} ({one.did or 'nothing to hit'}; {one.phase}): exit {one.code}, {valid}, {lost} tasks less"
        return "\n     ".join((text, *(f"FAULT {fault}" for fault in self.faults)))

    def plain(self) -> dict[str, Any]:
        return {"runtime": self.runtime, "faults": self.faults, **asdict(self.outcome)}


def read_verdicts(path: Path) -> list[Verdict]:
    """What ``--keep`` has kept, judged anew."""
    verdicts = []
    for line in path.read_text().splitlines():
        kept = json.loads(line)
        for key in ("index", "seed", "faults"):
            del kept[key]
        verdicts.append(msgspec.convert(kept, _Kept).verdict())
    return verdicts


@dataclass(frozen=True)
class _Kept(Outcome):
    runtime: str = ""

    def verdict(self) -> Verdict:
        plain = {field.name: getattr(self, field.name) for field in fields(Outcome)}
        return Verdict(self.runtime, outcome := Outcome(**plain), tuple(faults(outcome)))


def pick(runtime: str, seed: int, index: int) -> str:
    """The event of a lab: all of them once, in some order, then all of them again."""
    names = [name for name, event in EVENTS.items() if runtime in event.runtimes and event.possible()]
    random.Random(f"{seed} {runtime} {index // len(names)}").shuffle(names)
    return names[index % len(names)]


def experiment(
    name: str,
    runtime: str,
    seconds: float,
    drawn: random.Random,
    folder: Path,
    moment: str | None = None,
    *,
    alone: bool = True,
) -> Verdict:
    """Run a lab of so many seconds, let the event happen, take down what is left, judge. A faultless folder is removed.

    ``moment``: of :data:`MOMENTS`, else drawn. ``alone``: nobody else changes the host meanwhile, so that it is looked
    at, too.
    """
    event = EVENTS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scene = Scene(f"chaos{os.getpid()}", folder, runtime, seconds, drawn)
    others, before = labs_of_others(scene.name), snapshot()
    try:
        if event.prepare is not None:
            event.prepare(scene)
        seen = _run(scene, event, moment)
        seen |= _take_down(scene, seen)
        alone &= labs_of_others(scene.name) == others
        host = _settled(lambda: differences(before, snapshot())) if alone else ()
        outcome = Outcome(event=name, host=host, **seen)
    finally:
        _clean(scene)
    verdict = Verdict(runtime, outcome, tuple(faults(outcome)))
    if not verdict.faults:
        shutil.rmtree(folder)
    return verdict


def _run(scene: Scene, event: Event, moment: str | None) -> dict[str, Any]:
    command = scene.run()
    _await_moment(scene, moment)
    phase = scene.phase()
    did = event.act(scene)
    while not did and phase == "coming up":  # there is nothing yet that it could happen to
        time.sleep(0.05)
        phase = scene.phase()
        did = event.act(scene)
    at = time.monotonic()
    code = end_of(command, PATIENCE_SECONDS)
    seconds_after = time.monotonic() - at
    stands = any(said.verb == "up" and said.code == 0 for said in scene.said)  # it came after the run's end
    ended = code is not None and code >= 0 and not stands and not (event.may_leave and code == 1)
    return {
        "did": did,
        "phase": phase,
        "codes": event.codes,
        "harmless": event.harmless,
        "on_command": event.on_command,
        "lethal": event.lethal,
        "victims": tuple(sorted(scene.victims)),
        "code": code,
        "text": (scene.folder / "run.err").read_text(errors="replace"),
        "seconds_after": seconds_after,
        "left": _settled(lambda: left_behind(scene.name, scene.folder)) if ended else (),
        "others": tuple(Second(said.verb, said.code, said.text, said.lab_was_busy) for said in scene.said),
    }


def _await_moment(scene: Scene, moment: str | None) -> None:
    names, weights = zip(*MOMENTS, strict=True)
    chosen = moment or scene.random.choices(names, weights)[0]
    if chosen == "coming up":
        time.sleep(scene.random.uniform(0.2, COMING_UP_SECONDS[scene.runtime]))
        return
    wait_until(lambda: scene.phase() != "coming up", PATIENCE_SECONDS)
    arriving = chosen == "running"
    after = scene.random.uniform(0, scene.seconds if arriving else ENDING_SECONDS) + (0 if arriving else scene.seconds)
    wait_until(lambda: not scene.at_work(), after)


def _take_down(scene: Scene, seen: dict[str, Any]) -> dict[str, Any]:
    for undo in scene.undo:
        undo()
    down = scene.say("down", scene.name)
    left = _settled(lambda: left_behind(scene.name, scene.folder))
    report = None
    # a run that came to its end has made its report by itself
    if scene.run_directory.exists() and (seen["code"] not in (0, 4) or scene.random.random() < REPORTED_RATIO):
        report = scene.say("report", str(scene.run_directory))
    return {
        "down_code": down.code,
        "down_text": down.text,
        "left_after_down": left,
        "report_code": None if report is None else report.code,
        "report_text": "" if report is None else report.text,
        "has_manifest": (scene.run_directory / "manifest.json").exists(),
        "facts": read_facts(scene.run_directory),
        "expected": scene.expected_arrivals(),
    }


def _settled(look: Any) -> tuple[str, ...]:
    """What is still to be seen after a while; nothing, once there is nothing."""
    found: list[str] = []

    def gone() -> bool:
        found[:] = look()
        return not found

    wait_until(gone, SETTLED_SECONDS)
    return tuple(found)


def _clean(scene: Scene) -> None:
    """Whatever the verdict, the host gets back what is ours."""
    if scene.command is not None and scene.command.poll() is None:
        scene.command.kill()
        scene.command.wait()
    if left_behind(scene.name, scene.folder):
        scene.say("down", scene.name)
    for line in processes(scene.name):
        with suppress(OSError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    if scene.relay is not None:
        scene.relay.cut()
    disk = scene.folder / "out"
    if disk.is_mount():
        kept = scene.folder / "kept"
        shutil.copytree(disk, kept, ignore=shutil.ignore_patterns("filler"))
        subprocess.run(["umount", "-l", str(disk)], check=False)


def table(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What each kind of event cost: labs, exit codes, verdicts, tasks that did not complete."""
    rows: dict[str, Any] = {}
    for name in dict.fromkeys(verdict.outcome.event for verdict in verdicts):
        mine = [verdict for verdict in verdicts if verdict.outcome.event == name]
        outcomes = [verdict.outcome for verdict in mine]
        facts = [one.facts for one in outcomes if one.facts is not None]
        expected = sum(sum(one.expected.values()) for one in outcomes if one.facts is not None)
        rows[name] = {
            "labs": len(mine),
            "faults": [fault for verdict in mine for fault in verdict.faults],
            "exit_codes": dict(Counter(str(one.code) for one in outcomes)),
            "valid": sum(one.valid for one in facts),
            "busy_host": sum(not one.valid and one.only_of_time() for one in facts),
            "invalid": sum(not one.valid and not one.only_of_time() for one in facts),
            "no_summary": sum(one.facts is None for one in outcomes),
            "completed_ratio": sum(one.counted["completed"] for one in facts) / expected if expected else None,
            "seconds_to_the_end_median": sorted(one.seconds_after for one in outcomes)[len(outcomes) // 2],
        }
    return {"labs": len(verdicts), "faulty": sum(bool(verdict.faults) for verdict in verdicts), "events": rows}
