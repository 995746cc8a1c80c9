"""``testbed examples``."""

from __future__ import annotations

import click

from testbed.installed import shipped
from testbed.lab.starter import EXAMPLES


@click.command("examples")
def command() -> None:
    """List what `init` writes, and the labs that are shipped."""
    for name, example in EXAMPLES.items():
        click.echo(f"testbed init DIR --example {name:10s}  {example.about}")
    click.echo(f"\nLabs in {shipped('topologies')}, to run as they are or to copy:")
    for path in sorted(shipped("topologies").glob("*.yaml")):
        about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        click.echo(f"  {path.name:26s}  {about}")
