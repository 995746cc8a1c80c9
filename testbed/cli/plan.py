"""``testbed plan FILE``."""

from __future__ import annotations

import json

import click

from testbed.cli import options
from testbed.lab import checks
from testbed.lab.choice import LabChoice
from testbed.lab.plan import make_plan
from testbed.lab.runtimes import select
from testbed.labfile.channels import make_traces, peak_states


@click.command("plan")
@options.lab_file
@options.runtime
@options.no_import
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def command(
    lab: LabChoice,
    runtime: str,
    imports: bool,
    as_json: bool,
) -> None:
    """Print what `up` would do, and do nothing."""
    topology = lab.read(imports=imports)
    for warning in checks.host_warnings(topology):
        click.echo(f"warning: {warning}", err=True)
    peaks = peak_states(make_traces(topology, None))
    plan = make_plan(topology, select(runtime, options.notify), peaks, checks.cpusets_of(topology)).to_json()
    if as_json:
        click.echo(json.dumps(plan, indent=1))
        return
    click.echo(f"lab {plan['lab']} in runtime {plan['runtime']}:")
    for number, action in enumerate(plan["actions"], start=1):
        title = action.pop("action")
        click.echo(f"{number}. {title}")
        for key, value in action.items():
            for item in value if isinstance(value, list | tuple) else [value]:
                text = ", ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else item
                click.echo(f"   {key}: {text}")
