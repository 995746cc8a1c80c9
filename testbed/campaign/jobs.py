"""What is computed for a campaign, in words that another process or host understands."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from controller.user_code import told
from testbed.campaign.measures import measure
from testbed.errors import InputError, TestbedError
from testbed.lab.choice import LabChoice
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.report.summary import read_summary

Status = Literal["done", "invalid", "failed"]


class _LabJob(msgspec.Struct, frozen=True):
    """A lab, and where what comes of it goes."""

    key: str
    file: str
    overrides: tuple[str, ...]
    directory: str


class Simulation(_LabJob, frozen=True, tag="simulation"):
    """One point in the simulator. Takes a core."""

    slots: int


class Training(_LabJob, frozen=True, tag="training"):
    """A checkpoint for a lab. Takes a core."""

    learner: Literal["imitation", "ppo"]
    updates: int
    seed: int


class LabRun(_LabJob, frozen=True, tag="lab"):
    """One point in the testbed. Takes a host."""

    duration_seconds: float
    runtime: str


Job: TypeAlias = Simulation | Training | LabRun


class Outcome(msgspec.Struct, frozen=True):
    """What came of a job; its files are in the job's directory."""

    key: str
    status: Status
    seconds: float
    host: str
    text: str = ""  # why it is invalid, or has failed


def checkpoint_in(directory: Path | str) -> Path:
    """Where a training leaves its checkpoint."""
    return Path(directory) / "checkpoint.npz"


def perform(job: Simulation | Training, warn: Callable[[str], None]) -> Outcome:
    """Compute it here; whatever goes wrong is an outcome. What an earlier try left in the directory is removed."""
    begin = time.perf_counter()
    status: Status = "done"
    text = ""
    try:
        shutil.rmtree(job.directory, ignore_errors=True)
        if isinstance(job, Training):
            _train(job, warn)
        else:
            _simulate(job, warn)
            status, text = judged(Path(job.directory))
    except TestbedError as error:
        status, text = "failed", str(error)
    except OSError as error:
        status, text = "failed", f"{error.filename or job.directory}: {error.strerror}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's policy may raise anything; other points go on
        status, text = "failed", told(error)
    return Outcome(job.key, status, time.perf_counter() - begin, platform.node(), text)


def judged(directory: Path) -> tuple[Status, str]:
    """Of a run that has come to its end; leaves ``measures.json`` beside its summary. Raises InputError."""
    summary = read_summary(directory)
    (directory / "measures.json").write_bytes(msgspec.json.encode(measure(directory)))
    return ("done", "") if summary.valid else ("invalid", "; ".join(summary.invalid_reasons))


def _simulate(job: Simulation, warn: Callable[[str], None]) -> None:
    file = Path(job.file)
    choice = LabChoice(file, job.overrides, warn=warn)
    order = SimulationOrder(
        choice.read(), str(file), choice.folder, Path(job.directory), job.slots, "event", report=False
    )
    simulate_lab(order, warn)


def _train(job: Training, warn: Callable[[str], None]) -> None:
    from testbed.lab.train import TrainingOrder, train  # imports torch

    file = Path(job.file)
    choice = LabChoice(file, job.overrides, warn=warn)
    order = TrainingOrder(
        topology=choice.read(),
        where=str(file),
        folder=choice.folder,
        learner=job.learner,
        updates=job.updates,
        seed=job.seed,
        checkpoint=checkpoint_in(job.directory),
        resume=False,
    )
    train(order, warn, lambda _update, _curve: None)
    if not checkpoint_in(job.directory).is_file():
        raise InputError("the training left no checkpoint", where=job.directory)
