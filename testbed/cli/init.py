"""``testbed init DIR``."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.lab.starter import EXAMPLES, write


@click.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--example", type=click.Choice(list(EXAMPLES)), default="quickstart", show_default=True)
def command(folder: Path, example: str) -> None:
    """Write a lab to begin with: lab.yaml, what it names, a README."""
    for path in write(folder, example):
        click.echo(path)
    click.echo(f"now: cd {folder} && testbed run", err=True)
