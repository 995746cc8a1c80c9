"""``testbed sweep FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from testbed.cli import options
from testbed.cli import out as out_types
from testbed.cli.again import enter
from testbed.errors import InputError, InvalidRunError
from testbed.lab.choice import LabChoice
from testbed.lab.prepare import RunOrder
from testbed.lab.run import RUNNING, execute
from testbed.lab.runtimes import select
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.lab.sweep import Point, draw_points, split_values, sweep
from testbed.labfile.schema import Topology
from testbed.report.html import si_seconds
from testbed.report.live import LiveTable
from testbed.units import DURATION


def _table(points: Sequence[Point], key: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(key)
    for title in ("mean E2E", "95 % interval", "p95", "J / slot", "energy / budget", "done", "failed"):
        table.add_column(title, justify="right")
    table.add_column("valid")
    for point in points:
        interval = point.mean_ci95_seconds
        table.add_row(
            point.value,
            si_seconds(point.mean_seconds),
            "–" if interval is None else f"± {si_seconds(interval)}",
            si_seconds(point.p95_seconds),
            "–" if point.energy_joules_per_slot is None else f"{point.energy_joules_per_slot:.3g}",
            "–" if point.worst_energy_ratio is None else f"{point.worst_energy_ratio:.3f}",
            str(point.tasks),
            str(point.failed),
            "yes" if point.valid else "no",
        )
    return table


@click.command("sweep")
@options.lab_file
@options.runtime
@click.option("--key", required=True, metavar="KEY", help="What to vary, as in --set: policy.V, policy, ues.0.speed.")
@click.option("--values", required=True, metavar="V,V,...", help="Its values, in order.")
@click.option("--simulate", "simulated", is_flag=True, help="In the simulator (event mode) instead of the testbed.")
@click.option("--slots", type=click.IntRange(min=1), help="Length of each simulation; default 500.")
@click.option(
    "--duration", type=options.Quantity(DURATION, positive=True), help="How long tasks arrive in each run; default 60s."
)
@click.option("--out", type=out_types.FOLDER, help="Folder; default: runs/sweep-LAB-TIME.")
@click.option("--json", "as_json", is_flag=True, help="Print the points as JSON.")
def command(
    lab: LabChoice,
    runtime: str,
    key: str,
    values: str,
    simulated: bool,
    slots: int | None,
    duration: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Vary one key of a lab: a run or simulation per value, a table and a figure."""
    if slots is not None and not simulated:
        raise InputError("--slots is for simulations", where="--slots", value=slots, fix="Use --duration.")
    if duration is not None and simulated:
        raise InputError("--duration is for runs", where="--duration", value=duration, fix="Use --slots.")
    wanted = split_values(values)
    # all values are checked before the first is measured
    labs = {value: lab.also(f"{key}={value}").read() for value in wanted}
    first = labs[wanted[0]]
    folder = out or Path("runs") / f"sweep-{first.name}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    if simulated:

        def measure(value: str, directory: Path) -> None:
            options.notify(f"{key} = {value}")
            order = SimulationOrder(labs[value], str(lab.file), lab.folder, directory, slots or 500, "event")
            simulate_lab(order, options.notify)

    else:
        enter(first.name, RUNNING)
        kind = select(runtime, options.notify)

        def measure(value: str, directory: Path) -> None:
            options.notify(f"{key} = {value}")
            seconds = duration or 60.0
            execute(
                RunOrder(labs[value], str(lab.file), lab.folder, kind, directory, seconds),
                options.notify,
                lambda running: LiveTable(str(running.directory), seconds, policy=running.state.policy),
            )

    points = sweep(wanted, folder, measure)
    image = folder / "sweep.png"
    draw_points(points, key, image, _title(first, simulated))
    click.echo(image, err=True)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(points), indent=1).decode())
    else:
        Console(width=None if Console().is_terminal else 160).print(_table(points, key), highlight=False)
    if invalid := [point.value for point in points if not point.valid]:
        raise InvalidRunError(f"invalid for {key} = {', '.join(invalid)}; see the reports in {folder}")


def _title(topology: Topology, simulated: bool) -> str:
    return f"{topology.name}, seed {topology.seed}, {'simulated' if simulated else 'measured'}"
