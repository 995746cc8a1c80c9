"""``testbed compare RUN...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from testbed.cli import options
from testbed.cli import out as out_types
from testbed.errors import InputError
from testbed.records.manifest import SIMULATOR
from testbed.report.compare import ComparedRun, compare, draw, labels_of
from testbed.report.gap import Gap
from testbed.report.html import si_seconds

IMAGES = (".png", ".svg", ".pdf")
SHOWN_CUTS = 3


def _cuts(run: ComparedRun) -> str:
    shares = sorted(run.cuts.items(), key=lambda item: -item[1])
    shown = [f"{cut} {share * 100:.0f} %" for cut, share in shares[:SHOWN_CUTS]]
    if len(shares) > SHOWN_CUTS:
        shown.append(f"{len(shares) - SHOWN_CUTS} more")
    return ", ".join(shown)


def _table(runs: Sequence[ComparedRun]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("run")
    for title in ("mean E2E", "95 % interval", "p95", "J / slot", "done", "failed", "missing"):
        table.add_column(title, justify="right")
    table.add_column("valid")
    table.add_column("cuts")
    for name, run in zip(labels_of(runs), runs, strict=True):
        interval = run.mean_ci95_seconds
        table.add_row(
            name,
            si_seconds(run.mean_seconds) + (" censored" if run.censored else ""),
            "–" if interval is None else f"± {si_seconds(interval)}",
            si_seconds(run.p95_seconds),
            "–" if run.energy_joules_per_slot is None else f"{run.energy_joules_per_slot:.3g}",
            str(run.tasks),
            str(run.failed),
            f"{run.missing_ratio:.1%}",
            ("yes" if run.valid else "no") + (", unstable" if run.unstable else ""),
            _cuts(run),
        )
    return table


def _gap_table(gap: Gap) -> Table:
    title = f"gap of {gap.policy}: {gap.arrivals.compared} tasks that completed in both"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    table.add_column("mean of")
    for header in ("simulated", "measured", "difference", "ratio"):
        table.add_column(header, justify="right")
    rows = {"E2E delay": gap.e2e_seconds, **gap.stages_seconds, **gap.ues_seconds}
    for name, pair in rows.items():
        difference = None if pair.simulated is None or pair.measured is None else pair.measured - pair.simulated
        table.add_row(
            name,
            si_seconds(pair.simulated),
            si_seconds(pair.measured),
            "–" if difference is None else f"{difference * 1e3:+.1f} ms",
            "–" if pair.ratio is None else f"{pair.ratio:.3f}",
        )
    energy = gap.energy_joules_per_slot
    if energy.simulated is not None and energy.measured is not None:
        ratio = "–" if energy.ratio is None else f"{energy.ratio:.3f}"
        table.add_row("energy per slot", f"{energy.simulated:.3g} J", f"{energy.measured:.3g} J", "", ratio)
    return table


def _predicted_table(name: str, run: ComparedRun) -> Table:
    title = f"{name}: what the policy predicted, for tasks from their start on"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="bold")
    table.add_column("UE")
    for header in ("tasks", "predicted", "measured", "ratio", "largest error"):
        table.add_column(header, justify="right")
    for ue, found in run.predicted.items():
        table.add_row(
            ue,
            str(found.tasks),
            si_seconds(found.predicted_seconds),
            si_seconds(found.measured_seconds),
            f"{found.ratio:.3f}",
            f"{found.largest_error_ratio:.1%}",
        )
    return table


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--out", type=out_types.FILE, metavar="IMAGE", help="Draw a figure (.png, .svg or .pdf).")
def command(runs: tuple[Path, ...], as_json: bool, out: Path | None) -> None:
    """Several runs side by side; between a run and its simulation, the gap and where it comes from."""
    if out is not None and out.suffix not in IMAGES:
        raise InputError("unknown kind of image", where="--out", value=str(out), allowed=", ".join(IMAGES))
    rows = compare(runs)
    if out is not None:
        draw(rows, out)
        click.echo(out, err=True)
    if as_json:
        options.print_json(rows)
        return
    console = Console(width=None if Console().is_terminal else 160)
    console.print(_table(rows), highlight=False)
    for name, row in zip(labels_of(rows), rows, strict=True):
        if row.predicted and row.runtime != SIMULATOR:
            console.print()
            console.print(_predicted_table(name, row), highlight=False)
    for gap in (row.gap for row in rows if row.gap is not None):
        console.print()
        console.print(_gap_table(gap), highlight=False)
        arrivals = "equal" if gap.arrivals.equal else "NOT equal"
        console.print(f"arrivals {arrivals}: {gap.arrivals.simulated} simulated, {gap.arrivals.measured} measured")
        for reason in gap.reasons:
            console.print(f"- {reason}", highlight=False)
