"""A recorded radio link, played: ``python -m benchmarks.links_mahimahi [FILE.up] [--seconds 60] [--runs 5]``, as JSON.

Plays a Mahimahi trace (the shipped one unless another is named) on a saturated wire and compares what arrived, over
all of it and over every 5 s, with the trace; beside it the same trace with HTB told nothing but each step's rate.
Windows in which next to nothing may be delivered are compared by frames. Needs root; a minute a run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks._links import Played, equal_spectrum, play, rate_scenario, row, undisturbed, wires
from controller.frames import FRAME_BITS
from controller.model.outage import OUTAGE_BITS_PER_SECOND
from testbed.programs.player import playback
from testbed.programs.player.realtime import be_punctual
from testbed.traces import Trace, read_mahimahi
from testbed.wires.frames import Course

SHIPPED = Path(__file__).parents[1] / "topologies" / "traces" / "drive.up"
WINDOW_SECONDS = 5.0
#: Less than this in a window is an outage that is let through, not a rate.
JUDGED_BITS = 100 * FRAME_BITS


@contextmanager
def nothing_ahead() -> Iterator[None]:
    """HTB is told each step's rate when the step comes, as a player without foresight does it."""

    def told(course: Course) -> list[tuple[float, float]]:
        at, rate = course(0)
        return [(at, rate or OUTAGE_BITS_PER_SECOND)]

    with mock.patch.object(playback, "leading_over", told):
        yield


def planned_and_carried(played: Played, trace: Trace, start: float, end: float) -> tuple[float, float]:
    """Bits, between the readings of the counters next to two times of the trace."""
    origin = played.origin_seconds
    begin, until, carried = played.counter.between(origin + start, origin + end)
    return trace.mean(max(0.0, begin - origin), until - origin).up * (until - begin), carried


def errors(played: Played, trace: Trace) -> dict[str, Any]:
    """Against the trace itself, not against what was applied."""
    end = played.seconds

    def ratio(start: float, width: float) -> float:
        asked, carried = planned_and_carried(played, trace, start, start + width)
        return carried / asked - 1

    starts = [k * 0.5 for k in range(int((end - WINDOW_SECONDS) * 2) + 1)]
    judged = [k for k in starts if trace.mean(k, k + WINDOW_SECONDS).up * WINDOW_SECONDS >= JUDGED_BITS]
    windows = [ratio(start, WINDOW_SECONDS) for start in judged]
    beyond = [error for error in played.errors(WINDOW_SECONDS, 0.0, 0.5) if error.beyond]
    return {
        "whole": ratio(0.0, end),
        "worst_window": max(windows, key=abs),
        "windows": len(windows),
        "windows_beyond_1_percent": sum(abs(window) > 0.01 for window in windows),
        "windows_beyond_1_percent_and_2_frames_of_applied": len(beyond),
        "lateness_max_seconds": max(played.lateness_seconds),
    }


def series(played: Played, plain: Played, trace: Trace, step_seconds: float = 0.5) -> dict[str, list[float]]:
    """For the plot: rates in short windows, and by how many frames more than planned arrived since the start."""
    starts = [k * step_seconds for k in range(int(played.seconds / step_seconds))]
    both = [planned_and_carried(played, trace, start, start + step_seconds) for start in starts]

    def excess(each: Played) -> list[float]:
        sums = [planned_and_carried(each, trace, 0.0, start + step_seconds) for start in starts]
        return [(carried - asked) / FRAME_BITS for asked, carried in sums]

    return {
        "start_seconds": starts,
        "planned_bits_per_second": [asked / step_seconds for asked, _ in both],
        "achieved_bits_per_second": [carried / step_seconds for _, carried in both],
        "excess_frames": excess(played),
        "plain_excess_frames": excess(plain),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, default=SHIPPED)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    refused = be_punctual(10)
    scenario, specs = rate_scenario(1), wires(1)
    trace = read_mahimahi(asked.file)
    whole = equal_spectrum(scenario, 1.0)

    def once() -> Played:
        return play(specs, scenario, {"ue0": trace}, asked.seconds, whole)[0]

    found = [undisturbed(once, tries=2) for _ in range(asked.runs)]
    with nothing_ahead():
        unled, unled_slept = undisturbed(once, tries=2)
    played = [each for each, _ in found]
    runs = [{**errors(each, trace), "host_slept_ratio": slept} for each, slept in found]
    plain = {**errors(unled, trace), "host_slept_ratio": unled_slept}
    what = f"{asked.file.name}, {asked.seconds:g} s"
    rows = [
        row(
            f"{what}: bytes over all of it, worst of {asked.runs} runs",
            max(abs(run["whole"]) for run in runs),
            "ratio",
            0.002,
            alternative={"HTB told each step's rate": abs(plain["whole"])},
        ),
        row(
            f"{what}: bytes over 5 s, worst window of {asked.runs} runs",
            max(abs(run["worst_window"]) for run in runs),
            "ratio",
            0.01,
            alternative={"HTB told each step's rate": abs(plain["worst_window"])},
        ),
    ]
    result = {"refused": refused, "figures": rows, "runs": runs, "plain": plain}
    print(json.dumps({**result, "series": series(played[0], unled, trace)}, indent=1))


if __name__ == "__main__":
    main()
