"""``testbed up FILE``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from testbed.cli import options
from testbed.cli.again import enter
from testbed.runs.execute import Order
from testbed.runs.serve import serve
from testbed.runtime.select import select


@click.command("up")
@options.lab_file
@options.runtime
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run directory; default: runs/RUN_ID.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    file: Path,
    overrides: tuple[str, ...],
    policy: str | None,
    seed: int | None,
    name: str | None,
    runtime: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Bring a lab up and serve until `down`. Idempotent: repairs what is missing, says what differs."""
    topology = options.read_lab(file, overrides, policy, seed, name)
    enter(topology.name)
    order = Order(topology, str(file), file.parent.absolute(), select(runtime, options.notify), out, None)
    lab, did = serve(order, options.notify)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "lab": lab.state.name,
                    "run_id": lab.state.run_id,
                    "runtime": lab.state.runtime,
                    "did": did,
                    "run_dir": lab.state.run_directory,
                    "urls": lab.state.urls,
                },
                indent=1,
            )
        )
        return
    click.echo(f"lab {lab.state.name}: {did}; policy {lab.state.policy}, runtime {lab.state.runtime}")
    click.echo(f"  records  {lab.state.run_directory}")
    for title, url in lab.state.urls.items():
        click.echo(f"  {title}  {url}")
    click.echo(f"  take it down with: testbed down {lab.state.name}")
