"""How exactly are CPUs slowed down? Ours in whole labs, and plain ``docker run --cpus`` beside it, as JSON on stdout.

    python -m benchmarks.slowdown [--seconds 20] [--part netns|docker|rootless|plain ...]

Ours: labs whose UEs compute heads and whose edge computes tails of MobileNetV2 and ResNet-18 at four fifths of what
they can carry: three UEs at 0.1, 0.2 and 0.25 of a reference core with an edge at 0.8, and one UE at 0.5 and at 1.0. A
stage's target is the profile's time over the speed. Plain: the same stages in containers with the same shares of a
core, where a target is the time of the same container without a limit, over the same share. Stages of 5 ms and more.

Root is needed (and an engine for docker and plain); the rootless labs run as user ``nobody``. Four minutes a part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._as_user import USER
from benchmarks._labs import ROOT, add_options, alone, figures_of, read, run
from benchmarks._links import row
from testbed.inference.profiles import REFERENCE_CORE_FRACTION, read_profile
from testbed.records.tables import column, read_tables
from testbed.report.fidelity.limits import JUDGED_STAGE_SECONDS

PARTS = ("netns", "docker", "rootless", "plain")
#: A cut in the first half, where neither part is short.
CUTS = {"mobilenet_v2": "features_2_conv_2", "resnet18": "add_2"}
SPEEDS = ((0.1, 0.2, 0.25), (0.5,), (1.0,))
EDGE_CPUS = 0.8
LOAD = 0.8
#: A plain stage that ends later than this part of its target after it has overrun.
LATE_RATIO = 0.0005


@dataclass(frozen=True)
class Place:
    """Where labs and their runs are, and what keeps other measurements away meanwhile."""

    folder: Path
    lock: Path | None


def quantiles(errors: NDArray[np.float64]) -> dict[str, float]:
    p50, p90, p99 = (float(value) for value in np.quantile(np.abs(errors), (0.5, 0.9, 0.99)))
    return {"error_p50": p50, "error_p90": p90, "error_p99": p99, "error_max": float(np.abs(errors).max())}


# ----------------------------------------------------------------------------------------------------------------- ours


def arrival_rate(model: str, speed: float, ues: int) -> float:
    """Tasks per second that keep the slower of device and edge busy for ``LOAD`` of the time."""
    profile = read_profile(ROOT / "topologies" / "profiles" / f"{model}.json")
    place = [cut[0] if len(cut) == 1 else "" for cut in profile.chain_cuts].index(CUTS[model])
    slowest = max(profile.head_seconds[place] / speed, profile.tail_seconds[place] / (EDGE_CPUS / ues))
    return LOAD / slowest


def lab_text(model: str, speeds: tuple[float, ...]) -> str:
    ues = [
        f"  - {{name: s{round(speed * 100):03d}, speed: {speed}, channel: {{fading: static, distance: 100 m}},\n"
        f"     arrivals: {{process: poisson, rate: {arrival_rate(model, speed, len(speeds)):.3f} /s}}}}\n"
        for speed in speeds
    ]
    return (
        f"name: slowdown\nseed: 7\nslot: 0.5 s\nmodel: torchvision:{model}\n"
        f"profile: {ROOT / 'topologies' / 'profiles' / model}.json\n"
        f"codec: {{input: uint8, boundary: uint8}}\nedge: {{cpus: {EDGE_CPUS}, gpu: off}}\n"
        "radio: {uplink: 20 MHz, downlink: 20 MHz, noise: -165 dBm/Hz, access: ofdma}\n"
        f"ues:\n{''.join(ues)}policy: {{name: fixed, cut: {CUTS[model]}}}\n"
        "monitoring: {prometheus: off, grafana: off}\n"
    )


def one_lab(part: str, model: str, speeds: tuple[float, ...], seconds: float, place: Place) -> list[dict[str, Any]]:
    """Run a lab; a row for each UE's heads, and one for all tails."""
    label = f"{part}-{model}-{'-'.join(f'{speed:g}' for speed in speeds)}"
    lab, out = place.folder / f"{label}.yaml", place.folder / label
    lab.write_text(lab_text(model, speeds))
    if part == "rootless":
        os.chown(place.folder, USER.pw_uid, USER.pw_gid)
    runtime = "docker" if part == "docker" else "netns"
    arguments = ("--name", f"slowdown-{part}", "--runtime", runtime)
    run(lab, out, seconds, *arguments, lock=place.lock, as_user=part == "rootless")
    fidelity = read(out, "fidelity")
    # of the host's CPUs: a stage that has less to spare overruns
    longest_pause_seconds = figures_of(out)["longest_pause_seconds"]
    tasks = read_tables(out).tasks
    rows = []
    for speed, ue in (*((speed, f"s{round(speed * 100):03d}") for speed in speeds), (EDGE_CPUS, None)):
        stage = "tail" if ue is None else "head"
        mine = tasks if ue is None else tasks.filter(column(tasks, "ue") == ue)
        target = column(mine, f"{stage}_target_seconds").astype(np.float64)
        achieved = column(mine, f"stage_{stage}_seconds").astype(np.float64)
        judged = (target >= JUDGED_STAGE_SECONDS) & np.isfinite(achieved)
        counted = [one["stages"][stage] for name, one in fidelity["ues"].items() if ue in (None, name)]
        rows.append(
            {
                "model": model,
                "speeds": speeds,
                "stage": stage,
                "speed": speed,
                "stages": int(judged.sum()),
                "target_seconds": float(np.median(target[judged])),
                **quantiles(achieved[judged] / target[judged] - 1),
                "overrun_ratio": sum(one["overruns"] for one in counted) / sum(one["stages"] for one in counted),
                "longest_pause_seconds": longest_pause_seconds,
                "valid": fidelity["valid"],
                "invalid_reasons": fidelity["invalid_reasons"],
            }
        )
    return rows


