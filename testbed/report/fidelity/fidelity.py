"""How well the emulation did what it claimed: figures, their limits, and whether the run may be used."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from testbed.records.manifest import Manifest
from testbed.records.tables import RunTables
from testbed.report.fidelity.control_figures import CONTROL_FIGURES
from testbed.report.fidelity.figure import Evidence, Figure, JudgedFigure, ratio
from testbed.report.fidelity.host_figures import HOST_FIGURES, causes
from testbed.report.fidelity.limits import Value
from testbed.report.fidelity.link_figures import LINK_FIGURES, LinkFidelity, RoundTripFidelity, links, round_trips
from testbed.report.fidelity.record_figures import RECORD_FIGURES
from testbed.report.fidelity.stage_figures import STAGE_FIGURES, StageFidelity, stages
from testbed.report.fidelity.step_figures import STEP_FIGURES
from testbed.report.fidelity.task_figures import TASK_FIGURES, Backlog, backlog
from testbed.report.fidelity.uplink import UPLINK_FIGURES, Uplink, uplinks

#: Every figure, in the order of ``fidelity.json``, the report and docs/fidelity.md, which follow from these rows.
FIGURES: dict[str, Figure] = {
    figure.name: figure
    for group in (
        *(LINK_FIGURES, UPLINK_FIGURES, STEP_FIGURES, STAGE_FIGURES),
        *(HOST_FIGURES, TASK_FIGURES, CONTROL_FIGURES, RECORD_FIGURES),
    )
    for figure in group
}
#: Those of ``summary.json`` and of the line at the end of a run, in their order there.
HEADLINES = {
    figure.name: (figure.headline.text, figure.unit)
    for figure in sorted(FIGURES.values(), key=lambda figure: figure.headline or (len(FIGURES),))
    if figure.headline is not None
}


class UeFidelity(msgspec.Struct, frozen=True):
    transferred_tasks: int
    uplink_integral_ratio: Value  # integral of the applied rate over the transfers / bits on the wire
    uplink_stage_ratio: Value  # mean uplink stage / mean stage that the applied rate predicts
    round_trip: RoundTripFidelity | None
    stages: dict[str, StageFidelity]  # "head", "tail"


class Fidelity(msgspec.Struct, frozen=True):
    """``fidelity.json``."""

    valid: bool
    invalid_reasons: list[str]
    limits: Literal["realtime", "ordinary"]
    figures: list[JudgedFigure]
    ues: dict[str, UeFidelity]
    links: dict[str, LinkFidelity]  # by "UE DIRECTION"
    backlog: Backlog

    def value(self, name: str) -> Value:
        return next(figure.value for figure in self.figures if figure.name == name)


def assess(tables: RunTables, manifest: Manifest) -> Fidelity:
    """All figures of a run. One that this run cannot give is ``not_measured`` and passes: that there are records, of
    everybody and up to the end, are figures of their own.
    """
    realtime = bool(manifest.runtime_features.get("realtime"))
    run = Evidence(tables, manifest)
    figures = [figure.judge(run, realtime=realtime) for figure in FIGURES.values()]
    return Fidelity(
        valid=all(figure.ok for figure in figures),
        invalid_reasons=_reasons(figures, tables, manifest),
        limits="realtime" if realtime else "ordinary",
        figures=figures,
        ues=_by_ue(run),
        links=run.once(links),
        backlog=run.once(backlog),
    )


def write_fidelity(fidelity: Fidelity, run_directory: Path) -> None:
    (run_directory / "fidelity.json").write_bytes(msgspec.json.format(msgspec.json.encode(fidelity), indent=1) + b"\n")


def _by_ue(run: Evidence) -> dict[str, UeFidelity]:
    return {
        ue: UeFidelity(
            transferred_tasks=uplink.tasks,
            uplink_integral_ratio=ratio(uplink.integral_bits, uplink.bits),
            uplink_stage_ratio=ratio(uplink.stage_seconds, uplink.predicted_seconds),
            round_trip=run.once(round_trips).get(ue),
            stages=by_stage,
        )
        for ue, by_stage in run.once(stages).items()
        for uplink in (run.once(uplinks).get(ue, Uplink()),)
    }


def _reasons(figures: list[JudgedFigure], tables: RunTables, manifest: Manifest) -> list[str]:
    broken = [figure for figure in figures if not figure.ok]
    reasons = [
        f"{figure.name} is {_text(figure.value, figure.unit)}, limit {_text(figure.limit, figure.unit)}:"
        f" {figure.meaning}"
        for figure in broken
    ]
    if any(FIGURES[figure.name].timed for figure in broken):
        reasons.append(f"cause: {'; '.join(causes(tables, manifest))}")
    return reasons


def _text(value: Value | None, unit: str) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if unit == "s":
        return f"{value * 1e3:.3g} ms"
    return f"{value * 100:.3g} %" if unit == "ratio" else f"{value:g}"
