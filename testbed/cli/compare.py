"""``testbed compare RUN...``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from testbed.errors import InputError
from testbed.runs.compare import ComparedRun, compare, draw, labels_of
from testbed.runs.report import si_seconds

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
    for title in ("mean E2E", "95 % interval", "p95", "J / slot", "done", "failed"):
        table.add_column(title, justify="right")
    table.add_column("valid")
    table.add_column("cuts")
    for name, run in zip(labels_of(runs), runs, strict=True):
        interval = run.mean_ci95_seconds
        table.add_row(
            name,
            si_seconds(run.mean_seconds),
            "–" if interval is None else f"± {si_seconds(interval)}",
            si_seconds(run.p95_seconds),
            "–" if run.energy_joules_per_slot is None else f"{run.energy_joules_per_slot:.3g}",
            str(run.tasks),
            str(run.failed),
            "yes" if run.valid else "no",
            _cuts(run),
        )
    return table


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--out", type=click.Path(path_type=Path), metavar="IMAGE", help="Draw a figure (.png, .svg or .pdf).")
def command(runs: tuple[Path, ...], as_json: bool, out: Path | None) -> None:
    """Several runs side by side: delay with its 95 % interval, energy, cuts, validity."""
    if out is not None and out.suffix not in IMAGES:
        raise InputError("unknown kind of image", where="--out", value=str(out), allowed=", ".join(IMAGES))
    rows = compare(runs)
    if out is not None:
        draw(rows, out)
        click.echo(out, err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=1).decode())
        return
    console = Console(width=None if Console().is_terminal else 160)
    console.print(_table(rows), highlight=False)
