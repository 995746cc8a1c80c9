"""``testbed sweep FILE``: a campaign of one key, without a file of its own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from testbed.campaign.load import campaign_of
from testbed.cli import options
from testbed.cli import out as out_types
from testbed.cli.campaign import run_and_show
from testbed.errors import InputError
from testbed.lab.choice import LabChoice
from testbed.labfile.yaml_text import parse_yaml
from testbed.units import DURATION

#: Over the values.
DRAWN = ("mean_delay_seconds", "worst_energy_ratio")


@click.command("sweep")
@options.lab_file
@options.runtime
@click.option("--key", required=True, metavar="KEY", help="What to vary, as in --set: policy.V, policy, ues.0.speed.")
@click.option("--values", required=True, metavar="V,V,...", help="Its values, in order.")
@click.option("--seeds", metavar="A..B", help="Repeat each value with these seeds; default: the lab's one.")
@click.option("--simulate", "simulated", is_flag=True, help="In the simulator (event mode) instead of the testbed.")
@click.option("--slots", type=click.IntRange(min=1), help="Length of each simulation; default 500.")
@click.option(
    "--duration", type=options.Quantity(DURATION, positive=True), help="How long tasks arrive in each run; default 60s."
)
@click.option("--out", type=out_types.FOLDER, help="Folder; default: runs/sweep-LAB-TIME.")
@click.option("--json", "as_json", is_flag=True, help="Print means and differences as JSON.")
def command(
    lab: LabChoice,
    runtime: str,
    key: str,
    values: str,
    seeds: str | None,
    simulated: bool,
    slots: int | None,
    duration: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Vary one key of a lab: a campaign of one key."""
    if slots is not None and not simulated:
        raise InputError("--slots is for simulations", where="--slots", value=slots, fix="Use --duration.")
    if duration is not None and simulated:
        raise InputError("--duration is for runs", where="--duration", value=duration, fix="Use --slots.")
    if seeds is not None and lab.seed is not None:
        raise InputError("--seed and --seeds say one thing twice", where="--seeds", value=seeds, fix="Drop one.")
    name = lab.read().name
    raw: dict[str, Any] = {
        "name": "sweep",
        "lab": str(lab.file.absolute()),
        "where": "simulator" if simulated else "lab",
        "vary": {key: [parse_yaml(text, "--values") for text in split_values(values)]},
        "set": {other: value for other, value in _settings(lab).items() if other != key},
        "runtime": runtime,
        "figures": ["cdf"] if key == "seed" else [{"kind": "lines", "over": key, "of": name} for name in DRAWN],
        **({"slots": slots or 500} if simulated else {"duration": f"{duration or 60.0!r} s"}),
    }
    if seeds is not None:
        raw["vary"]["seed"] = seeds
    folder = out or Path("runs") / f"sweep-{name}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    run_and_show(campaign_of(raw, "sweep", lab.folder), folder, as_json=as_json)


def _settings(lab: LabChoice) -> dict[str, Any]:
    """What the command line says of the lab, by key."""
    pairs = (text.partition("=") for text in lab.sets)
    return {key: parse_yaml(value, f"--set {key}") for key, _, value in pairs}


def split_values(text: str) -> list[str]:
    """``0.1,0.3`` and ``[1 /s, 2 /s],[2 /s, 4 /s]``: at commas that are in no bracket. Raises InputError if empty."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    values = [part.strip() for part in parts]
    if not all(values):
        raise InputError("a value is empty", where="--values", value=text, allowed="VALUE,VALUE,...")
    if len(set(values)) < len(values):
        raise InputError("a value is there twice", where="--values", value=text)
    return values
