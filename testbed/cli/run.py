"""``testbed run FILE``."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli import options
from testbed.cli import out as out_types
from testbed.cli.again import enter
from testbed.errors import InvalidRunError
from testbed.lab.choice import LabChoice
from testbed.lab.prepare import RunOrder
from testbed.lab.run import RUNNING, execute
from testbed.lab.runtimes import select
from testbed.report.fidelity.fidelity import HEADLINES
from testbed.report.fidelity.limits import NOT_MEASURED
from testbed.report.html import figure_value, si_seconds
from testbed.report.live import LiveTable
from testbed.report.placement_costs import placement_line
from testbed.report.summary import Summary, marks_of
from testbed.units import DURATION


@click.command("run")
@options.lab_file
@options.runtime
@click.option(
    "--duration",
    type=options.Quantity(DURATION, positive=True),
    default="60s",
    show_default=True,
    help="How long tasks arrive.",
)
@click.option("--out", type=out_types.FOLDER, help="Run directory; default: runs/RUN_ID.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    lab: LabChoice,
    runtime: str,
    duration: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Bring a lab up, measure, report, take it down."""
    topology = lab.read(traced=True)
    enter(topology.name, RUNNING)
    order = RunOrder(topology, str(lab.file), lab.folder, select(runtime, options.notify), out, duration)
    summary = execute(
        order, options.notify, lambda running: LiveTable(str(running.directory), duration, policy=running.state.policy)
    )
    if as_json:
        options.print_json(summary)
    else:
        print_summary(summary)
    if not summary.valid:
        raise InvalidRunError(f"the run is invalid: {'; '.join(summary.invalid_reasons)}. See {summary.run_dir}")


def print_summary(summary: Summary) -> None:
    """A few lines that a person reads first."""
    tasks, delay = summary.tasks, summary.e2e_delay_seconds
    dropped = f"{tasks.dropped} dropped, " if tasks.dropped else ""
    click.echo(f"{summary.lab}, policy {summary.policy}: {'valid' if summary.valid else 'INVALID'}")
    click.echo(
        f"  tasks      {tasks.completed} completed of {tasks.arrived}, "
        f"{tasks.failed} failed, {dropped}{tasks.in_flight} in flight at the end"
    )
    for mark in marks_of(summary):
        click.echo(f"             {mark}")
    if delay.mean is not None:
        figures = (("mean", delay.mean), ("p50", delay.p50), ("p95", delay.p95), ("p99", delay.p99))
        click.echo("  E2E delay  " + ", ".join(f"{name} {si_seconds(value)}" for name, value in figures))
        stages = ((stage, value) for stage, value in summary.stages_seconds.items() if value)
        click.echo("  of which   " + ", ".join(f"{stage} {si_seconds(value)}" for stage, value in stages))
    cuts = sorted(summary.cuts.items(), key=lambda item: -item[1])
    click.echo("  cuts       " + ", ".join(f"{label} {share:.0%}" for label, share in cuts))
    if summary.placement is not None:
        click.echo(f"  placement  {placement_line(summary.placement)}")
    click.echo(f"  fidelity   {fidelity_line(summary)}")
    click.echo(f"  report     {Path(summary.run_dir) / 'report.html'}")


def fidelity_line(summary: Summary) -> str:
    """How well the emulation did, in one line; what this run could not measure comes last."""
    values = {name: summary.fidelity.get(name, NOT_MEASURED) for name in HEADLINES}
    measured = [
        text.format(figure_value(values[name], unit))
        for name, (text, unit) in HEADLINES.items()
        if values[name] != NOT_MEASURED
    ]
    missing = [name for name, value in values.items() if value == NOT_MEASURED]
    if missing:
        measured.append(f"not measured: {', '.join(missing)}")
    verdict = "every limit kept" if summary.valid else "limits broken"
    return f"{verdict}: {', '.join(measured)}"
