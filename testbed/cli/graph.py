"""``testbed graph FILE``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from testbed.cli import options
from testbed.cli import out as out_types
from testbed.lab.choice import LabChoice
from testbed.labfile.schema import Topology
from testbed.runtime.host import executables
from testbed.units import DURATION, FREQUENCY


@click.command("graph")
@options.lab_file
@options.no_import
@click.option("--svg", type=out_types.FILE, help="Write an SVG (needs Graphviz's dot).")
def command(lab: LabChoice, imports: bool, svg: Path | None) -> None:
    """Print a lab as a Graphviz graph, or draw it."""
    topology = lab.read(imports=imports)
    text = dot(topology)
    if svg is None:
        click.echo(text, nl=False)
        return
    [dot_program] = executables.require("drawing the graph", "dot")
    subprocess.run([dot_program, "-Tsvg", "-o", str(svg)], input=text, text=True, check=True)
    click.echo(f"wrote {svg}", err=True)


def dot(topology: Topology) -> str:
    """The lab in Graphviz's language."""
    radio = topology.radio
    lines = [
        f'graph "{topology.name}" {{',
        '  rankdir=LR; node [shape=box, style="rounded", fontname="Helvetica"]; edge [fontname="Helvetica"];',
        f'  radio [shape=ellipse, label="radio\\n{FREQUENCY.format(radio.uplink)} up, '
        f'{FREQUENCY.format(radio.downlink)} down"];',
        f'  edge_server [label="edge\\n{topology.edge.cpus:g} reference cores"];',
        "  radio -- edge_server;",
    ]
    for ue in topology.expand():
        where = Path(ue.spec.channel.trace).name if ue.spec.channel.trace else f"{ue.spec.channel.fading}"
        if ue.distance is not None:
            where += f", {ue.distance:g} m"
        if ue.spec.link.delay:
            where += f", {DURATION.format(ue.spec.link.delay)}"
        lines.append(f'  "{ue.name}" [label="{ue.name}\\nspeed {ue.spec.speed:g}\\n{ue.model.partition(":")[2]}"];')
        lines.append(f'  "{ue.name}" -- radio [label="{where}"];')
    return "\n".join([*lines, "}", ""])
