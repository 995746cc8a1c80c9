"""Does the same lab give the same result? N runs of a lab with one seed, as JSON on stdout.

    python -m benchmarks.repeat [--runs 5] [--seconds 20] [--runtime netns] [LAB.yaml]

Counts valid runs, gives the spread of the mean end-to-end delay, and how late trace steps were. About half a minute for
each run of 20 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._labs import ROOT, add_options, figures_of, read, run
from benchmarks._links import row
from testbed.report.fidelity.limits import NOT_MEASURED

QUICKSTART = ROOT / "topologies" / "quickstart.yaml"


#: Held by every run on a host that does not stand still: name -> target, s.
LATENESS = {"step_lateness_p99_seconds": 0.5e-3, "step_lateness_max_seconds": 2e-3}
#: Of the time: a host whose CPUs stand still for less is quiet.
QUIET_RATIO = 0.005


def result_of(directory: Path) -> dict[str, Any]:
    summary = read(directory, "summary")
    figures = figures_of(directory)
    return {
        "valid": summary["valid"],
        "invalid_reasons": summary["invalid_reasons"],
        "tasks": summary["tasks"],
        "mean_e2e_seconds": summary["e2e_delay_seconds"]["mean"],
        "stages_seconds": summary["stages_seconds"],
        "fidelity": summary["fidelity"],
        **{name: figures[name] for name in (*LATENESS, "longest_pause_seconds", "paused_ratio")},
    }


def spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the mean delays: the largest over the smallest, and the farthest from their mean, both minus 1."""
    means = np.array([result["mean_e2e_seconds"] for result in results])
    return {
        "runs": len(results),
        "valid": sum(result["valid"] for result in results),
        "mean_e2e_seconds": float(means.mean()),
        "largest_over_smallest": float(means.max() / means.min() - 1),
        "farthest_from_mean": float(np.abs(means / means.mean() - 1).max()),
        "relative_standard_deviation": float(means.std(ddof=1) / means.mean()) if len(means) > 1 else 0.0,
    }


def invalid(results: list[dict[str, Any]]) -> int:
    return sum(not result["valid"] for result in results)


def figures(asked: argparse.Namespace, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    what = f"{asked.lab.stem}, {len(results)} runs of {asked.seconds:g} s with one seed, {asked.runtime}"
    fives = [spread(results[start : start + 5]) for start in range(0, len(results) - 4, 5)] or [spread(results)]
    # a run that could not see the host's pauses is in neither
    quiet = [
        result for result in results if result["paused_ratio"] != NOT_MEASURED and result["paused_ratio"] < QUIET_RATIO
    ]
    most = max(one["largest_over_smallest"] for one in fives)
    return [
        row(f"{what}: not valid", invalid(results), "count", 0),
        row(
            f"{what}: not valid, of {len(quiet)} in which the host's CPUs stood still for less than {QUIET_RATIO:.1%}",
            invalid(quiet),
            "count",
            0,
        ),
        row(f"{what}: largest mean E2E delay over the smallest, of any five", most, "ratio", 0.05),
        *(
            row(
                f"{what}: step lateness, {name.split('_')[2]}, {which} run",
                float(quantile([result[name] for result in results])),
                "s",
                target,
            )
            for name, target in LATENESS.items()
            for which, quantile in (("median", np.median), ("worst", np.max))
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("lab", nargs="?", type=Path, default=QUICKSTART)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runtime", choices=("netns", "docker"), default="netns")
    add_options(parser)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folders = [folder / f"run-{number}" for number in range(1, asked.runs + 1)]
        for out in folders:
            run(asked.lab, out, asked.seconds, "--runtime", asked.runtime, "--name", "repeat", lock=asked.lock)
        results = [result_of(out) for out in folders]
    json.dump(
        {
            "lab": asked.lab.stem,
            "seconds": asked.seconds,
            "runtime": asked.runtime,
            "all": spread(results),
            # what a user who repeats a run five times sees
            "fives": [spread(results[start : start + 5]) for start in range(0, len(results) - 4, 5)],
            "runs": results,
            "figures": figures(asked, results),
        },
        sys.stdout,
        indent=1,
    )


if __name__ == "__main__":
    main()
