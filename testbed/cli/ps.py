"""``testbed ps [LAB]``."""

from __future__ import annotations

import json
from typing import TypedDict

import click
from rich.console import Console
from rich.table import Table

from testbed.cli.again import again
from testbed.control import ControllerSilentError
from testbed.errors import InputError
from testbed.lab import ElsewhereError, Lab, existing
from testbed.runtime import rootless


class Process(TypedDict):
    node: str
    program: str
    pid: int
    status: str


class Row(TypedDict):
    lab: str
    state: str
    policy: str
    runtime: str
    slot: int | None
    run_id: str
    run_dir: str
    processes: list[Process]


@click.command("ps")
@click.argument("lab", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(lab: str | None, as_json: bool) -> None:
    """Show the labs that are up, and their processes."""
    names = [lab] if lab else existing()
    rows = [row for name in names for row in _rows(name)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo("no lab is up")
        return
    table = Table("lab", "state", "policy", "runtime", "slot", "node", "program", "pid", "status")
    for row in rows:
        for number, process in enumerate(
            row["processes"] or [{"node": "-", "program": "-", "pid": "-", "status": "-"}]
        ):
            head = (
                [row["lab"], row["state"], row["policy"], row["runtime"], str(row["slot"])] if number == 0 else [""] * 5
            )
            table.add_row(*head, *(str(value) for value in process.values()))
    Console().print(table)


def _rows(name: str) -> list[Row]:
    try:
        return [_describe(name)]
    except ElsewhereError as elsewhere:
        text = rootless.output_in_lab(elsewhere.holder, again(["ps", name, "--json"]))
        rows: list[Row] = json.loads(text)
        return rows


def _describe(name: str) -> Row:
    try:
        lab = Lab.find(name)
    except InputError:
        if name not in existing():
            raise
        return Row(lab=name, state="in pieces", policy="", runtime="", slot=None, run_id="", run_dir="", processes=[])
    state, policy = "no controller", lab.state.policy
    slot: int | None = None
    try:
        status = lab.client.status(timeout_seconds=1.0)
        state, slot, policy = status.state, status.slot, status.policy
    except ControllerSilentError:
        pass
    return {
        "lab": name,
        "state": state,
        "policy": policy,
        "runtime": lab.state.runtime,
        "slot": slot,
        "run_id": lab.state.run_id,
        "run_dir": lab.state.run_directory,
        "processes": [
            {
                "node": process.node,
                "program": process.program.rpartition(".")[2],
                "pid": process.pid,
                "status": "running" if process.running else f"ended ({process.exit_code})",
            }
            for process in lab.runtime.processes()
        ],
    }
