"""Delay and losses of wires: ``python -m benchmarks links_delay``, as JSON. Needs root; two minutes a kernel.

One-way delay, idle, of 1 to 100 ms; losses of 0.1 to 10 % against their 99 % interval; the mean length of
Gilbert-Elliott bursts. By netem where this kernel has it, else by vde; where it has not and a guest can be booted, in
the guest with netem, too (tests/netem).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmarks._links import name, row, wired
from testbed.wires import capabilities
from testbed.wires.impairment import GilbertElliott, Impairment
from testbed.wires.selftest import Arrivals, directions, one_way
from testbed.wires.wire import WireSpec

DELAYS_SECONDS = (1e-3, 2.5e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3)
LOSSES = {0.001: 40_000, 0.01: 20_000, 0.1: 10_000}  # ratio -> packets
BURSTS, BURST_PACKETS = GilbertElliott(p=0.02, r=0.25), 60_000
RATE = 100e6


def measured(impairment: Impairment, count: int, interval_seconds: float) -> Arrivals:
    """Small packets up a wire of its own."""
    wire = WireSpec(0, "ue0", RATE, RATE, up=impairment, down=impairment, seed=1)
    with wired([wire]):
        (uplink, _) = directions([wire], name)
        return one_way([uplink], count, interval_seconds, impairment.delay_seconds + 0.5)[uplink.name]


def delays(by: str) -> list[dict[str, Any]]:
    rows = []
    floor, ratio = (0.3e-3, 0.01) if by == "netem" else (0.6e-3, 0.02)
    for asked in DELAYS_SECONDS:
        # not a whole number of milliseconds: vde's clock is in those
        found = np.array(list(measured(Impairment(delay_seconds=asked), 300, 7.3e-3).seconds.values()))
        spread = [float(value) - asked for value in np.quantile(found, (0.05, 0.95))]
        error = abs(float(np.median(found)) - asked)
        what = f"{by}: one-way delay of {asked * 1e3:g} ms, error of the median"
        rows.append(row(what, error, "s", max(floor, ratio * asked), error_p5_p95_seconds=spread))
    return rows


def losses(by: str) -> list[dict[str, Any]]:
    rows = []
    for asked, count in LOSSES.items():
        arrivals = measured(Impairment(loss_ratio=asked), count, 2e-4)
        lost = arrivals.sent - len(arrivals.seconds)
        low, high = (int(bound) for bound in binom.interval(0.99, count, asked))
        rows.append(
            row(
                f"{by}: loss of {asked * 100:g} %, {count} packets",
                lost / count,
                "ratio",
                interval=[low / count, high / count],
                ok=low <= lost <= high,
            )
        )
    return rows


def bursts(by: str) -> dict[str, Any]:
    arrivals = measured(Impairment(bursts=BURSTS), BURST_PACKETS, 2e-4)
    arrived = np.zeros(arrivals.sent, dtype=bool)
    arrived[list(arrivals.seconds)] = True
    ends = np.diff(np.concatenate(([True], arrived, [True])).astype(int))
    lengths = np.flatnonzero(ends == 1) - np.flatnonzero(ends == -1)
    mean = float(lengths.mean())
    what = f"{by}: bursts of {1 / BURSTS.r:g} packets (Gilbert-Elliott), error of their mean length"
    return row(what, abs(mean * BURSTS.r - 1), "ratio", 0.1, mean_packets=mean, bursts=len(lengths))


def here() -> list[dict[str, Any]]:
    by = capabilities.probe().delayer
    if by is None:
        return []
    return [*delays(by), *losses(by), bursts(by)]


def in_guest() -> tuple[list[dict[str, Any]], str]:
    """The same in a guest whose kernel has netem; and why not, if it was not done."""
    from tests.netem import uml

    if reason := uml.missing():
        return [], reason
    with tempfile.TemporaryDirectory(prefix="bench-guest-") as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.links_delay", "--here", "--out", str(out)]
        answer = uml.run_in_guest(
            command, Path(folder), timeout_seconds=600, echo=lambda line: print(line, file=sys.stderr, flush=True)
        )
        if answer.exit_code != 0:
            return [], answer.output
        return json.loads(out.read_text())["figures"], ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--here", action="store_true", help="no guest")
    parser.add_argument("--out", type=Path, help="a file instead of stdout")
    asked = parser.parse_args()
    rows, guest = here(), "not asked for"
    if not asked.here and not capabilities.probe().netem:
        more, guest = in_guest()
        rows += more
    text = json.dumps({"figures": rows, "guest": guest}, indent=1)
    if asked.out is None:
        print(text)
    else:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
