"""A device that is not here: a table of its layers' times, as papers and projects publish them, becomes a profile.

The table is CSV with the columns ``node`` (a value of the traced graph, see ``testbed profile MODEL --cuts``) and
``milliseconds``; further columns are for the reader. ``# device: ...`` and ``# source: ...`` above it say whose times
they are. Nodes without a row cost the device nothing.
"""

from __future__ import annotations

import csv
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from controller.contract import PLAIN_CODECS, CodecTimes, ModelProfile, ReferenceCore
from testbed.errors import InputError
from testbed.inference.partition import SplitModel
from testbed.inference.profiles import PROFILE_VERSION


@dataclass(frozen=True)
class LayerTimes:
    """What the file says: the device's name, where the times are from, and seconds by node."""

    device: str
    source: str
    seconds: dict[str, float]


def read_layer_times(path: Path) -> LayerTimes:
    """Raises InputError with file and line for what is no such table."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the layer times cannot be read: {error}", where=str(path)) from error
    named: dict[str, str] = {}
    rows: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith("#"):
            key, colon, text = line.lstrip("# ").partition(":")
            if colon and key in ("device", "source"):
                named[key] = text.strip()
        elif line.strip():
            rows.append((number, line))
    for key in ("device", "source"):
        if not named.get(key):
            raise InputError(
                f"nothing says whose times these are: no {key}", where=str(path), fix=f"Add a line '# {key}: ...'."
            )
    header = next(csv.reader([rows[0][1]])) if rows else []
    if not {"node", "milliseconds"} <= set(header):
        raise InputError(
            "the first row names the columns", where=str(path), value=header, allowed="node, milliseconds, ..."
        )
    seconds: dict[str, float] = {}
    for number, line in rows[1:]:
        fields = dict(zip(header, next(csv.reader([line])), strict=False))
        node, text = fields["node"], fields.get("milliseconds", "")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0) or node in seconds:
            what = "a node stands twice" if node in seconds else "not a time"
            raise InputError(
                what, where=f"{path}, line {number}", value=line, allowed="one row a node, milliseconds >= 0"
            )
        seconds[node] = value / 1e3
    return LayerTimes(named["device"], named["source"], seconds)


def profile_of_device(split: SplitModel, times: LayerTimes, where: str) -> ModelProfile:
    """A profile whose heads are prefix sums of the layers, and whose tails are what is then left, both on the device.

    Speed 1.0 is the device itself (fraction 1). Encoding is free: nobody publishes it. Raises InputError for a node
    that the model does not have.
    """
    graph = split.graph
    names = [node.name for node in graph.nodes]
    unknown = sorted(set(times.seconds) - set(names))
    if unknown:
        raise InputError(
            f"{split.model.name} has no such node", where=where, value=unknown[0], allowed=", ".join(names)
        )
    node_seconds = [times.seconds.get(name, 0.0) for name in names]
    sums = list(itertools.accumulate(node_seconds))
    heads = [0.0, *(sums[names.index(cut[0])] for cut in graph.chain_cuts[1:-1]), sums[-1]]
    free = (0.0,) * len(heads)
    return ModelProfile(
        version=PROFILE_VERSION,
        model=split.model.name,
        nodes=graph.nodes,
        chain_cuts=graph.chain_cuts,
        head_seconds=tuple(round(value, 9) for value in heads),
        tail_seconds=tuple(round(sums[-1] - value, 9) for value in heads),
        node_seconds=tuple(round(value, 9) for value in node_seconds),
        codecs={codec: CodecTimes(free, free) for codec in PLAIN_CODECS},
        result_bytes=split.model.answer.numel() * split.model.answer.element_size(),
        reference_core=ReferenceCore(fraction=1.0, host_cpu=times.device, torch_version="none"),
        holdout_error_ratio=0.0,
    )
