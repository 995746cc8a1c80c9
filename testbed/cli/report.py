"""``testbed report RUN``."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli import options
from testbed.folders import refuse_links
from testbed.report.conclude import conclude


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--warm-up",
    "warm_up_seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Leave the tasks that arrived in the first SECONDS out of the summary.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(run: Path, warm_up_seconds: float, as_json: bool) -> None:
    """Make the tables, the summary and report.html of a run again, also of one that died."""
    refuse_links(run)
    summary = conclude(run, warm_up_seconds=warm_up_seconds)
    if as_json:
        options.print_json(summary)
    else:
        click.echo(run / "report.html")
    for reason in summary.invalid_reasons:
        click.echo(f"invalid: {reason}", err=True)
