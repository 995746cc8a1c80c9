"""``testbed logs NODE``."""

from __future__ import annotations

import click

from testbed.errors import InputError
from testbed.lab.lab import Lab


@click.command("logs")
@click.argument("node")
@click.option("--lab", metavar="LAB", help="Which lab; not needed if one is up.")
def command(node: str, lab: str | None) -> None:
    """Print what a node's programs wrote to their standard output and error."""
    found = Lab.find(lab)
    known = found.logged_nodes()
    if node not in known:
        raise InputError(f"lab {found.state.name!r} has no such node", value=node, allowed=", ".join(known))
    click.echo(found.log_text(node), nl=False)
