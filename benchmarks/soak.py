"""Does anything grow? A long run of the quickstart at 20 tasks/s, as JSON on stdout.

    python -m benchmarks.soak [--minutes 60] [--rate 20] [--runtime netns] [--keep FOLDER] [LAB.yaml]

Every ten seconds it looks at each process of the lab (resident, proportional and private memory, descriptors, threads),
at the size of the lab's directory under /run and of the run directory. Afterwards: by process the slope of each with
its interval, and the largest memory that ``testbed report`` takes, of a quarter of the records and of all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks._labs import ROOT, read
from testbed.labfile.load import load
from testbed.runtime.host.state import state_root
from testbed.runtime.processes.discovery import processes

QUICKSTART = ROOT / "topologies" / "quickstart.yaml"
PERIOD_SECONDS = 10.0
#: Means of so many stretches of a series are as good as independent of each other.
STRETCHES = 12
#: The first part is left out: caches fill, the allocator finds its level.
WARM_UP_RATIO = 0.1
#: A command that only imports what `report` needs, to tell its records from its libraries.
IMPORTS_ONLY = "import testbed.report.conclude"

Sample = dict[str, float]


def sample_process(pid: int) -> Sample:
    """Memory in kB, descriptors and threads. Raises OSError for one that has ended."""
    memory = {
        line.split(":")[0]: float(line.split()[1])
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    }
    return {
        "rss_kb": memory["Rss"],
        "pss_kb": memory["Pss"],
        "private_kb": memory["Private_Clean"] + memory["Private_Dirty"],
        "descriptors": float(len(os.listdir(f"/proc/{pid}/fd"))),  # noqa: PTH208
        "threads": float(len(os.listdir(f"/proc/{pid}/task"))),  # noqa: PTH208
    }


def name_of(pid: int) -> str:
    """A process by what it does; two of one name would be one series. Raises OSError."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    node = next((one.partition(b"=")[2].decode() for one in variables if one.startswith(b"TESTBED_NODE=")), "")
    comm = Path(f"/proc/{pid}/comm").read_text().strip()
    return f"{node} ({comm})" if node and node not in comm else comm


def used_kb(folder: Path) -> float:
    """Of all files below it: what they take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total / 1024


def slope(minutes: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Growth a minute with its 95 % interval, over means of :data:`STRETCHES` stretches after the warm-up."""
    skip = int(len(values) * WARM_UP_RATIO)
    size = (len(values) - skip) // STRETCHES
    result = {"first": values[0], "last": values[-1], "largest": max(values)}
    if size < 1:
        return result
    used = slice(len(values) - size * STRETCHES, None)
    x = np.asarray(minutes[used]).reshape(STRETCHES, size).mean(axis=1)
    y = np.asarray(values[used]).reshape(STRETCHES, size).mean(axis=1)
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, STRETCHES - 2)) * float(line.stderr)
    return result | {
        "per_minute": float(line.slope),
        "per_minute_low": float(line.slope) - half,
        "per_minute_high": float(line.slope) + half,
    }


class Watch:
    """Series by process, since it was made."""

    def __init__(self, lab: str, run_directory: Path) -> None:
        self._lab = lab
        self._run_directory = run_directory
        self._start = time.monotonic()
        self._series: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._minutes: dict[str, list[float]] = defaultdict(list)

    def look(self, command_pid: int) -> None:
        """One sample, as long as the lab is there: what its report takes is another question."""
        pids = processes(self._lab)
        if not pids:
            return
        minutes = (time.monotonic() - self._start) / 60
        found: dict[str, Sample] = {
            "files": {
                "run_kb": used_kb(state_root() / self._lab),
                "streams_kb": used_kb(self._run_directory / "streams"),
                "run_directory_kb": used_kb(self._run_directory),
            }
        }
        for pid in (command_pid, *pids):
            try:
                name = "testbed run" if pid == command_pid else name_of(pid)
                found[name] = sample_process(pid)
            except OSError:
                continue
        for name, values in found.items():
            self._minutes[name].append(minutes)
            for what, value in values.items():
                self._series[name][what].append(value)

    def slopes(self) -> dict[str, dict[str, dict[str, float]]]:
        return {
            name: {what: slope(self._minutes[name], values) for what, values in series.items()}
            for name, series in sorted(self._series.items())
            if len(self._minutes[name]) > 1
        }

    def raw(self) -> dict[str, Any]:
        return {name: {"minutes": self._minutes[name], **series} for name, series in self._series.items()}


