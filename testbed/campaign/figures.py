"""Figures of a campaign as PDF and PNG, with what is drawn as CSV beside them; the same points give the same bytes.

Colours are Okabe and Ito's; lines differ in markers, too, for readers without colours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from testbed.campaign.measures import MEASURES, delays_of
from testbed.campaign.points import Campaign
from testbed.campaign.results import Cell
from testbed.campaign.schema import POLICY, FigureSpec
from testbed.campaign.statistics import Estimate
from testbed.campaign.store import Store
from testbed.campaign.tables import write_csv
from testbed.report.figures import colour, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Of one column of a two-column page.
WIDTH_INCHES, HEIGHT_INCHES = 3.5, 2.5
PNG_DOTS_PER_INCH = 300
#: Of a CDF: quantiles that are drawn and kept.
QUANTILES = np.concatenate([np.linspace(0.0, 0.99, 100), np.linspace(0.991, 1.0, 10)])


def draw_figures(campaign: Campaign, cells: Sequence[Cell], store: Store, folder: Path) -> list[Path]:
    """One file each for every setting that a figure does not show itself; returns the PDFs."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for spec in campaign.spec.figures:
        shown = {POLICY, campaign.spec.over(spec)} if spec.kind == "lines" else {POLICY}
        shown |= set(campaign.spec.zip) if shown & set(campaign.spec.zip) else set()
        for rest, group in _panels(cells, shown).items():
            stem = folder / _file_name(spec, campaign, rest)
            if spec.kind == "lines":
                _lines(spec.of, campaign.spec.over(spec), group, stem, _title(rest))
            else:
                _cdf(group, store, stem, _title(rest))
            written.append(stem.with_suffix(".pdf"))
    return written


def _panels(cells: Sequence[Cell], shown: set[str]) -> dict[tuple[tuple[str, str], ...], list[Cell]]:
    """Cells that belong into one figure, by what they have in common and others have not."""
    several = {key for key in dict.fromkeys(k for cell in cells for k, _ in cell.settings) if _differs(cells, key)}
    found: dict[tuple[tuple[str, str], ...], list[Cell]] = {}
    for cell in cells:
        if cell.estimates:
            rest = tuple((key, value) for key, value in cell.settings if key in several and key not in shown)
            found.setdefault(rest, []).append(cell)
    return found


def _differs(cells: Sequence[Cell], key: str) -> bool:
    return len({cell.setting(key) for cell in cells}) > 1


def _file_name(spec: FigureSpec, campaign: Campaign, rest: tuple[tuple[str, str], ...]) -> str:
    parts = [spec.of, "over", campaign.spec.over(spec)] if spec.kind == "lines" else ["delay", "cdf"]
    parts += [f"{key}-{value}" for key, value in rest]
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", "-".join(parts)).strip("_").replace(".", "_")


def _title(rest: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(value if key in ("where", "lab") else f"{key} {value}" for key, value in rest)


def _save(figure: Figure, stem: Path) -> None:
    """Without the time of drawing, so that equal figures are equal files."""
    figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
    figure.savefig(stem.with_suffix(".png"), dpi=PNG_DOTS_PER_INCH)


def _frame(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
    axes = figure.subplots()
    if title:
        axes.set_title(title, fontsize=8)
    return figure, axes


def _legend(axes: Axes, lines: int) -> None:
    if lines > 1:
        axes.legend(fontsize=7, handlelength=1.8)


# ------------------------------------------------------------------------------------------------------------- lines


def _lines(name: str, over: str, cells: Sequence[Cell], stem: Path, title: str) -> None:
    """Means over a parameter, a line per policy, with bands of their t intervals; censored means are hollow."""
    labels = list(dict.fromkeys(cell.setting(over) for cell in cells))
    numbers = numbers_of(labels)
    places = dict(zip(labels, range(len(labels)) if numbers is None else numbers, strict=True))
    by_line: dict[str, list[Cell]] = {}
    for cell in cells:
        if name in cell.estimates:
            by_line.setdefault("" if over == POLICY else cell.setting(POLICY), []).append(cell)
    measure = MEASURES[name]
    with styled():
        figure, axes = _frame(title)
        for index, (line, group) in enumerate(by_line.items()):
            group.sort(key=lambda cell: places[cell.setting(over)])
            _line(axes, index, line, [places[cell.setting(over)] for cell in group], group, name)
        axes.set(xlabel=_axis_of(over, labels), ylabel=measure.axis)
        _x_axis(axes, labels, None if numbers is None else np.array(numbers))
        _y_axis(axes, [cell.estimates[name] for group in by_line.values() for cell in group])
        _legend(axes, len(by_line))
        _save(figure, stem)
    write_csv(
        [
            {
                over: cell.setting(over),
                POLICY: cell.setting(POLICY),
                name: cell.estimates[name].mean,
                "low": None if (t := cell.estimates[name].t) is None else t[0],
                "high": None if t is None else t[1],
                "n": cell.estimates[name].n,
                "censored": measure.of_delays and cell.censored,
            }
            for group in by_line.values()
            for cell in group
        ],
        stem.with_suffix(".csv"),
    )


def _line(axes: Axes, index: int, label: str, x: Sequence[float], cells: Sequence[Cell], name: str) -> None:
    measure, shade, marker = MEASURES[name], colour(index), MARKERS[index % len(MARKERS)]
    found = [cell.estimates[name] for cell in cells]
    mean = np.array([one.mean for one in found]) * measure.factor
    low, high = (np.array([one.mean if one.t is None else one.t[end] for one in found]) for end in (0, 1))
    axes.fill_between(x, low * measure.factor, high * measure.factor, color=shade, alpha=0.2, linewidth=0)
    axes.plot(x, mean, color=shade, marker=marker, markersize=4, linewidth=1.2, label=label)
    hollow = [i for i, cell in enumerate(cells) if measure.of_delays and cell.censored]
    if hollow:
        at = [x[i] for i in hollow]
        axes.plot(at, mean[hollow], marker, color=shade, markersize=4, markerfacecolor="white", linestyle="")


def numbers_of(labels: Sequence[str]) -> list[float] | None:
    """The values if all are plain numbers or numbers with the same unit; None: names."""
    found = [re.fullmatch(r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\S*)", label) for label in labels]
    matches = [match for match in found if match is not None]
    if len(matches) < len(found) or len({match.group(2) for match in matches}) != 1:
        return None
    try:
        return [float(match.group(1)) for match in matches]
    except ValueError:
        return None


def _axis_of(over: str, labels: Sequence[str]) -> str:
    """The key, and the unit that all values have."""
    unit = labels[0].partition(" ")[2] if numbers_of(labels) is not None else ""
    return f"{over} [{unit}]" if unit else over


def _x_axis(axes: Axes, labels: Sequence[str], numbers: NDArray[np.float64] | None) -> None:
    """Names as they are; numbers of a decade or more on a logarithmic axis."""
    if numbers is None:
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
    elif numbers.min() > 0 and numbers.max() / numbers.min() >= 10:
        axes.set_xscale("log")
        axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        axes.minorticks_off()


def _y_axis(axes: Axes, found: Sequence[Estimate]) -> None:
    """Logarithmic for means of a decade or more, where no interval reaches zero: the small ones are seen, too."""
    means = [one.mean for one in found]
    if min(one.mean if one.t is None else one.t[0] for one in found) > 0 and max(means) >= 10 * min(means):
        axes.set_yscale("log")


# --------------------------------------------------------------------------------------------------------------- CDF


def _cdf(cells: Sequence[Cell], store: Store, stem: Path, title: str) -> None:
    """Of the E2E delay of completed tasks, those of all repetitions together, a curve per policy."""
    rows: list[dict[str, object]] = []
    by_policy: dict[str, list[NDArray[np.float64]]] = {}
    for cell in cells:
        delays = by_policy.setdefault(cell.setting(POLICY), [])
        delays += [delays_of(store.directory(result.key)) for result in cell.results]
    with styled():
        figure, axes = _frame(title)
        for index, (policy, parts) in enumerate(by_policy.items()):
            delays_seconds = np.concatenate(parts)
            if not delays_seconds.size:
                continue
            quantiles = np.quantile(delays_seconds, QUANTILES)
            axes.plot(quantiles * 1e3, QUANTILES, color=colour(index), linewidth=1.2, label=policy)
            rows += [
                {POLICY: policy, "probability": float(share), "e2e_delay_seconds": float(delay)}
                for share, delay in zip(QUANTILES, quantiles, strict=True)
            ]
        axes.set(xlabel="E2E delay [ms]", ylabel="CDF", ylim=(0, 1))
        high = [float(row["e2e_delay_seconds"]) for row in rows if row["probability"] == 0.99]  # type: ignore[arg-type]
        if high:
            axes.set_xlim(0, 1e3 * max(high) * 1.05)
        _legend(axes, len(by_policy))
        _save(figure, stem)
    write_csv(rows, stem.with_suffix(".csv"))
