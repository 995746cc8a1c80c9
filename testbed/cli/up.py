"""``testbed up FILE``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from testbed.cli import options
from testbed.cli import out as out_types
from testbed.cli.again import enter
from testbed.lab.choice import LabChoice
from testbed.lab.prepare import RunOrder
from testbed.lab.runtimes import select
from testbed.lab.up import BRINGING_UP, serve


@click.command("up")
@options.lab_file
@options.runtime
@click.option("--out", type=out_types.FOLDER, help="Run directory; default: runs/RUN_ID.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    lab: LabChoice,
    runtime: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Bring a lab up and serve until `down`. Idempotent: repairs what is missing, says what differs."""
    topology = lab.read(traced=True)
    enter(topology.name, BRINGING_UP)
    order = RunOrder(topology, str(lab.file), lab.folder, select(runtime, options.notify), out, None)
    running, did = serve(order, options.notify)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "lab": running.state.name,
                    "run_id": running.state.run_id,
                    "runtime": running.state.runtime,
                    "did": did,
                    "run_dir": running.state.run_directory,
                    "urls": running.state.urls,
                },
                indent=1,
            )
        )
        return
    click.echo(f"lab {running.state.name}: {did}; policy {running.state.policy}, runtime {running.state.runtime}")
    click.echo(f"  records  {running.state.run_directory}")
    for title, url in running.state.urls.items():
        click.echo(f"  {title}  {url}")
    click.echo(f"  take it down with: testbed down {running.state.name}")
