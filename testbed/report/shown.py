"""Which UEs a report shows, where there are more than a page takes: the worst ones and those around the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables, column

#: Every UE is in the Parquet files; a page of more figures than twice this helps nobody.
SHOWN_OF_A_KIND = 4


@dataclass(frozen=True)
class Shown:
    """UEs of a report, in the lab file's order. ``worst`` and ``median`` are empty where all are shown."""

    ues: list[str]
    worst: list[str]  # the worst first
    median: list[str]
    of: int

    @property
    def hidden(self) -> int:
        return self.of - len(self.ues)


def choose(tables: RunTables, manifest: Manifest) -> Shown:
    """All UEs where they are few, else the worst and the median ones by their :func:`high_delays`."""
    recorded = sorted(set(column(tables.tasks, "ue")) - set(manifest.ues))
    everybody = [*manifest.ues, *recorded]
    if len(everybody) <= 2 * SHOWN_OF_A_KIND:
        return Shown(everybody, [], [], len(everybody))
    delays = high_delays(tables, everybody)
    ranking = sorted(everybody, key=lambda ue: -delays[ue])  # stable: ties in the lab file's order
    middle = (len(ranking) - 1) / 2
    worst, others = ranking[:SHOWN_OF_A_KIND], range(SHOWN_OF_A_KIND, len(ranking))
    median = [ranking[rank] for rank in sorted(others, key=lambda rank: abs(rank - middle))[:SHOWN_OF_A_KIND]]
    chosen = {*worst, *median}
    return Shown([ue for ue in everybody if ue in chosen], worst, median, len(everybody))


def high_delays(tables: RunTables, ues: Sequence[str]) -> dict[str, float]:
    """The 95th percentile of each UE's E2E delay in seconds, over its arrived tasks.

    A task that did not complete counts as endless: a UE that loses its slow tasks is not one of the best. 0 for a UE
    without a task.
    """
    names = column(tables.tasks, "ue").astype(str)
    completed = column(tables.tasks, "status") == "completed"
    delays = np.where(completed, column(tables.tasks, "e2e_delay_seconds").astype(np.float64), np.inf)
    order = np.argsort(names, kind="stable")
    present, begins = np.unique(names[order], return_index=True)
    parts = dict(zip(present.tolist(), np.split(delays[order], begins[1:]), strict=False))
    return {ue: float(np.quantile(parts[ue], 0.95, method="higher")) if ue in parts else 0.0 for ue in ues}
