"""``testbed policy list|show|set``."""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path
from typing import Any

import click

from controller.policies import registry
from controller.policies.description import by_family, describe
from controller.service.protocol import SetPolicy
from testbed.cli.options import complete_policy
from testbed.errors import InputError
from testbed.folders import open_to_others, reach
from testbed.lab.lab import Lab
from testbed.labfile.yaml_text import parse_yaml
from testbed.runtime.base import SHARED


@click.group("policy")
def command() -> None:
    """List and explain policies; change that of a running lab."""


@command.command("list")
def list_() -> None:
    """Every installed policy by family, with what it decides."""
    for number, (family, members) in enumerate(by_family().items()):
        click.echo(f"{chr(10) if number else ''}{family.title}: {family.decides} (docs/{family.page})")
        for policy in members:
            click.echo(f"  {policy.name:20s}  {policy.sentence}")
    click.echo("\nOptions and their meanings: testbed policy show NAME")


@command.command("show")
@click.argument("name", shell_complete=complete_policy)
def show(name: str) -> None:
    """What a policy decides, and its options with meanings and defaults; also MODULE:CLASS of the present folder."""
    if ":" in name:
        reach(Path.cwd())
    try:
        policy = describe(name)
    except ValueError as error:
        raise InputError(str(error), where="policy show") from None
    click.echo(f"{policy.name}, {policy.family.title} (docs/{policy.family.page})\n\n{policy.sentence}")
    if policy.text:
        click.echo(f"\n{policy.text}")
    for option in policy.options:
        click.echo(f"\n  {option.name} = {option.default!r}")
        if option.meaning:
            click.echo(textwrap.fill(option.meaning, 100, initial_indent="      ", subsequent_indent="      "))


@command.command("set")
@click.argument("name", shell_complete=complete_policy)
@click.argument("options", nargs=-1, metavar="[OPTION=VALUE]...")
@click.option("--lab", metavar="LAB", help="Which lab; not needed if one is up.")
def set_(name: str, options: tuple[str, ...], lab: str | None) -> None:
    """Let another policy decide from the next slot on."""
    found = Lab.find(lab)
    values: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise InputError("an option is OPTION=VALUE", where="policy set", value=option)
        values[key] = parse_yaml(text, f"policy set, option {key}", "not a value")
    if isinstance(values.get("checkpoint"), str):
        values["checkpoint"] = share_checkpoint(Path(values["checkpoint"]), found.directory / SHARED)
    if ":" not in name:  # where a module lies is known to the lab
        try:
            registry.create(name, values)
        except ValueError as error:
            raise InputError(str(error), where="policy set") from None
    found.client.command(SetPolicy(name=name, options=values))
    click.echo(f"lab {found.state.name}: policy {name} decides from the next slot on")


def share_checkpoint(path: Path, folder: Path) -> str:
    """Path of a copy in the lab's folder, which every node sees; the name tells two files of one name apart.

    A relative path is relative to the present directory. Raises InputError for a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the checkpoint cannot be read: {error.strerror}",
            where="policy set, option checkpoint",
            value=str(path.absolute()),
            fix="Give a file that `testbed train` wrote; a relative path is relative to the present directory.",
        ) from None
    copy = folder / f"{path.stem}-{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"
    copy.write_bytes(content)
    open_to_others(copy)
    return str(copy)
