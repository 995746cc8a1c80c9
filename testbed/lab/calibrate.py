"""Measuring this host's core as its stages would use it, and keeping what was found."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from testbed.inference.calibration import (
    KERNEL_REPETITIONS,
    MODEL_REPETITIONS,
    Calibration,
    Progress,
    calibration_of,
    calibration_path,
    measure,
    read_calibration,
    write_calibration,
)
from testbed.lab.checks import HOST_LOAD_LIMIT
from testbed.lab.plan import STAGE_PRIORITY
from testbed.runtime.host import realtime
from testbed.runtime.host.cgroups import detect
from testbed.runtime.host.facts import facts
from testbed.runtime.host.state import system_lock


def calibrate(
    models: Sequence[str],
    progress: Progress,
    python_path: Sequence[Path] = (),
    *,
    kernel_repetitions: int = KERNEL_REPETITIONS,
    model_repetitions: int = MODEL_REPETITIONS,
) -> tuple[Calibration, Path]:
    """Time the kernel and whole models, at the priority at which stages run here. Returns it and where it is kept.

    Models that were timed before on this processor stay. Raises InputError for a model that cannot be loaded.
    """
    host = facts()
    path = calibration_path()
    known, _ = calibration_of(host.cpu)

    def work() -> Calibration:
        return measure(
            models,
            cpu=host.cpu,
            cores=host.cores,
            realtime=host.realtime and _become_realtime(),
            progress=progress,
            python_path=python_path,
            kernel_repetitions=kernel_repetitions,
            model_repetitions=model_repetitions,
        )

    # a thread of its own, since it changes its priority (and, with cgroup v1, its group) for good
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(work).result()
    with system_lock():
        detect().prune()
    if known is not None:
        found = msgspec.structs.replace(found, models=known.models | found.models)
    write_calibration(found, path)
    return read_calibration(path), path


def describe(calibration: Calibration) -> str:
    """The figures of a calibration, in a line."""
    kernel = calibration.kernel
    carries = HOST_LOAD_LIMIT * calibration.cores / calibration.reference_core_fraction
    return (
        f"kernel of {calibration.kernel_macs / 1e6:.0f} M multiply-accumulates: p50 {kernel.p50_seconds * 1e3:.2f} ms, "
        f"p90 {kernel.p90_seconds * 1e3:.2f} ms, p99 {kernel.p99_seconds * 1e3:.2f} ms, n {kernel.n}, "
        f"{'SCHED_FIFO' if calibration.realtime else 'ordinary priority'}; the reference core is "
        f"{calibration.reference_core_fraction:g} of this core; edge cpus and speeds may sum to {carries:.3g}"
    )


def _become_realtime() -> bool:
    with system_lock():
        return realtime.make_fifo(detect(), threading.get_native_id(), STAGE_PRIORITY)
