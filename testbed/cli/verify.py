"""``testbed verify FILE``."""

from __future__ import annotations

import math

import click
from rich.table import Table

from testbed.cli import options, tables
from testbed.cli.again import enter
from testbed.errors import InvalidRunError
from testbed.lab.choice import LabChoice
from testbed.lab.runtimes import select
from testbed.lab.verify import VERIFYING, Check, Verification, VerificationOrder, verify
from testbed.units import DURATION


@click.command("verify")
@options.lab_file
@options.runtime
@click.option(
    "--duration",
    type=options.Quantity(DURATION, positive=True),
    default="10s",
    show_default=True,
    help="Of measuring; a lab of many wires takes at least a second for each part that is tried at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON.")
def command(lab: LabChoice, runtime: str, duration: float, as_json: bool) -> None:
    """Try a lab's wires and nodes on this host, before a long experiment: delay, loss, rate, stage times."""
    topology = lab.read(traced=True)
    enter(topology.name, VERIFYING)
    found = verify(
        VerificationOrder(topology, str(lab.file), lab.folder, select(runtime, options.notify), duration),
        options.notify,
    )
    if as_json:
        options.print_json(found)
    else:
        _print(found)
    if not found.ok:
        reasons = "; ".join(f"{one.subject}: {one.what} {_error(one)}, limit {_limit(one)}" for one in found.broken)
        raise InvalidRunError(f"this host does not carry the lab as it should: {reasons}. A run would be invalid")


def _print(found: Verification) -> None:
    title = f"{found.lab}: {'all limits hold' if found.ok else 'LIMITS BROKEN'}"
    table = Table(title=f"{title} ({found.runtime}, {found.link_backend}, {found.limits} limits)")
    for heading in ("what", "of", "requested", "achieved", "error", "limit", "", "how"):
        table.add_column(heading, justify="left" if heading in ("what", "of", "how") else "right")
    for check in found.checks:
        table.add_row(
            check.what,
            check.subject,
            _value(check.requested, check.unit),
            _value(check.achieved, check.unit),
            _error(check),
            _limit(check),
            "ok" if check.ok else "BROKEN",
            check.note,
        )
    tables.show(table)
    click.echo(f"kernel {found.kernel_seconds * 1e3:.2f} ms on this core; {found.duration_seconds:.1f} s in all")


def _value(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    match unit:
        case "s":
            return f"{value * 1e3:.3f} ms"
        case "bit/s":
            return f"{value / 1e6:.3f} Mbit/s"
        case _:
            return f"{value:.2%}"


def _error(check: Check) -> str:
    """Delays err by a time, all else by a ratio."""
    return _value(check.error, "s" if check.what == "delay" else "ratio")


def _limit(check: Check) -> str:
    return _value(check.limit, "s" if check.what == "delay" else "ratio")
