"""Which UEs a report shows: all, or the worst and those around the median; never the first in the order of text."""

from __future__ import annotations

import msgspec
import pyarrow as pa
from synthetic_run import Lab, manifest

from testbed.records.manifest import Manifest
from testbed.records.streams import SCHEMAS
from testbed.records.tables import RunTables
from testbed.report.shown import choose, high_delays

UES = tuple(f"ue{number}" for number in range(1, 13))


def tables(delays: dict[str, list[float | None]]) -> RunTables:
    """Tasks by UE; None: one that did not complete."""
    rows = [(ue, delay) for ue, mine in delays.items() for delay in mine]
    tasks = pa.table(
        {
            "ue": [ue for ue, _ in rows],
            "status": ["failed" if delay is None else "completed" for _, delay in rows],
            "e2e_delay_seconds": [float("nan") if delay is None else delay for _, delay in rows],
        }
    )
    others = ("slots", "links", "drops", "round_trips", "health", "events", "updates")
    return RunTables(tasks=tasks, **{name: SCHEMAS[name].empty_table() for name in others})


def about(ues: tuple[str, ...]) -> Manifest:
    one = manifest(Lab(duration=1.0))
    return msgspec.structs.replace(one, ues=dict.fromkeys(ues, one.ues["ue1"]))


def test_few_ues_are_all_shown_in_the_lab_files_order() -> None:
    ues = ("ue2", "ue10", "ue1")
    shown = choose(tables({ue: [1.0] for ue in ues}), about(ues))
    assert (shown.ues, shown.hidden) == (list(ues), 0)


def test_of_many_the_worst_and_the_median_ones_are_shown() -> None:
    delays: dict[str, list[float | None]] = {ue: [float(number)] for number, ue in enumerate(UES)}
    delays["ue3"] = [0.1] * 9 + [None]  # it lost its slow task: worse than any that completed all
    shown = choose(tables(delays), about(UES))
    assert shown.worst == ["ue3", "ue12", "ue11", "ue10"]
    assert set(shown.median) == {"ue6", "ue7", "ue8", "ue9"}
    assert shown.ues == ["ue3", "ue6", "ue7", "ue8", "ue9", "ue10", "ue11", "ue12"]
    assert shown.hidden == 4


def test_a_ue_without_a_task_has_none_to_be_bad_at() -> None:
    assert high_delays(tables({"ue1": [0.5, 0.7]}), ["ue1", "ue2"]) == {"ue1": 0.7, "ue2": 0.0}
