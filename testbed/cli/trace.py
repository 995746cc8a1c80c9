"""``testbed trace generate|show|import``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
import numpy as np

from controller.model.channel import Channel, Fading, Shadowing
from testbed.cli import out as out_types
from testbed.errors import InputError
from testbed.traces import Kind, Trace, describe, generate, load_trace, write_trace
from testbed.traces.arrays import AXES
from testbed.traces.clock import TIME_UNITS
from testbed.traces.doubts import DEFAULT_FLOOR_BITS_PER_SECOND, doubts, outage
from testbed.traces.files import is_mahimahi
from testbed.traces.importing import import_file
from testbed.traces.layouts import known_formats
from testbed.traces.plots import save_plot, text_plot
from testbed.traces.series import Wanted
from testbed.traces.value_units import REFERENCE_DBM, UNITS
from testbed.units import DECIBEL, DURATION, FREQUENCY, LENGTH, POWER, Dimension


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
            raise InputError("the step is too short", where=parameter.opts[0], value=value, allowed="1 ms or more")
        return width

    return converted


def _optional_level(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """A power with its unit, in dBm."""
    watts = None if value is None else _quantity(POWER)(context, parameter, value)
    if watts is None:
        return None
    if watts <= 0:
        raise InputError("a power is above 0", where=parameter.opts[0], value=value)
    return 10.0 * math.log10(watts / 1e-3)


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
@click.argument("up", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("down_file", metavar="[DOWNLINK_FILE]", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(("auto", *known_formats())),
    default="auto",
    show_default=True,
    help="What the file is; auto: by its content.",
)
@click.option("--time", "time", metavar="COL", default="", help="Column of the times, by name or number.")
@click.option("--up", "up_column", metavar="COL", default="", help="Column, or array, of the uplink's values.")
@click.option("--down", "down_column", metavar="COL", default="", help="... of the downlink's [default: the same].")
@click.option(
    "--unit", default="", metavar="UNIT", help=f"Of the values: {', '.join(UNITS)} (dBm, W: RSRP; m: distance)."
)
@click.option("--time-unit", type=click.Choice(TIME_UNITS), help="Of the times [default: as they look].")
@click.option(
    "--step", callback=_optional_quantity(DURATION), help="Time from row to row, where there is no column of it."
)
@click.option("--where", metavar="COL=VALUE", multiple=True, help="Rows that count; several: all must hold.")
@click.option(
    "--tx-power",
    callback=_optional_level,
    metavar="LEVEL",
    help=f"Of the reference signal, per resource element [default: '{REFERENCE_DBM:.4g} dBm', 46 dBm over 20 MHz].",
)
@click.option(
    "--index", metavar="N,...", default="", help="Of the leading axes of coefficients; a colon keeps an axis."
)
@click.option("--axes", metavar="NAME,...", default="", help=f"The last axes of coefficients: {', '.join(AXES)}.")
@click.option(
    "--bin",
    "width",
    callback=_optional_quantity(DURATION),
    help="Width of a step [default: 100 ms for Mahimahi, else as in the file].",
)
@click.option("--out", type=out_types.FILE, required=True, help="The CSV to write.")
@click.option("--png", type=out_types.FILE, help="Plot what was made to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def import_trace(
    up: Path,
    down_file: Path | None,
    form: str,
    time: str,
    up_column: str,
    down_column: str,
    unit: str,
    time_unit: str | None,
    step: float | None,
    where: tuple[str, ...],
    tx_power: float | None,
    index: str,
    axes: str,
    width: float | None,
    out: Path,
    png: Path | None,
    as_json: bool,
) -> None:
    """Turn a recorded trace into ours: Mahimahi's (bits per step and mean rate are kept exactly), logs and tables with
    rates, dB, RSRP, distances, delays or losses, arrays of channel simulators. What it was taken for is said."""
    wanted = Wanted(
        time=time,
        up=up_column,
        down=down_column,
        unit=unit,
        time_unit=time_unit,
        step_seconds=step,
        where=_conditions(where),
        reference_dbm=tx_power,
        index=_indices(index),
        axes=tuple(name.strip() for name in axes.split(",")) if axes else (),
    )
    asked = None if form == "auto" else next(name for name in known_formats() if name == form)
    read = import_file(up, down_file, asked, wanted, width)
    for note in read.notes:
        click.echo(f"- {note}", err=True)
    write_trace(read.trace, out, note=f"{read.format} {up.name}" + (f" and {down_file.name}" if down_file else ""))
    if png is not None:
        save_plot(read.trace, png, title=up.name)
    _print_summary(read.trace, out, as_json, mahimahi=read.format == "mahimahi", read_as=read.notes)


def _conditions(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    for text in texts:
        if "=" not in text:
            raise InputError("not a condition", where="--where", value=text, allowed="COLUMN=VALUE")
    return tuple((column.strip(), value.strip()) for column, _, value in (text.partition("=") for text in texts))


def _indices(text: str) -> tuple[int | None, ...]:
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if word != ":" and not (word.isascii() and word.isdigit()):
            raise InputError("not an index", where="--index", value=text, allowed="whole numbers and colons: 0,:,0")
    return tuple(None if word == ":" else int(word) for word in words)


def _print_summary(
    trace: Trace, path: Path, as_json: bool, *, mahimahi: bool = False, read_as: tuple[str, ...] = ()
) -> None:
    found = doubts(trace)
    if trace.kind == "rate":
        below = outage(trace, trace.up, trace.down, DEFAULT_FLOOR_BITS_PER_SECOND, mahimahi=mahimahi)
        found += [below] if below else []
    for doubt in found:
        click.echo(f"warning: {path}: {doubt}", err=True)
    mean = trace.mean()
    summary: dict[str, object] = {
        "file": str(path),
        "kind": trace.kind,
        "steps": len(trace),
        "duration_seconds": trace.duration_seconds,
        "unit": {"gain": "linear power gain", "rate": "bit/s", "delay": "s", "loss": "ratio"}[trace.kind],
        "up": {"mean": mean.up, "min": float(np.min(trace.up)), "max": float(np.max(trace.up))},
        "down": {"mean": mean.down, "min": float(np.min(trace.down)), "max": float(np.max(trace.down))},
    }
    if read_as:
        summary["read_as"] = list(read_as)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    click.echo(f"{path}: {len(trace)} steps, {trace.duration_seconds:g} s, {summary['unit']}")
    for name, values, average in (("up", trace.up, mean.up), ("down", trace.down, mean.down)):
        click.echo(f"  {name:4} mean {average:.4g}, {values.min():.4g} to {values.max():.4g}")
