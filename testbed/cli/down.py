"""``testbed down [LAB | --all]``."""

from __future__ import annotations

import click

from testbed.errors import InputError, TestbedError
from testbed.lab.removal import remove_labs
from testbed.lab.state import existing
from testbed.runtime.docker.presence import list_containers
from testbed.runtime.host.state import state_root
from testbed.runtime.processes.discovery import check_lab_name
from testbed.runtime.processes.identity import made_by_others


@click.command("down")
@click.argument("lab", required=False)
@click.option("--all", "everything", is_flag=True, help="Remove every lab of ours.")
def command(lab: str | None, everything: bool) -> None:
    """Remove a lab: everything of ours that it put on this system, and nothing else. Idempotent."""
    if lab is not None:
        check_lab_name(lab)
    labs = existing()
    others = {} if lab else made_by_others(labs, state_root())
    for name, who in others.items():
        click.echo(f"lab {name}: left as it is: {who} made it (name it to remove it)", err=True)
    labs = [name for name in labs if name not in others]
    if everything and lab:
        raise InputError("give a lab's name or --all, not both", where="down", value=lab)
    if lab is None and not everything and len(labs) > 1:
        raise InputError("several labs are up: name one, or say --all", where="down", allowed=", ".join(labs))
    names = [lab] if lab else labs
    if not names and not others:
        list_containers()  # raises where an engine does not tell
        click.echo("no lab is up")
    left: list[str] = []
    for removal in remove_labs(names):
        if removal.left:
            left.append(f"lab {removal.lab}: {removal.left}")
        elif removal.done:
            click.echo(f"lab {removal.lab}: {removal.done}")
    if left:
        raise TestbedError(f"not everything could be removed: {'. '.join(left)}")
