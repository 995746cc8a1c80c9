"""The survey of models: what traces, into how many nodes and cuts, how fast, and what is taken whole.

    python -m benchmarks.models [--only WORD]

Each model is loaded with random weights, traced, and its answer compared bit for bit with the unsplit one's at up to 4
of its single-tensor cuts, on an input that tracing did not see. Seconds are of CPU, on one thread. The table of
docs/profile.md is written by benchmarks.pages from docs/figures/models.json, a copy of what this prints.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks import _zoo
from testbed.errors import InputError
from testbed.inference.codec import raw
from testbed.inference.models import load_model
from testbed.inference.partition import SplitModel
from testbed.inference.torchvision_zoo import torchvision_models
from testbed.inference.tracing import trace

CUTS_TRIED = 4


def names() -> list[tuple[str, str]]:
    """(zoo, model) of all that is surveyed. Of torchvision's two large classifiers there are smaller ones of a kind."""
    models = torchvision_models()
    own = [name for name in models.list_models(module=models) if name not in ("regnet_y_128gf", "vit_h_14")]
    own += models.list_models(module=models.segmentation)
    own += [n for n in models.list_models(module=models.detection) if n.startswith(("ssd", "retinanet", "fcos"))]
    return [
        *(("transformers", f"benchmarks._zoo:{name}") for name in _zoo.TRANSFORMERS),
        *(("timm", f"benchmarks._zoo:timm_{name}") for name in _zoo.TIMM),
        *(("torchvision", f"torchvision:{name}") for name in reversed(own)),
    ]


def survey(zoo: str, name: str) -> dict[str, Any]:
    """One row; ``problem`` says why there is none."""
    short = name.partition(":")[2].removeprefix("timm_")
    try:
        model = load_model(name, 7)
        start = time.process_time()
        split = SplitModel(trace(model))
        seconds = time.process_time() - start
    except InputError as error:
        return {"zoo": zoo, "model": short, "problem": str(error)}
    graph = split.graph
    value = graph.model.signature.random(7, 11)
    (whole,) = split.partition(()).head(value)
    cuts = graph.chain_cuts[:-1]
    for cut in cuts[:: -(-len(cuts) // CUTS_TRIED)]:
        partition = split.partition(cut)
        if raw(partition.tail(partition.head(value))) != raw(whole):
            return {"zoo": zoo, "model": short, "problem": f"another answer at {cut}"}
    return {
        "zoo": zoo,
        "model": short,
        "nodes": len(graph.nodes),
        "cuts": len(graph.chain_cuts),
        "trace_seconds": round(seconds, 2),
        "opaque": list(dict.fromkeys(node.opaque for node in graph.nodes if node.opaque)),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A summary by zoo, and all models, in Markdown."""
    lines = ["| zoo | models | traced | with opaque nodes |", "|---|---|---|---|"]
    for zoo in dict.fromkeys(row["zoo"] for row in rows):
        own = [row for row in rows if row["zoo"] == zoo]
        traced = [row for row in own if "problem" not in row]
        lines.append(f"| {zoo} | {len(own)} | {len(traced)} | {sum(bool(row['opaque']) for row in traced)} |")
    lines += ["", "| model | nodes | cuts | trace, CPU s | opaque nodes |", "|---|---|---|---|---|"]
    for row in rows:
        if "problem" in row:
            lines.append(f"| {row['model']} | – | – | – | not traced |")
            continue
        opaque = ", ".join(f"`{path}`" for path in row["opaque"])
        lines.append(f"| {row['model']} | {row['nodes']} | {row['cuts']} | {row['trace_seconds']:.1f} | {opaque} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models with this in their name")
    asked = parser.parse_args()
    rows = []
    for zoo, name in names():
        if asked.only in name:
            rows.append(survey(zoo, name))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"models": rows}, indent=1))


if __name__ == "__main__":
    main()
