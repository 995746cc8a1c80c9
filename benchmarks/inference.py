"""Figures of the inference layer as JSON: splitting overhead, packing throughput, the profile's hold-out error.

    python -m benchmarks.inference [MODEL ...]

Runs for about a minute per model. Have the machine quiet; ratios compare alternatives within the same run.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from controller.contract import ALL_ON_DEVICE, PLAIN_CODECS
from testbed.inference import tensors
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.profiling import Effort, profile_split

MODELS = ("torchvision:mobilenet_v2", "torchvision:resnet18")


def medians(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each, interleaved in random order so that drift of the machine hits all alike."""
    order, shuffled = list(runs), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        shuffled.shuffle(order)
        for name in order:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in seconds.items()}


def split_overhead(split: SplitModel, repetitions: int = 40) -> dict[str, object]:
    """(head + tail) / unsplit at five cuts, and the same with the tail in segments of 2 ms of host time."""
    model, graph = split.model, split.graph
    normalise = split.partition(("normalise",)).head
    inner = graph.chain_cuts[2:-1]
    cuts = [inner[index] for index in np.linspace(0, len(inner) - 1, 5).astype(int)]
    whole = split.partition(ALL_ON_DEVICE)

    def original() -> torch.Tensor:
        with torch.inference_mode():
            return model.module(normalise(model.probe)[0])  # type: ignore[no-any-return]

    runs: dict[str, Callable[[], object]] = {"original": original, "unsplit": lambda: whole.head(model.probe)}
    for cut in cuts:
        partition = split.partition(cut)
        runs["+".join(cut)] = lambda partition=partition: partition.tail(partition.head(model.probe))  # type: ignore[misc]
    node_seconds = [1.0] * len(graph.nodes)
    unsplit_seconds = medians({"unsplit": runs["unsplit"]}, 10)["unsplit"]
    nodes_per_segment = max(1.0, 0.002 / (unsplit_seconds / len(graph.nodes)))
    everything = split.partition(("input",))
    segments = everything.tail_segments(nodes_per_segment, node_seconds)

    def segmented() -> object:
        state = everything.start((model.probe,))
        for segment in segments:
            segment(state)
        return state

    runs["segments"] = segmented
    seconds = medians(runs, repetitions)
    return {
        "unsplit_seconds": seconds["unsplit"],
        "unsplit_over_original": seconds["unsplit"] / seconds["original"],
        "split_over_unsplit": {"+".join(cut): seconds["+".join(cut)] / seconds["unsplit"] for cut in cuts},
        "segments": len(segments),
        "segments_over_unsplit": seconds["segments"] / seconds["unsplit"],
    }


def packing(sizes: tuple[int, ...] = (65_536, 802_816, 3_211_264)) -> list[dict[str, object]]:
    """Seconds to pack and to unpack one tensor, and fp32 bytes per second through both."""
    rows: list[dict[str, object]] = []
    for size in sizes:
        tensor = torch.randn(1, size // 4)
        for codec in PLAIN_CODECS:
            header, buffers = tensors.pack(0, ("x",), [tensor], codec)
            seconds = medians(
                {
                    "pack": lambda tensor=tensor, codec=codec: tensors.pack(0, ("x",), [tensor], codec),  # type: ignore[misc]
                    "unpack": lambda header=header, buffers=buffers: tensors.unpack(header, buffers),  # type: ignore[misc]
                },
                200,
            )
            rows.append(
                {
                    "bytes": size,
                    "codec": codec,
                    "header_bytes": len(header),
                    "pack_seconds": seconds["pack"],
                    "unpack_seconds": seconds["unpack"],
                    "bytes_per_second": size / (seconds["pack"] + seconds["unpack"]),
                }
            )
    return rows


def holdout(split: SplitModel) -> dict[str, float]:
    """Hold-out error of the profile, and what measuring it took."""
    start = time.perf_counter()
    profile = profile_split(split, reference_fraction=0.5, effort=Effort(), progress=lambda _text, _ratio: None)
    return {
        "holdout_error_ratio": profile.holdout_error_ratio,
        "p99_over_median_ratio": profile.p99_over_median_ratio,
        "profiling_seconds": time.perf_counter() - start,
    }


def main(models: list[str]) -> None:
    result: dict[str, object] = {"torch": torch.__version__, "packing": packing()}
    for name in models:
        split = load_split_model(name, 7)
        result[name] = {"splitting": split_overhead(split), "profile": holdout(split)}
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
