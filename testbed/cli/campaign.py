"""``testbed campaign VERB FILE``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from testbed.campaign.campaign import Conclusion, conclude_campaign, default_folder, run_campaign
from testbed.campaign.executor import Here
from testbed.campaign.load import load_campaign
from testbed.campaign.points import Campaign
from testbed.campaign.prepare import Task, prepare
from testbed.campaign.run import Progress, Times, kind_of, standings
from testbed.campaign.store import Store
from testbed.campaign.tables import Table, differences_table, means_table
from testbed.cli import options
from testbed.cli import out as out_types
from testbed.errors import InvalidRunError, TestbedError
from testbed.runtime.host.facts import facts

#: Between two lines of progress.
TOLD_SECONDS = 5.0

_out = click.option("--out", type=out_types.FOLDER, help="Folder; default: runs/campaign-NAME. The same one goes on.")
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group("campaign")
def command() -> None:
    """Policies x values x seeds of a lab: each point computed once, with statistics and figures."""


def _file(function: Callable[..., None]) -> Callable[..., None]:
    return click.argument("file", type=click.Path(path_type=Path))(function)


@command.command("run")
@_file
@_out
@_json
def run(file: Path, out: Path | None, as_json: bool) -> None:
    """Compute the points that are not done, then draw tables and figures. Ctrl-C, and `run` again, goes on."""
    campaign = load_campaign(file)
    run_and_show(campaign, out or default_folder(campaign), as_json=as_json)


def run_and_show(campaign: Campaign, folder: Path, *, as_json: bool) -> None:
    """Raises TestbedError where a point has failed, InvalidRunError where one is invalid; the others have results."""
    conclusion = run_campaign(campaign, folder, Here(options.notify), options.notify, Teller())
    _show(conclusion, folder, as_json=as_json)
    if failed := conclusion.of("failed"):
        first = failed[0]
        raise TestbedError(
            f"{len(failed)} of {len(conclusion.standings)} points failed, the first: {first.text.rstrip('.')}. "
            "The others are there; run the campaign again to try these"
        )
    if invalid := conclusion.of("invalid"):
        first = invalid[0]
        raise InvalidRunError(
            f"{len(invalid)} of {len(conclusion.standings)} points are invalid and left out of means and figures, the "
            f"first: {first.task.point.title} ({first.text})"
        )


@command.command("plan")
@_file
@_out
@_json
def plan(file: Path, out: Path | None, as_json: bool) -> None:
    """The points, which of them are done, and how long the others will take. Computes nothing."""
    campaign = load_campaign(file)
    tasks, store = _prepared(campaign, out)
    states = {one.task.key: one.state for one in standings(tasks, store)}
    todo = {task.key: task for task in tasks if states[task.key] in ("missing", "failed")}
    trainings = {task.training.key: task.training for task in todo.values() if task.training is not None}
    trainings = {key: job for key, job in trainings.items() if store.record(store.trained(key)) is None}
    jobs = [*trainings.values(), *(task.job for task in todo.values())]
    seconds = Times(store.journal()).total(jobs, facts().cores)
    if as_json:
        rows = [{"point": task.point.title, "key": task.key, "state": states[task.key]} for task in tasks]
        found = {"points": rows, "trainings": len(trainings), "seconds": seconds, "folder": str(store.folder)}
        options.print_json(found)
        return
    for task in tasks:
        click.echo(f"{states[task.key]:8} {task.key}  {task.point.title}")
    kinds = Counter(kind_of(job) for job in jobs)
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
    click.echo(f"{len(tasks)} points; to be computed: {counts}; {_left(seconds)}; folder {store.folder}")


@command.command("status")
@_file
@_out
@_json
def status(file: Path, out: Path | None, as_json: bool) -> None:
    """How many points are done, invalid, failed, missing; why those that failed did."""
    campaign = load_campaign(file)
    tasks, store = _prepared(campaign, out)
    found = standings(tasks, store)
    counts = Counter(one.state for one in found)
    if as_json:
        rows = [{"point": one.task.point.title, "state": one.state, "reason": one.text} for one in found]
        options.print_json(rows)
        return
    for state in ("failed", "invalid"):
        for one in found:
            if one.state == state:
                click.echo(f"{state}: {one.text if state == 'failed' else f'{one.task.point.title}: {one.text}'}")
    click.echo(f"{len(found)} points: " + ", ".join(f"{number} {state}" for state, number in sorted(counts.items())))


@command.command("figures")
@_file
@_out
@_json
def figures(file: Path, out: Path | None, as_json: bool) -> None:
    """Tables and figures of the points that are done, without computing any."""
    campaign = load_campaign(file)
    tasks, store = _prepared(campaign, out)
    conclusion = conclude_campaign(campaign, tasks, store)
    if missing := len(tasks) - len(conclusion.of("done")) - len(conclusion.of("invalid")):
        options.warn(f"{missing} of {len(tasks)} points have no result yet")
    _show(conclusion, store.folder, as_json=as_json)


def _prepared(campaign: Campaign, out: Path | None) -> tuple[tuple[Task, ...], Store]:
    store = Store(out or default_folder(campaign))
    return prepare(campaign, store, options.warn, measure=False), store


class Teller:
    """Progress in lines, one every few seconds, and one at the end."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.done < progress.points and now < self._last + TOLD_SECONDS:
            return
        self._last = now
        running = ""
        if progress.running:
            hosts = Counter(progress.running.values())
            running = ", running " + ", ".join(f"{number} on {host}" for host, number in hosts.items())
        options.notify(f"{progress.done} of {progress.points} points{running}; {_left(progress.seconds_left)}")


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "time left unknown"
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"


def _show(conclusion: Conclusion, folder: Path, *, as_json: bool) -> None:
    for path in (*conclusion.tables, *conclusion.figures):
        click.echo(path, err=True)
    if as_json:
        rows = [
            {"settings": dict(cell.settings), "runs": len(cell.results), "marks": cell.marks, **cell.estimates}
            for cell in conclusion.cells
        ]
        found = {"folder": str(folder.absolute()), "means": rows, "differences": list(conclusion.contrasts)}
        options.print_json(found)
        return
    console = Console(width=None if Console().is_terminal else 160)
    if conclusion.cells:
        console.print(_rich(means_table(conclusion.cells)), highlight=False)
    if conclusion.contrasts:
        console.print()
        console.print(_rich(differences_table(conclusion.contrasts)), highlight=False)


def _rich(table: Table) -> RichTable:
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(table.columns):
        shown.add_column(Text(title), justify="left" if index < table.names else "right")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown
