"""``report.html``: one file that shows a run to a reader without tools, network or this program."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np

from testbed.records.manifest import SIMULATOR, Manifest
from testbed.records.tables import RunTables, column
from testbed.report import figures
from testbed.report.fidelity.fidelity import Fidelity
from testbed.report.fidelity.limits import NOT_MEASURED
from testbed.report.predicted import predictions
from testbed.report.shown import choose
from testbed.report.summary import Summary, marks_of


def write_report(
    run_directory: Path, tables: RunTables, manifest: Manifest, fidelity: Fidelity, summary: Summary
) -> Path:
    """Write the page and return its path."""
    shown = choose(tables, manifest)
    ues = shown.ues
    simulated = manifest.runtime == SIMULATOR
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("testbed.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"si_seconds": si_seconds, "figure_value": figure_value, "data_uri": data_uri}
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        fidelity=fidelity,
        manifest=manifest,
        ues=ues,
        shown=shown,
        simulated=simulated,
        judged=[figure for figure in fidelity.figures if not simulated or figure.value != NOT_MEASURED],
        rows=[_ue_row(tables, manifest, ue) for ue in ues],
        failures=_failures(tables),
        marks=marks_of(summary),
        predicted={ue: found for ue, found in predictions(tables).items() if ue in ues},
        links=[(name, link) for name, link in fidelity.links.items() if name.split()[0] in ues],
        cdf=figures.e2e_distribution(tables, ues),
        stages=figures.stacked_stages(tables, ues),
        over_time=[(ue, figures.over_time(tables, ue)) for ue in ues],
        link_rates=[(ue, figure) for ue in ues if (figure := figures.link_rates(tables, ue)) is not None],
        lab_text=msgspec.json.format(msgspec.json.encode(manifest.resolved_lab), indent=2).decode(),
    )
    path = run_directory / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _ue_row(tables: RunTables, manifest: Manifest, ue: str) -> dict[str, Any]:
    tasks = tables.tasks.filter(column(tables.tasks, "ue") == ue)
    slots = tables.slots.filter(column(tables.slots, "ue") == ue)
    status = column(tasks, "status")
    delays = column(tasks, "e2e_delay_seconds")[status == "completed"]
    cuts = [cut for cut in column(tasks, "cut") if cut]
    shares = sorted(((cuts.count(cut) / len(cuts), cut) for cut in set(cuts)), reverse=True)
    energy = column(slots, "compute_joules") + column(slots, "transmit_joules")
    return {
        "ue": ue,
        "arrived": len(tasks),
        "completed": int((status == "completed").sum()),
        "failed": int((status == "failed").sum()),
        "in_flight": int((status == "in_flight").sum()),
        "dropped": int((status == "dropped").sum()),
        "mean": float(delays.mean()) if len(delays) else None,
        "p95": float(np.quantile(delays, 0.95)) if len(delays) else None,
        "energy": float(energy.mean()) if len(energy) else None,
        "budget": manifest.ues[ue].energy_budget_joules if ue in manifest.ues else None,
        "cuts": [(cut, share) for share, cut in shares],
    }


def _failures(tables: RunTables) -> list[tuple[str, int]]:
    """Reasons of failed tasks, the most frequent first."""
    reasons = list(column(tables.tasks, "reason")[column(tables.tasks, "status") == "failed"])
    return sorted(((reason, reasons.count(reason)) for reason in set(reasons)), key=lambda item: -item[1])


def si_seconds(value: float | None) -> str:
    """A time as a reader wants it: ``1.23 s``, ``45.6 ms``, ``78 µs``."""
    if value is None:
        return "–"
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if abs(value) * factor >= 1.0:
            return f"{value * factor:.3g} {unit}"
    return "0 s" if value == 0 else f"{value * 1e6:.3g} µs"


def figure_value(value: float | str | None, unit: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return "not measured" if value == NOT_MEASURED else value
    if unit == "s":
        return si_seconds(value)
    if unit == "ratio":
        return "< 0.001 %" if 0 < value < 1e-5 else f"{value * 100:.3g} %"
    return f"{value:g}"


def data_uri(svg: str) -> str:
    """As an image of its own, so that the ids inside several SVGs do not meet on one page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
