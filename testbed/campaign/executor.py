"""Where jobs are computed: an executor takes them and gives their outcomes as they come. Here: on this host.

Simulations and trainings take a core each, in processes that stay: what they have imported and compiled serves all
their jobs. Labs want the host for themselves, so they run one at a time, when nothing else does.
"""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from testbed.campaign.following import end_with_parent
from testbed.campaign.jobs import Job, LabRun, Outcome, Simulation, Status, Training, judged
from testbed.errors import TestbedError
from testbed.runtime.host.facts import facts

#: One thread each: there are as many processes as cores, and what they compute does not depend on how many.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
#: Exit code of a run that came to its end, but whose figures must not be used.
INVALID = 4


class Executor(Protocol):
    def expect(self, jobs: int) -> None:
        """So many simulations are about to be submitted: what takes time to start may do so."""

    def submit(self, job: Job) -> None: ...

    def results(self) -> Iterator[Outcome]:
        """Outcomes as they come, until nothing that was submitted is left; more may be submitted meanwhile."""

    def running(self) -> dict[str, str]:
        """Host by key of the jobs that are being computed."""

    def close(self) -> None:
        """End what is being computed."""


class Here:
    """On this host: ``processes`` of its cores (all, if not given)."""

    def __init__(self, notify: Callable[[str], None], processes: int | None = None) -> None:
        self._notify = notify
        self._processes = processes or max(1, int(facts().cores))
        self._jobs: deque[Simulation | Training] = deque()
        self._labs: deque[LabRun] = deque()
        self._lab: LabRun | None = None
        self._workers: list[Worker] = []

    def expect(self, jobs: int) -> None:
        while len(self._workers) < min(self._processes, jobs):
            self._workers.append(Worker())

    def submit(self, job: Job) -> None:
        if isinstance(job, LabRun):
            self._labs.append(job)
        else:
            self._jobs.append(job)
            self._hand_out()

    def running(self) -> dict[str, str]:
        keys = [worker.job.key for worker in self._workers if worker.job is not None]
        return dict.fromkeys([*keys, self._lab.key] if self._lab else keys, platform.node())

    def results(self) -> Iterator[Outcome]:
        while True:
            busy = [worker for worker in self._workers if worker.job is not None]
            if busy:
                outcomes = [worker.outcome() for worker in _answering(busy)]
                self._workers = [worker for worker in self._workers if worker.alive]
                self._hand_out()
                yield from outcomes
            elif self._labs:
                self.close()  # idle processes, too, are not the lab's
                self._lab = self._labs.popleft()
                outcome = _run_lab(self._lab, self._notify)
                self._lab = None
                yield outcome
            else:
                return

    def _hand_out(self) -> None:
        self.expect(len(self._jobs) + sum(worker.job is not None for worker in self._workers))
        for worker in self._workers:
            if worker.job is None and self._jobs:
                worker.begin(self._jobs.popleft())

    def close(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []


class Worker:
    """A process of :mod:`testbed.campaign.worker`."""

    def __init__(self) -> None:
        self.job: Simulation | Training | None = None
        self.alive = True
        self._begin = 0.0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "testbed.campaign.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
        )

    def begin(self, job: Simulation | Training) -> None:
        assert self._process.stdin is not None
        self.job, self._begin = job, time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it has died: its answer is the end of the file
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def outcome(self) -> Outcome:
        """Of the job that it has; waits for it. A process that dies has failed with its job, and is not used again."""
        assert self._process.stdout is not None
        assert self.job is not None
        job, self.job = self.job, None
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            return msgspec.json.decode(line, type=Outcome)
        self.end()
        code = self._process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        seconds = time.perf_counter() - self._begin
        return Outcome(job.key, "failed", seconds, platform.node(), f"its process ended: {how}")

    def end(self) -> None:
        """Nothing of a job is worth waiting for: an unfinished one is computed again."""
        self.alive = False
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self.job is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _answering(workers: list[Worker]) -> list[Worker]:
    """Those that have something to say; waits for the first."""
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select() if isinstance(key.fileobj, Worker)]


def _run_lab(job: LabRun, notify: Callable[[str], None]) -> Outcome:
    """``testbed run``, in a process that finds its own user namespace and takes its lab down whatever happens."""
    begin = time.perf_counter()
    shutil.rmtree(job.directory, ignore_errors=True)
    sets = [argument for override in job.overrides for argument in ("--set", override)]
    length = ("--duration", f"{job.duration_seconds!r}s", "--runtime", job.runtime)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "testbed", "run", job.file, *sets, *length, "--out", job.directory, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches it once, below
        preexec_fn=end_with_parent,
    )
    assert process.stderr is not None
    error = ""
    try:
        for line in process.stderr:
            if line.startswith("error: "):
                error = line.removeprefix("error: ").strip()
            elif line.startswith("warning: "):
                notify(line.strip())
        code = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    status: Status = "failed"
    text = error or f"`testbed run` ended with exit code {code}"
    if code in (0, INVALID):
        try:
            status, text = judged(Path(job.directory))
        except TestbedError as found:
            text = str(found)
    return Outcome(job.key, status, time.perf_counter() - begin, platform.node(), text)
