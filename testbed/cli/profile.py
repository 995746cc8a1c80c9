"""``testbed profile MODEL``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from controller.contract import PLAIN_CODECS, ModelProfile, cut_label
from controller.contract.codec import BOUNDARY_CODECS, is_boundary_codec, is_codec_of, is_input_codec
from testbed.cli import out as out_types
from testbed.cli import tables
from testbed.errors import InputError
from testbed.inference.profiles import REFERENCE_CORE_FRACTION, Uses, profile_cache_path, read_profile, write_profile


@click.command("profile")
@click.argument("model")
@click.option(
    "--out",
    type=out_types.FILE,
    help="File to write; default: where labs without 'profile:' look for it on this host.",
)
@click.option("--cuts", is_flag=True, help="List the single-tensor cuts and their bytes; measure and write nothing.")
@click.option("--seed", default=7, show_default=True, help="Of the random weights.")
@click.option(
    "--reference-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=REFERENCE_CORE_FRACTION,
    show_default=True,
    help="The reference core (speed 1.0) as a fraction of this host's core.",
)
@click.option(
    "--layer-times",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV of another device's time per layer: make its profile from that, and measure nothing.",
)
@click.option(
    "--cut",
    "labels",
    multiple=True,
    help="A cut of several tensors (a+b): measure it and add it to the profile that is there. May be repeated.",
)
@click.option(
    "--codec",
    "codecs",
    multiple=True,
    help="A codec (int4+zstd, jpeg-90, MODULE:CLASS) to measure: time, size, agreement. Added to the file of --out.",
)
@click.option("--samples", type=click.IntRange(1, 10_000), default=8, show_default=True, help="Inputs for --codec.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    model: str,
    out: Path | None,
    cuts: bool,
    seed: int,
    reference_fraction: float,
    layer_times: Path | None,
    labels: tuple[str, ...],
    codecs: tuple[str, ...],
    samples: int,
    as_json: bool,
) -> None:
    """Measure head and tail of MODEL at every single-tensor cut and write a model profile.

    MODEL is torchvision:NAME (random weights) or package.module:factory, importable from the working directory.
    """
    if cuts:
        _list_cuts(model, seed, as_json)
        return
    if layer_times is not None:
        if out is None:
            raise click.UsageError("--layer-times needs --out FILE: the cache is for what this host measured")
        from testbed.inference.layer_times import profile_of_device, read_layer_times
        from testbed.inference.partition import load_split_model

        times = read_layer_times(layer_times)
        _tell(profile_of_device(load_split_model(model, seed), times, str(layer_times)), out, as_json)
        return
    if codecs and out is None:
        raise click.UsageError("--codec needs --out FILE: sizes and answers are those of a lab's inputs and weights")
    path = out or profile_cache_path(model)
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as bar:
        task = bar.add_task("profile", total=1.0)

        def progress(text: str, ratio: float) -> None:
            bar.update(task, description=text, completed=ratio)

        if labels:
            profile = _with_cuts(model, seed, path, labels, progress)
        elif codecs and path.is_file():
            profile = read_profile(path)
        else:
            from testbed.inference.profiling import profile_model

            profile = profile_model(model, seed, reference_fraction=reference_fraction, progress=progress)
        if codecs:
            profile = _with_codecs(model, seed, profile, codecs, samples)
    _tell(profile, path, as_json)


def _with_cuts(
    model: str, seed: int, path: Path, labels: tuple[str, ...], progress: Callable[[str, float], None]
) -> ModelProfile:
    """The profile at ``path`` with these cuts measured too."""
    profile = read_profile(path)
    from testbed.inference.cut_profiling import measure_cuts
    from testbed.inference.partition import load_split_model

    split = load_split_model(model, seed)
    split.check_profile(profile, str(path))
    return measure_cuts(split, profile, labels, progress=progress)


def _with_codecs(model: str, seed: int, profile: ModelProfile, codecs: tuple[str, ...], samples: int) -> ModelProfile:
    """The profile with these codecs measured too. Raises InputError for one that there is not."""
    for codec in codecs:
        if not (is_boundary_codec(codec) or is_input_codec(codec)):
            raise InputError(
                "there is no such codec",
                where="--codec",
                value=codec,
                allowed=f"between nodes {BOUNDARY_CODECS}; of the input png and jpeg-QUALITY",
            )
    from testbed.labfile.codec_profiles import with_codecs

    uses = Uses(
        [codec for codec in codecs if not is_boundary_codec(codec)],
        [codec for codec in codecs if is_boundary_codec(codec)],
    )
    return with_codecs(model, seed, Path.cwd(), profile, uses, agreement=True, samples=samples)


def _tell(profile: ModelProfile, path: Path, as_json: bool) -> None:
    write_profile(profile, path)
    if as_json:
        click.echo(msgspec.json.encode(profile))
    else:
        tables.show(_table(profile))
        if profile.agreement:
            tables.show(_codec_table(profile))
        Console().print(_summary(profile), soft_wrap=True)
    click.echo(f"wrote {path}", err=True)


def _list_cuts(model: str, seed: int, as_json: bool) -> None:
    from controller.model.cuts import cut_bytes
    from testbed.inference.partition import load_split_model

    graph = load_split_model(model, seed).graph
    opaque = {node.name: node.opaque for node in graph.nodes if node.opaque}
    if as_json:
        rows: list[dict[str, str | int]] = []
        for cut in graph.chain_cuts:
            rows.append({"cut": cut_label(cut), "bytes": cut_bytes(graph.nodes, cut)})
            if path := opaque.get(cut_label(cut)):
                rows[-1]["opaque"] = path
        click.echo(msgspec.json.encode(rows))
        return
    table = Table("cut", *[f"{codec} KiB" for codec in PLAIN_CODECS], title=model)
    for column in table.columns[1:]:
        column.justify = "right"
    for cut in graph.chain_cuts:
        sizes = (cut_bytes(graph.nodes, cut, codec) for codec in PLAIN_CODECS)
        table.add_row(cut_label(cut), *[f"{size / 1024:.1f}" for size in sizes])
    tables.show(table)
    for name, path in opaque.items():
        click.echo(f"opaque: {path} is one node, {name}: its code cannot be followed, or the model names it so")


def _table(profile: ModelProfile) -> Table:
    table = Table(title=f"{profile.model}, times on the reference core")
    table.add_column("cut")
    for heading in ("fp32 KiB", "fp16 KiB", "uint8 KiB", "head ms", "tail ms"):
        table.add_column(heading, justify="right")
    for index, cut in enumerate(profile.chain_cuts):
        table.add_row(
            cut_label(cut),
            f"{profile.boundary_bytes(cut, 'fp32') / 1024:.1f}",
            f"{profile.boundary_bytes(cut, 'fp16') / 1024:.1f}",
            f"{profile.boundary_bytes(cut, 'uint8') / 1024:.1f}",
            f"{profile.head_seconds[index] * 1e3:.2f}",
            f"{profile.tail_seconds[index] * 1e3:.2f}",
        )
    for found in profile.measured_cuts:
        table.add_row(
            cut_label(found.cut),
            *(f"{profile.boundary_bytes(found.cut, codec) / 1024:.1f}" for codec in PLAIN_CODECS),
            f"{found.head_seconds * 1e3:.2f}",
            f"{found.tail_seconds * 1e3:.2f}",
        )
    return table


def _codec_table(profile: ModelProfile) -> Table:
    """What was measured of codecs: mean size and agreement at each cut."""
    table = Table(title="mean KiB by codec, and how many answers stay those of the unsplit model")
    table.add_column("cut")
    codecs = list(profile.agreement)
    for codec in codecs:
        table.add_column(codec, justify="right")
    for index, cut in enumerate(profile.chain_cuts[:-1]):
        cells = []
        for codec in codecs:
            fits = is_codec_of(codec, raw_input=cut == ("input",))
            size = profile.boundary_bytes(cut, codec) / 1024
            cells.append(f"{size:.1f}, {profile.agreement[codec][index]:.0%}" if fits else "")
        table.add_row(cut_label(cut), *cells)
    return table


def _summary(profile: ModelProfile) -> str:
    core = profile.reference_core
    if core.fraction == 1 and core.torch_version == "none":
        return f"speed 1.0: {core.host_cpu}; {profile.head_seconds[-1] * 1e3:.1f} ms in all"
    return (
        f"reference core: {core.fraction:g} of one core of {core.host_cpu}, torch {core.torch_version}; "
        f"hold-out error {profile.holdout_error_ratio:.1%}; p99 / median {profile.p99_over_median_ratio:.2f}"
    )
