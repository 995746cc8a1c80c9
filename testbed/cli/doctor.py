"""``testbed doctor``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from testbed.cli import options
from testbed.lab.calibrate import calibrate, describe
from testbed.lab.doctor import examine
from testbed.labfile.load import load

#: p99 over median; a quiet host has 1.07 to 1.13 (docs/doctor.md).
UNEVEN = 1.3


@click.command("doctor")
@click.argument("labs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--calibrate", "wanted", is_flag=True, help="Time this host's core (and the LABS' models); keep it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(labs: tuple[Path, ...], wanted: bool, as_json: bool) -> None:
    """Say what this host can do, what follows from what it cannot, and how to change that.

    With --calibrate: measure how fast its core is and how evenly it computes. Runs then refuse labs that it is too slow
    for, and their manifests carry the figures. Best on a quiet host.
    """
    if wanted:
        _calibrate(labs, as_json)
        return
    if labs:
        raise click.UsageError("lab files belong to --calibrate; `testbed validate FILE` checks one")
    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = "ok     " if finding.ok else ("MISSING" if finding.needed else "without")
            click.echo(f"{mark}  {finding.name}: {finding.found}")
            if not finding.ok:
                click.echo(f"         {finding.consequence}")
                click.echo(f"         to change that: {finding.fix}")
    if any(finding.needed and not finding.ok for finding in findings):
        sys.exit(3)


def _calibrate(labs: tuple[Path, ...], as_json: bool) -> None:
    models = sorted({ue.model for lab in labs for ue in load(lab).expand()})
    folders = [lab.parent.absolute() for lab in labs]
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task("loading", total=1.0)
        found, path = calibrate(
            models, lambda text, ratio: bar.update(task, description=text, completed=ratio), folders
        )
    if as_json:
        options.print_json(found)
    else:
        click.echo(describe(found))
        for name, spread in found.models.items():
            click.echo(
                f"{name}: p50 {spread.p50_seconds * 1e3:.2f} ms, p90 {spread.p90_seconds * 1e3:.2f} ms, "
                f"p99 {spread.p99_seconds * 1e3:.2f} ms, n {spread.n}"
            )
    for name, spread in {"the kernel": found.kernel, **found.models}.items():
        if spread.p99_over_p50 > UNEVEN:
            click.echo(
                f"warning: {name} took {spread.p99_over_p50:.1f} times its median at the 99th percentile, and labs are "
                f"judged by that. If this host was busy, calibrate again when it is not.",
                err=True,
            )
    click.echo(f"wrote {path}", err=True)
