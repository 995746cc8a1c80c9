"""``testbed exec NODE -- COMMAND``."""

from __future__ import annotations

import sys

import click

from testbed.lab.lab import Lab


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--lab", metavar="LAB", help="Which lab; not needed if one is up.")
@click.argument("node")
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED)
def command(lab: str | None, node: str, command_line: tuple[str, ...]) -> None:
    """Run a command inside a node (its network, its CPU limits); its exit code is ours."""
    words = command_line[1:] if command_line[0] == "--" else command_line
    sys.exit(Lab.find(lab).runtime.exec(node, words))
