"""``testbed validate FILE``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

from testbed.cli import options
from testbed.lab import checks
from testbed.labfile import lab_files
from testbed.labfile.load import load


@click.command("validate")
@click.argument("file", type=click.Path(path_type=Path), default="lab.yaml")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the lab file.")
@options.no_import
@click.option("--json", "as_json", is_flag=True, help="Print the normalised lab and the warnings as JSON.")
def command(file: Path, overrides: tuple[str, ...], imports: bool, as_json: bool) -> None:
    """Check a lab file: every key, unit, path, model and policy, and whether this host can carry it."""
    topology = load(file, overrides, imports=imports)
    if imports:
        checks.check_models(topology, str(file), file.parent, traced=True)
    warnings = [
        *lab_files.check_files(topology, str(file)),
        *checks.warnings(topology),
        *checks.host_warnings(topology),
    ]
    if imports:
        warnings += lab_files.check_policy(topology, str(file))
    if as_json:
        click.echo(json.dumps({"lab": topology.normalised(), "warnings": warnings}, indent=1))
        return
    click.echo(yaml.safe_dump(topology.normalised(), sort_keys=False, allow_unicode=True), nl=False)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{file}: valid", err=True)