def peak_kb(command: list[str]) -> tuple[int, float]:
    """The largest memory of a command, and its seconds of CPU. Raises SystemExit if it fails."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 4):
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return usage.ru_maxrss, usage.ru_utime + usage.ru_stime


def cut_streams(run_directory: Path, into: Path, part: float) -> None:
    """A run whose recorder died early: what comes after ``part`` of each stream was never written."""
    for path in run_directory.rglob("*"):
        if path.is_file() and path.suffix not in (".parquet", ".html"):
            target = into / path.relative_to(run_directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in (into / "streams").iterdir():
        os.truncate(path, int(path.stat().st_size * part))


def report_memory(run_directory: Path, folder: Path) -> dict[str, Any]:
    """Peak memory of ``testbed report``: its libraries alone, of parts of the run, of all of it."""
    result: dict[str, Any] = {"libraries_kb": peak_kb([sys.executable, "-c", IMPORTS_ONLY])[0]}
    for part in (0.5, 1.0):
        copy = folder / f"part-{part:g}"
        cut_streams(run_directory, copy, part)
        peak, seconds = peak_kb([sys.executable, "-m", "testbed", "report", str(copy)])
        tasks = read(copy, "summary")["tasks"]["arrived"]
        result[f"{part:g}"] = {"tasks": tasks, "peak_kb": peak, "cpu_seconds": seconds}
        shutil.rmtree(copy)
    return result


def soak(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The run under watch; its lab has a name of its own."""
    topology = load(arguments.lab)
    rates = [
        f"--set=ues.{index}.arrivals.rate={arguments.rate / len(topology.expand())!r} /s"
        for index in range(len(topology.ues))
    ]
    name, out = f"soak-{os.getpid()}", folder / "run"
    command = [sys.executable, "-P", "-m", "testbed", "run", str(arguments.lab), "--name", name, "--out", str(out)]
    command += ["--duration", f"{arguments.minutes:g}min", "--runtime", arguments.runtime, *rates, *arguments.option]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        while process.poll() is None and not (out / "manifest.json").exists():
            time.sleep(0.1)
        watch = Watch(name, out)
        due = time.monotonic()
        while process.poll() is None:
            watch.look(process.pid)
            due += PERIOD_SECONDS
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(due - time.monotonic(), 0.0))
    (folder / "samples.json").write_text(json.dumps(watch.raw()))
    return {
        "command": " ".join(command[2:]),
        "exit_code": process.returncode,
        "summary": {key: read(out, "summary")[key] for key in ("valid", "invalid_reasons", "tasks", "unstable")},
        "bytes_a_task": bytes_a_task(out),
        "growth": watch.slopes(),
        "report": report_memory(out, folder),
    }


def bytes_a_task(run_directory: Path) -> dict[str, float]:
    """Of each stream, over the tasks that arrived: what an hour of them takes on disk."""
    tasks = max(read(run_directory, "summary")["tasks"]["arrived"], 1)
    return {path.stem: path.stat().st_size / tasks for path in sorted((run_directory / "streams").iterdir())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lab", nargs="?", type=Path, default=QUICKSTART)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=20.0, help="tasks a second, of all UEs together")
    parser.add_argument("--runtime", default="netns", choices=("netns", "docker"))
    parser.add_argument("--keep", type=Path, help="a new folder for the run and the samples (default: removed)")
    parser.add_argument("--option", action="append", default=[], help="one more option of testbed run")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        place.mkdir(parents=True, exist_ok=True)
        print(json.dumps(soak(given, place), indent=1))