def ours(part: str, seconds: float, place: Place) -> list[dict[str, Any]]:
    return [row for model in CUTS for speeds in SPEEDS for row in one_lab(part, model, speeds, seconds, place)]


# ---------------------------------------------------------------------------------------------------------------- plain


class Plain:
    """One container with a plain limit on its CPU."""

    def __init__(self, image: str, name: str, model: str, stage: str) -> None:
        self.name, self.stage = name, stage
        script = (ROOT / "benchmarks" / "_plain_stage.py").read_text()
        arguments = ["docker", "run", "--rm", "--interactive", "--network", "none", "--name", name, image]
        self._process = subprocess.Popen(
            [*arguments, "python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._say({"model": f"torchvision:{model}", "cut": CUTS[model], "stage": stage})
        self.free_seconds = float(np.median(self._hear()["free_seconds"]))

    def _say(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def limit(self, speed: float) -> None:
        """The same share of a host's core that the emulated device has."""
        cpus = speed * REFERENCE_CORE_FRACTION
        subprocess.run(["docker", "update", "--cpus", f"{cpus:g}", self.name], check=True, stdout=subprocess.DEVNULL)

    def begin(self, seconds: float, speed: float) -> None:
        target = self.free_seconds / (speed * REFERENCE_CORE_FRACTION)
        self._say({"seconds": seconds, "interval_seconds": target / LOAD})

    def errors(self, speed: float) -> tuple[float, NDArray[np.float64]]:
        """(target, relative errors)."""
        target = self.free_seconds / (speed * REFERENCE_CORE_FRACTION)
        return target, np.array(self._hear()["stage_seconds"]) / target - 1

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)


def plain(seconds: float, place: Place) -> list[dict[str, Any]]:
    from testbed.runtime.docker.client import connect
    from testbed.runtime.docker.images import ensure_node_image

    image = ensure_node_image(connect(), "cpu", lambda line: print(line, file=sys.stderr))
    rows: list[dict[str, Any]] = []
    for model in CUTS:
        for speeds in SPEEDS:
            kept = place.folder / f"plain-{model}-{'-'.join(f'{speed:g}' for speed in speeds)}.json"
            if not kept.exists():
                with alone(place.lock):
                    kept.write_text(json.dumps(plain_containers(image, model, speeds, seconds)))
            rows += json.loads(kept.read_text())
    return rows


def plain_containers(image: str, model: str, speeds: tuple[float, ...], seconds: float) -> list[dict[str, Any]]:
    wanted = [*((speed, "head") for speed in speeds), (EDGE_CPUS, "tail")]
    containers: list[Plain] = []
    rows = []
    try:
        for number, (_, stage) in enumerate(wanted):  # one after the other: each is timed on a free host
            containers.append(Plain(image, f"slowdown-plain-{os.getpid()}-{number}", model, stage))
        for container, (speed, _) in zip(containers, wanted, strict=True):
            container.limit(speed)
        for container, (speed, _) in zip(containers, wanted, strict=True):
            container.begin(seconds, speed)
        for container, (speed, stage) in zip(containers, wanted, strict=True):
            target, errors = container.errors(speed)
            rows.append(
                {"model": model, "speeds": speeds, "stage": stage, "speed": speed, "stages": len(errors)}
                | {"target_seconds": target, **quantiles(errors)}
                | {"overrun_ratio": float((errors > LATE_RATIO).mean())}
            )
    finally:
        for container in containers:
            container.close()
    return rows


#: (of an emulated stage, p50, p90, overruns): with real-time priority and without.
TARGETS = {"netns": (0.003, 0.01, 0.01), "docker": (0.003, 0.01, 0.01), "rootless": (0.02, 0.15, 0.10)}


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The worst of all models, stages and speeds, by part, and what plain limits do beside it."""
    shown = []
    for part, targets in TARGETS.items():
        for name, said, target in zip(
            ("error_p50", "error_p90", "overrun_ratio"), ("error, p50", "error, p90", "overruns"), targets, strict=True
        ):
            if part in found:
                what = f"stage time against its target, {part}, worst of all models and speeds: {said}"
                plain_worst = {"docker run --cpus": worst(found["plain"], name)} if "plain" in found else {}
                shown.append(row(what, worst(found[part], name), "ratio", target, alternative=plain_worst))
    return shown


def worst(rows: list[dict[str, Any]], name: str) -> float:
    return max(float(one[name]) for one in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--part", action="append", choices=PARTS)
    add_options(parser)
    asked = parser.parse_args()
    found: dict[str, Any] = {"seconds": asked.seconds, "edge_cpus": EDGE_CPUS, "load": LOAD}
    with tempfile.TemporaryDirectory(prefix="slowdown-") as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(folder.absolute(), asked.lock)
        failed = []
        for part in asked.part or PARTS:
            try:
                found[part] = plain(asked.seconds, place) if part == "plain" else ours(part, asked.seconds, place)
            except (SystemExit, OSError, subprocess.SubprocessError) as error:  # the other parts are not lost
                failed.append(part)
                print(f"{part}: {error}", file=sys.stderr)
    json.dump({**found, "figures": figures(found)}, sys.stdout, indent=1)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
