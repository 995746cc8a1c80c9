"""``testbed trace generate|show|import``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
import numpy as np

from controller.model.channel import Channel, Fading, Shadowing
from testbed.cli import out as out_types
from testbed.errors import InputError
from testbed.text_files import read_text
from testbed.traces import Kind, Trace, describe, generate, load_trace, read_mahimahi, read_trace, write_trace
from testbed.traces.doubts import DEFAULT_FLOOR_BITS_PER_SECOND, doubts, outage
from testbed.traces.files import is_mahimahi, joined
from testbed.traces.foreign import TITLES, Foreign, Format, guess, read_foreign
from testbed.traces.mahimahi import DEFAULT_BIN_SECONDS
from testbed.traces.plots import save_plot, text_plot
from testbed.units import DECIBEL, DURATION, FREQUENCY, LENGTH, Dimension


def _quantity(dimension: Dimension) -> Callable[[click.Context, click.Parameter, str], float]:
    """Option callback for a value with its unit, as in a lab file."""

    def convert(_context: click.Context, parameter: click.Parameter, value: str) -> float:
        try:
            return dimension.parse(value)
        except ValueError as error:
            raise InputError(str(error), where=parameter.opts[0]) from None

    return convert


def _optional_quantity(dimension: Dimension) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    convert = _quantity(dimension)

    def converted(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
        if value is None:
            return None
        width = convert(context, parameter, value)
        if width < 1e-3:
            raise InputError("the bin is too short", where=parameter.opts[0], value=value, allowed="1 ms or more")
        return width

    return converted


@click.group("trace")
def command() -> None:
    """Make, convert and look at traces: what a wire's channel does over time."""


