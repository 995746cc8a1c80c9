"""``testbed ps [LAB]``."""

from __future__ import annotations

import json
from typing import TypedDict

import click
from rich.table import Table

from testbed.cli import tables
from testbed.cli.again import again
from testbed.errors import HostError, InputError, TestbedError
from testbed.lab.lab import ElsewhereError, Lab
from testbed.lab.state import LabUnreadableError, existing
from testbed.protocol.client import ControllerSilentError
from testbed.runtime.netns import rootless


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
    urls: dict[str, str]  # of what shows the lab: Prometheus, Grafana
    processes: list[Process]
    note: str  # why there is no more to tell; empty: there is


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
    tables.show(table)
    for row in rows:
        for program, url in row["urls"].items():
            click.echo(f"lab {row['lab']}: {program} at {url}")
        if row["note"]:
            click.echo(f"lab {row['lab']}: {row['note']}", err=True)


def _rows(name: str) -> list[Row]:
    try:
        return [_describe(name)]
    except ElsewhereError as elsewhere:
        try:
            text = rootless.output_in_lab(elsewhere.holder, again(["ps", name, "--json"]))
            rows: list[Row] = json.loads(text)
        except (TestbedError, ValueError) as error:
            return [_bare(name, "in pieces", str(error))]
        return rows


def _describe(name: str) -> Row:
    try:
        lab = Lab.find(name)
    except InputError:
        if name not in existing():
            raise
        return _bare(name, "in pieces", f"take it down with: testbed down {name}")
    except LabUnreadableError as error:
        return _bare(name, "unreadable", str(error))
    except HostError as error:
        return _bare(name, "no engine", str(error))
    row = _bare(name, "no controller", "")
    row |= {
        "policy": lab.state.policy,
        "runtime": lab.state.runtime,
        "run_id": lab.state.run_id,
        "run_dir": lab.state.run_directory,
        "urls": lab.state.urls,
    }
    try:
        status = lab.client.status(timeout_seconds=1.0)
        row |= {"state": status.state, "slot": status.slot, "policy": status.policy}
    except ControllerSilentError as error:
        row["note"] = str(error)
    try:
        processes = lab.runtime.processes()
    except TestbedError as error:
        row["note"], processes = str(error), []
    row["processes"] = [
        {
            "node": process.node,
            "program": process.program.rpartition(".")[2],
            "pid": process.pid,
            "status": "running"
            if process.running
            else f"ended ({process.exit_code}{', out of memory' if process.out_of_memory else ''})",
        }
        for process in processes
    ]
    return row


def _bare(name: str, state: str, note: str) -> Row:
    return Row(
        lab=name,
        state=state,
        policy="",
        runtime="",
        slot=None,
        run_id="",
        run_dir="",
        urls={},
        processes=[],
        note=note,
    )
