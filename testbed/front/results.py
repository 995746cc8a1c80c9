"""A run as an object: what its directory holds, read when it is asked for."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec
import pyarrow as pa

from testbed.errors import InputError
from testbed.records.manifest import Manifest, read_manifest
from testbed.records.tables import read_table
from testbed.report.compare import ComparedRun
from testbed.report.compare import compare as compare_directories
from testbed.report.conclude import conclude
from testbed.report.fidelity.fidelity import Fidelity
from testbed.report.summary import Summary, marks_of, read_summary


class Run:
    """A finished run, of the testbed or of the simulator. Tables are Arrow's; their columns are in docs/runs.md."""

    def __init__(self, directory: Path | str) -> None:
        """Raises InputError for a directory without a finished run."""
        self.directory = Path(directory).absolute()
        self.summary: Summary = read_summary(self.directory)

    @cached_property
    def manifest(self) -> Manifest:
        """What the run was: lab, scenario, seed, policy, versions, host."""
        return read_manifest(self.directory)

    @cached_property
    def fidelity(self) -> Fidelity:
        """How true the emulation was: figures, their limits, and what could not be measured."""
        path = self.directory / "fidelity.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Fidelity)
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(
                f"there is no readable fidelity.json ({error})",
                where=str(self.directory),
                fix=f"Make it with `testbed report {self.directory}`.",
            ) from error

    @property
    def valid(self) -> bool:
        """Whether the figures may be used; ``summary.invalid_reasons`` says why not."""
        return self.summary.valid

    @property
    def report(self) -> Path:
        """The report, a single HTML file; a simulation in slot mode has none."""
        return self.directory / "report.html"

    def table(self, name: str) -> pa.Table:
        """A table of the run by its name: tasks, slots, links, events, ... Raises InputError where there is none."""
        try:
            return read_table(self.directory / f"{name}.parquet")
        except FileNotFoundError:
            there = ", ".join(sorted(path.stem for path in self.directory.glob("*.parquet")))
            raise InputError("there is no such table", where=str(self.directory), value=name, allowed=there) from None

    @cached_property
    def tasks(self) -> pa.Table:
        """A row per task that arrived: its cut, its stamps and stages in seconds, its end."""
        return self.table("tasks")

    @cached_property
    def slots(self) -> pa.Table:
        """A row per slot and UE: what was seen, decided and in force, energy in joules."""
        return self.table("slots")

    @cached_property
    def links(self) -> pa.Table:
        """A row per step of a channel and direction: wanted and applied rates in bit/s."""
        return self.table("links")

    @cached_property
    def events(self) -> pa.Table:
        """What went another way than usual, with its time."""
        return self.table("events")

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}: {self._headline()})"

    def _headline(self) -> str:
        tasks, delay = self.summary.tasks, self.summary.e2e_delay_seconds
        mean = "no mean" if delay.mean is None else f"mean {1e3 * delay.mean:.1f} ms"
        marks = "; ".join(["valid" if self.valid else "INVALID", *marks_of(self.summary)])
        return f"{self.summary.lab}, {self.summary.policy}, {tasks.completed} of {tasks.arrived} tasks, {mean}, {marks}"

    def _repr_html_(self) -> str:
        """For notebooks: the headline, and the mean of every stage."""
        stages = self.summary.stages_seconds.items()
        names = "".join(f"<th>{html.escape(name)}</th>" for name, _ in stages)
        means = "".join(f"<td>{'-' if value is None else f'{1e3 * value:.1f} ms'}</td>" for _, value in stages)
        table = f"<table><tr>{names}</tr><tr>{means}</tr></table>"
        return f"<p>{html.escape(self._headline())}</p>{table}<p>{html.escape(str(self.directory))}</p>"


def open_run(directory: Path | str) -> Run:
    """A run that was made before; one that died is concluded first, from what was recorded.

    Raises InputError for a directory without a run.
    """
    path = Path(directory)
    if not (path / "summary.json").is_file():
        conclude(path)
    return Run(path)


def compare(runs: Sequence[Run | Path | str]) -> list[ComparedRun]:
    """A row per run, in order: mean with its 95 % interval, stages, cuts, and the gap of a run to its simulation.

    Raises InputError for a directory without a finished run.
    """
    return compare_directories([run.directory if isinstance(run, Run) else Path(run) for run in runs])
