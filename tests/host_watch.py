"""What the host did while a test judged the clock: how long its CPUs stood still, and what others computed.

``python -m tests.host_watch FILE`` watches until its standard input ends and appends a line a second to FILE: a
process of its own, because sampling within the tests' would make the very threads late that are judged.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from testbed.programs.recorder.host_health import HostSampler
from testbed.runtime.processes.discovery import LAB_VARIABLE

#: In the environment of all that the tests start, containers excepted.
SESSION_VARIABLE = "TESTBED_TESTS"
PERIOD_SECONDS = 1.0

#: Beyond any of these the host was not quiet. Tests judge delays of 0.5 ms and rates of 1 %; a quiet machine's CPUs
#: stand still for less than 2 ms at once.
LONGEST_PAUSE_SECONDS = 4e-3
PAUSED_RATIO = 0.5e-2
STEAL_RATIO = 1e-2
FOREIGN_CORES = 0.15


class Sample(msgspec.Struct, frozen=True):
    """A period that ended at ``end_seconds`` (CLOCK_REALTIME: a guest's other clocks are its own)."""

    begin_seconds: float
    end_seconds: float
    paused_seconds: float
    longest_pause_seconds: float
    steal_ratio: float
    foreign_cores: float
    foreign_top: str


@dataclass(frozen=True)
class HostFigures:
    """Of a window: means, and the longest pause of a CPU; nan where nobody may watch for pauses."""

    paused_ratio: float
    longest_pause_seconds: float
    steal_ratio: float
    foreign_cores: float
    foreign_top: str

    def noise(self) -> str:
        """What was beyond its limit, with the figure; empty on a quiet host."""
        found = []
        if self.longest_pause_seconds > LONGEST_PAUSE_SECONDS or self.paused_ratio > PAUSED_RATIO:
            found.append(
                f"its CPUs stood still for {self.paused_ratio:.2%} of the time, "
                f"{self.longest_pause_seconds * 1e3:.1f} ms at once "
                f"(limits {PAUSED_RATIO:.1%}, {LONGEST_PAUSE_SECONDS * 1e3:g} ms)"
            )
        if self.steal_ratio > STEAL_RATIO:
            found.append(f"the hypervisor took {self.steal_ratio:.1%} of its time (limit {STEAL_RATIO:.0%})")
        if self.foreign_cores > FOREIGN_CORES:
            found.append(
                f"others computed on {self.foreign_cores:.2f} cores, most of it {self.foreign_top} "
                f"(limit {FOREIGN_CORES:g})"
            )
        return "; ".join(found)


def figures(samples: Iterable[Sample], begin_seconds: float, end_seconds: float) -> HostFigures:
    """Of the samples that overlap a window. Raises ValueError where there is none: nothing was watched."""
    chosen = [one for one in samples if one.end_seconds > begin_seconds and one.begin_seconds < end_seconds]
    if not chosen:
        raise ValueError("no sample of the host in this window")
    total = sum(one.end_seconds - one.begin_seconds for one in chosen)

    def mean(name: str) -> float:
        return float(sum(getattr(one, name) * (one.end_seconds - one.begin_seconds) for one in chosen) / total)

    return HostFigures(
        paused_ratio=sum(one.paused_seconds for one in chosen) / total,
        longest_pause_seconds=max(one.longest_pause_seconds for one in chosen),
        steal_ratio=mean("steal_ratio"),
        foreign_cores=mean("foreign_cores"),
        foreign_top=max(chosen, key=lambda one: one.foreign_cores).foreign_top,
    )


class HostWatch:
    """Watches the host from its construction on; ``folder`` takes the samples."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault(SESSION_VARIABLE, uuid.uuid4().hex)
        self._path = folder / "host.jsonl"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.host_watch", str(self._path)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
        )

    def figures(self, begin_seconds: float, end_seconds: float) -> HostFigures:
        """Of a window of the past (CLOCK_REALTIME); waits until its end has been sampled. Raises RuntimeError."""
        while True:
            samples = self._samples()
            if samples and samples[-1].end_seconds >= end_seconds:
                return figures(samples, begin_seconds, end_seconds)
            if self._process.poll() is not None:
                raise RuntimeError(f"the watch of the host ended with exit code {self._process.returncode}")
            time.sleep(0.05)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _samples(self) -> list[Sample]:
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")  # the last line may be in the making
        return msgspec.json.Decoder(Sample).decode_lines(whole)


def _of_the_tests(pid: int, environment: Collection[bytes]) -> bool:
    """What this session started; containers of labs, which get an environment of their own; and their engine."""
    if f"{SESSION_VARIABLE}={os.environ[SESSION_VARIABLE]}".encode() in environment:
        return True
    names = {entry.partition(b"=")[0] for entry in environment}
    if b"TESTBED_NODE" in names and LAB_VARIABLE.encode() not in names:
        return True
    try:
        program = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return False
    return program.startswith(("dockerd", "containerd"))


def main(path: Path) -> None:
    sampler = HostSampler(_of_the_tests)
    begin, due = time.time(), time.monotonic()
    with path.open("ab") as stream:
        ended = False
        while not ended:
            due += PERIOD_SECONDS
            ended = bool(select.select([sys.stdin], [], [], max(due - time.monotonic(), 0.0))[0])
            health, end = sampler.sample((), 0), time.time()
            sample = Sample(
                begin_seconds=begin,
                end_seconds=end,
                paused_seconds=health.paused_seconds,
                longest_pause_seconds=health.longest_pause_seconds,
                steal_ratio=health.steal_ratio,
                foreign_cores=health.foreign_cores,
                foreign_top=health.foreign_top,
            )
            stream.write(msgspec.json.encode(sample) + b"\n")
            stream.flush()
            begin = end
    sampler.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
