"""``testbed simulate FILE``."""

from __future__ import annotations

from pathlib import Path

import click

from controller.simulator.result import Mode
from testbed.cli import options
from testbed.cli import out as out_types
from testbed.errors import InvalidRunError
from testbed.lab.choice import LabChoice
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.report.html import si_seconds
from testbed.report.placement_costs import placement_line
from testbed.report.summary import Summary, marks_of


@click.command("simulate")
@options.lab_file
@click.option("--slots", type=click.IntRange(min=1), default=500, show_default=True, help="For how long tasks arrive.")
@click.option(
    "--mode",
    type=click.Choice(["event", "slot"]),
    default="event",
    show_default=True,
    help="event: every task through every queue; slot: the formula's mean of each slot.",
)
@click.option("--out", type=out_types.FOLDER, help="Run directory; default: runs/RUN_ID.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    lab: LabChoice,
    slots: int,
    mode: Mode,
    out: Path | None,
    as_json: bool,
) -> None:
    """The same lab, tasks, channels and policy in the simulator."""
    topology = lab.read()
    order = SimulationOrder(topology, str(lab.file), lab.folder, out, slots, mode)
    summary = simulate_lab(order, options.notify)
    if as_json:
        options.print_json(summary)
    else:
        print_summary(summary)
    if not summary.valid:
        raise InvalidRunError(f"the simulation is invalid: {'; '.join(summary.invalid_reasons)}. See {summary.run_dir}")


def print_summary(summary: Summary) -> None:
    """A few lines that a person reads first."""
    tasks, delay = summary.tasks, summary.e2e_delay_seconds
    dropped = f"{tasks.dropped} dropped, " if tasks.dropped else ""
    click.echo(f"{summary.lab} / {summary.policy}, simulated for {summary.duration_seconds:g} s")
    click.echo(
        f"  tasks      {tasks.completed} completed of {tasks.arrived}, "
        f"{tasks.failed} failed, {dropped}{tasks.in_flight} in flight at the end"
    )
    for mark in marks_of(summary):
        click.echo(f"             {mark}")
    click.echo(f"  E2E delay  mean {si_seconds(delay.mean)}, p50 {si_seconds(delay.p50)}, p95 {si_seconds(delay.p95)}")
    if summary.energy_joules_per_slot is not None:
        click.echo(f"  energy     {summary.energy_joules_per_slot:.3g} J per UE and slot")
    if summary.placement is not None:
        click.echo(f"  placement  {placement_line(summary.placement)}")
    click.echo(f"  records    {summary.run_dir}")
