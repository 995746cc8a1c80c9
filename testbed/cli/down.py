"""``testbed down [LAB | --all]``."""

from __future__ import annotations

import click

from testbed.errors import InputError
from testbed.lab import existing, remove_labs


@click.command("down")
@click.argument("lab", required=False)
@click.option("--all", "everything", is_flag=True, help="Remove every lab of ours.")
def command(lab: str | None, everything: bool) -> None:
    """Remove a lab: everything of ours that it put on this system, and nothing else. Idempotent."""
    labs = existing()
    if everything and lab:
        raise InputError("give a lab's name or --all, not both", where="down", value=lab)
    if lab is None and not everything and len(labs) > 1:
        raise InputError("several labs are up: name one, or say --all", where="down", allowed=", ".join(labs))
    names = [lab] if lab else labs
    if not names:
        click.echo("no lab is up")
    for name, what in remove_labs(names):
        click.echo(f"lab {name}: {what}")