@command.command("generate")
@click.option("--fading", type=click.Choice(get_args(Fading)), default="rayleigh", show_default=True)
@click.option("--distance", callback=_quantity(LENGTH), default="200 m", show_default=True)
@click.option(
    "--doppler", callback=_quantity(FREQUENCY), default="0.2 Hz", show_default=True, help="Maximum Doppler shift."
)
@click.option("--k-factor", callback=_quantity(DECIBEL), default="6 dB", show_default=True, help="Of Rician fading.")
@click.option(
    "--sigma", callback=_quantity(DECIBEL), default="0 dB", show_default=True, help="Of log-normal shadowing."
)
@click.option("--rho", type=float, default=0.9, show_default=True, help="Correlation of shadowing, slot to slot.")
@click.option(
    "--slot", callback=_quantity(DURATION), default="0.5 s", show_default=True, help="Shadowing changes once a slot."
)
@click.option("--duration", callback=_quantity(DURATION), default="60 s", show_default=True)
@click.option("--step", callback=_quantity(DURATION), default="100 ms", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--ue", type=click.IntRange(min=0), default=0, show_default=True, help="Index of the UE in its lab.")
@click.option("--out", type=out_types.FILE, required=True, help="The CSV to write.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def generate_trace(
    fading: Fading,
    distance: float,
    doppler: float,
    k_factor: float,
    sigma: float,
    rho: float,
    slot: float,
    duration: float,
    step: float,
    seed: int,
    ue: int,
    out: Path,
    as_json: bool,
) -> None:
    """Make a trace of a channel's gain: the same options give the same file, byte for byte."""
    try:
        shadowing = Shadowing(sigma, rho, slot) if sigma > 0 else None
        channel = Channel(distance, fading, doppler, 10 ** (k_factor / 10) if fading == "rician" else 0.0, shadowing)
        trace = generate([channel], duration, seed, step_seconds=step, ue_indices=[ue])[0]
    except ValueError as error:
        raise InputError(str(error), where="trace generate") from None
    write_trace(trace, out, note=f"{describe(channel)}, seed {seed}, ue {ue}")
    _print_summary(trace, out, as_json)


@command.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(get_args(Kind)), help="For a CSV that does not name its kind.")
@click.option("--png", type=out_types.FILE, help="Write the plot to this file as well.")
@click.option("--width", type=click.IntRange(min=10, max=400), default=72, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON instead.")
def show(file: Path, kind: Kind | None, png: Path | None, width: int, as_json: bool) -> None:
    """Plot a trace (ours, or Mahimahi's) in the terminal and, if asked, to a PNG."""
    trace = load_trace(file, kind)
    if png is not None:
        save_plot(trace, png, title=file.name)
    if not as_json:
        click.echo(text_plot(trace, width))
    _print_summary(trace, file, as_json, mahimahi=is_mahimahi(file))


@command.command("import")
@click.argument("up", type=click.Path(path_type=Path))
@click.option("--down", type=click.Path(path_type=Path), help="The downlink's own file [default: the same].")
@click.option("--format", "form", type=click.Choice(tuple(TITLES)), help="What the file is [default: by its content].")
@click.option(
    "--bin",
    "width",
    callback=_optional_quantity(DURATION),
    help="Width of a step [default: 100 ms for Mahimahi, else as in the file].",
)
@click.option("--out", type=out_types.FILE, required=True, help="The CSV to write.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def import_trace(
    up: Path, down: Path | None, form: Format | None, width: float | None, out: Path, as_json: bool
) -> None:
    """Turn a recorded trace into ours: Mahimahi's (bits per step and mean rate are kept exactly), two columns of
    seconds and Mbit/s, a log of G-NetTrack (kbit/s), a log of bytes and ms per row. The unit that was taken is said."""
    found = form or guess(read_text(up, "trace"))
    if found is None:
        raise InputError(
            "no format that is known",
            where=str(up),
            allowed=", ".join((*get_args(Foreign), "mahimahi")),
            fix="--format",
        )
    click.echo(f"- {up.name} is read as {TITLES[found]}", err=True)
    if found == "mahimahi":
        trace = read_mahimahi(up, down, DEFAULT_BIN_SECONDS if width is None else width).without_repeats()
    else:
        trace = _read_as(found, up)
        if down is not None:
            trace = joined(trace, _read_as(found, down), str(down))
        if width is not None:
            try:
                trace = trace.binned(width).without_repeats()
            except ValueError as error:
                raise InputError(str(error), where="--bin", fix="Take a wider one.") from None
    write_trace(trace, out, note=f"{found} {up.name}" + (f" and {down.name}" if down else ""))
    _print_summary(trace, out, as_json, mahimahi=found == "mahimahi")


def _read_as(form: Format, path: Path) -> Trace:
    return read_trace(path) if form == "testbed" else read_foreign(path, form)  # type: ignore[arg-type]


def _print_summary(trace: Trace, path: Path, as_json: bool, *, mahimahi: bool = False) -> None:
    found = doubts(trace)
    if trace.kind == "rate":
        below = outage(trace, trace.up, trace.down, DEFAULT_FLOOR_BITS_PER_SECOND, mahimahi=mahimahi)
        found += [below] if below else []
    for doubt in found:
        click.echo(f"warning: {path}: {doubt}", err=True)
    mean = trace.mean()
    summary = {
        "file": str(path),
        "kind": trace.kind,
        "steps": len(trace),
        "duration_seconds": trace.duration_seconds,
        "unit": {"gain": "linear power gain", "rate": "bit/s", "delay": "s", "loss": "ratio"}[trace.kind],
        "up": {"mean": mean.up, "min": float(np.min(trace.up)), "max": float(np.max(trace.up))},
        "down": {"mean": mean.down, "min": float(np.min(trace.down)), "max": float(np.max(trace.down))},
    }
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    click.echo(f"{path}: {len(trace)} steps, {trace.duration_seconds:g} s, {summary['unit']}")
    for name, values, average in (("up", trace.up, mean.up), ("down", trace.down, mean.down)):
        click.echo(f"  {name:4} mean {average:.4g}, {values.min():.4g} to {values.max():.4g}")
