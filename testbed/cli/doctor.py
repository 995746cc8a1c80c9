"""``testbed doctor``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from testbed.doctor import examine


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(as_json: bool) -> None:
    """Say what this host can do, what follows from what it cannot, and how to change that."""
    findings = examine()
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = "ok     " if finding.ok else ("MISSING" if finding.needed else "without")
            click.echo(f"{mark}  {finding.name}: {finding.found}")
            if not finding.ok:
                click.echo(f"         {finding.consequence}")
                click.echo(f"         to change that: {finding.fix}")
    if any(finding.needed and not finding.ok for finding in findings):
        sys.exit(3)
