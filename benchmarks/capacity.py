"""How many UEs does this host carry? The quickstart lab with more and more of them, until a run is invalid; as JSON.

    python -m benchmarks.capacity [--seconds 15] [--runtime netns] [--attempts 2] [--ues 2 4 6 ...]

Each UE brings its own work and its own part of the edge (0.4 reference cores, as in the quickstart), so that tasks see
the same lab however many they are. A number counts as carried when one of ``--attempts`` runs is valid, so that a
stray pause of the host does not decide. The lab's own check, which refuses what is more than the host's cores make, is
told about and not in the way.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._labs import ROOT, add_options, figures_of, read, run
from benchmarks._links import row
from testbed.inference.calibration import calibration_of
from testbed.lab.checks import HOST_LOAD_LIMIT, host_load
from testbed.labfile.load import load
from testbed.runtime.host.facts import facts

QUICKSTART = ROOT / "topologies" / "quickstart.yaml"
EDGE_CPUS_PER_UE = 0.4


def overrides(ues: int) -> tuple[str, ...]:
    """The quickstart with so many UEs: radio and edge grow with them."""
    radio = f"{8 * ues / 3:.3f} MHz"
    return (
        f"ues.0.count={ues}",
        f"edge.cpus={EDGE_CPUS_PER_UE * ues:.2f}",
        f"radio.uplink={radio}",
        f"radio.downlink={radio}",
    )


def attempt(ues: int, out: Path, seconds: float, runtime: str, lock: Path | None) -> dict[str, Any]:
    settings = [argument for override in overrides(ues) for argument in ("--set", override)]
    run(QUICKSTART, out, seconds, "--runtime", runtime, "--name", "capacity", *settings, lock=lock)
    summary, figures = read(out, "summary"), figures_of(out)
    shown = ("overrun_ratio", "stage_time_error_p90", "step_lateness_p99_seconds", "busy_ratio", "lab_cores")
    return {
        "valid": summary["valid"],
        "invalid_reasons": summary["invalid_reasons"],
        "mean_e2e_seconds": summary["e2e_delay_seconds"]["mean"],
        **{name: figures[name] for name in shown},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--runtime", choices=("netns", "docker"), default="netns")
    parser.add_argument("--attempts", type=int, default=2)
    parser.add_argument("--ues", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7, 8, 10, 12, 16])
    add_options(parser)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="capacity-") as temporary:
        folder = asked.keep or Path(temporary)
        for ues in asked.ues:
            tries: list[dict[str, Any]] = []
            while len(tries) < asked.attempts and not any(one["valid"] for one in tries):
                out = folder / f"{ues}-ues-{len(tries) + 1}"
                tries.append(attempt(ues, out, asked.seconds, asked.runtime, asked.lock))
            load_ratio = host_load(load(QUICKSTART, overrides(ues)), calibration_of(facts().cpu)[0])
            rows.append({"ues": ues, "host_load_ratio": load_ratio, "carried": tries[-1]["valid"], "attempts": tries})
            print(f"{ues} UEs: {'valid' if tries[-1]['valid'] else 'invalid'}", file=sys.stderr)
            if not tries[-1]["valid"]:
                break
    most = max((row["ues"] for row in rows if row["carried"]), default=0)
    json.dump(
        {
            "lab": "quickstart",
            "runtime": asked.runtime,
            "seconds": asked.seconds,
            "most_ues_at_valid_fidelity": most,
            "host_load_limit": HOST_LOAD_LIMIT,
            "rows": rows,
            "figures": [row(f"UEs of the quickstart lab at valid fidelity, {asked.runtime}", most, "count")],
        },
        sys.stdout,
        indent=1,
    )


if __name__ == "__main__":
    main()
