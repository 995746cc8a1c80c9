"""``testbed schema``."""

from __future__ import annotations

import json

import click

from testbed.labfile.schema import Topology


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of a lab file, for editors."""
    click.echo(json.dumps(Topology.model_json_schema(mode="validation"), indent=1))
