"""LyMDO and its baselines in the testbed and in the simulator, same lab and seeds: delay and energy of each.

python -m benchmarks.lymdo.lab run --out build/lymdo-lab     every policy and seed; a run that is there is not repeated
python -m benchmarks.lymdo.lab table --out build/lymdo-lab   the table of docs/lymdo.md

A run takes its duration and some seconds; the nine policies and three seeds of the default take an hour.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq

from benchmarks.lymdo.labs import ROOT, simulated_lab

#: Each keeps those of the lab's options (V, checkpoint) that it has, too. Those that reach the budget first.
POLICIES = (
    "lymdo",
    "lymdo-equal",
    "myopic",
    "neurosurgeon+convex",
    "device-only+convex",
    "random+convex",
    "fixed+convex",  # with the best cut vector, see overrides_of
    "neurosurgeon",
    "delay-only",
)


@dataclass(frozen=True)
class Pair:
    """One policy and seed in the testbed and in the simulator."""

    policy: str
    seed: int
    measured: dict[str, Any]
    predicted: dict[str, Any]
    run: Path


def overrides_of(policy: str, lab: str) -> tuple[str, ...]:
    if policy != "fixed+convex":
        return (f"policy={policy}",)
    from benchmarks.lymdo.evaluate import best_fixed_cuts

    cuts = best_fixed_cuts(simulated_lab(lab), 1000, 1)
    return (f"policy={policy}", f"policy.cut={json.dumps(cuts)}")


def testbed(verb: str, lab: str, seed: int, overrides: Sequence[str], out: Path, *more: str) -> dict[str, Any] | None:
    """The summary that ``testbed VERB`` leaves in `out`; None when it failed (its text is in ``OUT.log``)."""
    if not (out / "summary.json").exists():
        arguments = [item for value in overrides for item in ("--set", value)]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".log").open("w") as log:
            command = [sys.executable, "-m", "testbed", verb, str(ROOT / f"{lab}.yaml"), *arguments]
            subprocess.run(
                [*command, "--seed", str(seed), "--out", str(out), *more],
                stdout=log, stderr=log, check=False, env=os.environ,
            )  # fmt: skip
    try:
        found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return found


def pairs(out: Path) -> Iterator[Pair]:
    for measured in sorted(out.glob("testbed/*/summary.json")):
        policy, _, seed = measured.parent.name.rpartition("-")
        predicted = out / "simulator" / measured.parent.name / "summary.json"
        if predicted.exists():
            yield Pair(
                policy, int(seed), json.loads(measured.read_text()), json.loads(predicted.read_text()), measured.parent
            )


def energy_ratios(run: Path, budget: Mapping[str, float], slots: int) -> dict[str, float]:
    """Per UE: its energy in a run over `slots` times its budget; what is charged after the last slot counts."""
    rows = pq.read_table(run / "slots.parquet", columns=["ue", "compute_joules", "transmit_joules"]).to_pydict()
    spent = dict.fromkeys(budget, 0.0)
    for ue, compute, transmit in zip(rows["ue"], rows["compute_joules"], rows["transmit_joules"], strict=True):
        spent[ue] += compute + transmit
    return {ue: joules / (slots * budget[ue]) for ue, joules in spent.items()}


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--lab", default="lymdo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/lymdo-lab"))
@click.option("--seeds", default="11,12,13")
@click.option("--duration", default=120, help="seconds")
@click.option("--only", default="", help="policies, comma-separated")
@click.option("--lock", type=click.Path(path_type=Path), default=None, help="hold this lock during each testbed run")
def run(lab: str, out: Path, seeds: str, duration: int, only: str, lock: Path | None) -> None:
    slots = round(duration / simulated_lab(lab).scenario.slot_seconds)
    wanted = [name for name in POLICIES if not only or name in only.split(",")]
    for seed in (int(value) for value in seeds.split(",")):
        for policy in wanted:
            overrides = overrides_of(policy, lab)
            name = f"{policy}-{seed}"
            testbed("simulate", lab, seed, overrides, out / "simulator" / name, "--slots", str(slots))
            with _held(lock):
                found = testbed("run", lab, seed, overrides, out / "testbed" / name, "--duration", f"{duration}s",
                                "--runtime", "netns")  # fmt: skip
            delay = None if found is None else found["e2e_delay_seconds"]["mean"]
            valid = None if found is None else found["valid"]
            click.echo(json.dumps({"policy": policy, "seed": seed, "mean_e2e_seconds": delay, "valid": valid}))


@main.command()
@click.option("--lab", default="lymdo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/lymdo-lab"))
@click.option("--duration", default=120, help="seconds, as it was for run")
def table(lab: str, out: Path, duration: int) -> None:
    scenario = simulated_lab(lab).scenario
    budget = {str(ue.name): ue.energy_budget_joules for ue in scenario.ues}
    slots = round(duration / scenario.slot_seconds)
    found = list(pairs(out))
    titles = ("policy", "testbed: mean E2E (s), each seed", "simulator (s)", "simulator / testbed",
              "energy / budget, each seed", "mean", "worst UE", "valid")  # fmt: skip
    click.echo(_row(titles))
    click.echo(_row(["---"] * len(titles)))
    rows = []
    for policy in POLICIES:
        mine = [pair for pair in found if pair.policy == policy]
        if not mine:
            continue
        measured = np.array([pair.measured["e2e_delay_seconds"]["mean"] for pair in mine])
        predicted = np.array([pair.predicted["e2e_delay_seconds"]["mean"] for pair in mine])
        ratios = np.array([list(energy_ratios(pair.run, budget, slots).values()) for pair in mine])
        valid = sum(pair.measured["valid"] for pair in mine)
        row = _row(
            (
                f"`{policy}`",
                f"{measured.mean():.3f} ({_each(measured, 3)})",
                f"{predicted.mean():.3f} ({_each(predicted, 3)})",
                _each(predicted / measured, 3),
                _each(ratios.mean(axis=1), 2),
                f"{ratios.mean():.2f}",
                f"{ratios.mean(axis=0).max():.2f}",
                f"{valid} of {len(mine)}",
            )
        )
        rows.append((float(measured.mean()), row))
    for _, row in sorted(rows):
        click.echo(row)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _each(values: np.ndarray, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


@contextlib.contextmanager
def _held(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
