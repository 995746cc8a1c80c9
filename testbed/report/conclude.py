"""The end of a run, or of what is left of one: tables, fidelity, summary, report."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from testbed.errors import InputError
from testbed.records.manifest import SIMULATOR, read_manifest
from testbed.records.tables import finalise
from testbed.report.fidelity.fidelity import assess, write_fidelity
from testbed.report.html import write_report
from testbed.report.summary import Summary, summarise, write_summary


def conclude(run_directory: Path, *, warm_up_seconds: float = 0.0, report: bool = True) -> Summary:
    """Write the tables, ``fidelity.json``, ``summary.json`` and, with ``report``, ``report.html`` of a run. Idempotent.

    Works on a run that died, from what its recorder had flushed. Raises InputError for a directory without a run.
    """
    manifest = read_manifest(run_directory)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is free: as much again as the records take
    if manifest.runtime == SIMULATOR and manifest.runtime_features.get("mode") == "slot":
        raise InputError(
            "a simulation in slot mode has no tasks to report",
            where=str(run_directory),
            fix="Its figures are in summary.json and slots.parquet; `testbed simulate --mode event` has tasks.",
        )
    tables = finalise(run_directory, manifest.ended_programs)
    fidelity = assess(tables, manifest)
    summary = summarise(tables, manifest, fidelity, run_directory, warm_up_seconds=warm_up_seconds)
    write_fidelity(fidelity, run_directory)
    write_summary(summary, run_directory)
    if report:
        write_report(run_directory, tables, manifest, fidelity, summary)
    return summary
