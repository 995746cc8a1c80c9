"""Tables of a campaign, each as CSV (SI, all digits), Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.campaign.measures import MEASURES
from testbed.campaign.results import Cell, Contrast, Result
from testbed.campaign.statistics import Estimate, Interval

#: Of those tables that people read; CSV has all.
SHOWN = ("mean_delay_seconds", "p95_delay_seconds", "p99_delay_seconds", "jain_index", "energy_joules_per_slot")
_LATEX = str.maketrans(
    {
        "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
        "±": r"$\pm$", "≥": r"$\geq$", "–": "--",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text cells; the first ``names`` columns are words, the others numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int

    def markdown(self) -> str:
        rule = ["---"] * self.names + ["---:"] * (len(self.columns) - self.names)
        lines = (self.columns, rule, *self.rows)
        return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)

    def latex(self) -> str:
        """A ``tabular`` that needs the package booktabs."""
        body = [" & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in (self.columns, *self.rows)]
        align = "l" * self.names + "r" * (len(self.columns) - self.names)
        begin = rf"\begin{{tabular}}{{{align}}}"
        return "\n".join([begin, r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", ""])


def write_tables(cells: Sequence[Cell], contrasts: Sequence[Contrast], folder: Path) -> list[Path]:
    """``means`` and, with several policies, ``differences``: ``.csv``, ``.md`` and ``.tex`` each."""
    folder.mkdir(parents=True, exist_ok=True)
    written = _write(folder / "means", means_table(cells), _mean_rows(cells))
    if contrasts:
        written += _write(folder / "differences", differences_table(contrasts), _difference_rows(contrasts))
    return written


def _write(stem: Path, table: Table, rows: Sequence[dict[str, object]]) -> list[Path]:
    texts = {".md": table.markdown(), ".tex": table.latex()}
    for suffix, text in texts.items():
        stem.with_suffix(suffix).write_text(text, encoding="utf-8")
    write_csv(rows, stem.with_suffix(".csv"))
    return [stem.with_suffix(suffix) for suffix in (".csv", *texts)]


def write_csv(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Columns are the keys of all rows, in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_points(results: Sequence[Result], path: Path) -> None:
    """Every point that has a result: its settings, its measures, and where its run is."""
    write_csv(
        [
            {
                "where": result.point.where,
                "lab": result.point.lab,
                **result.point.settings,
                "valid": result.valid,
                "censored": result.measured.censored,
                "unstable": result.measured.unstable,
                "tasks": result.measured.tasks,
                **result.measured.values,
                "run": f"points/{result.key}",
            }
            for result in results
        ],
        path,
    )


# ------------------------------------------------------------------------------------------------------------- means


def means_table(cells: Sequence[Cell]) -> Table:
    """A row per policy and setting: means with half the t interval. Of censored delays a bound: they are too low."""
    keys = _varying([cell.settings for cell in cells])
    shown = [name for name in SHOWN if any(name in cell.estimates for cell in cells)]
    rows = [
        (
            *(dict(cell.settings).get(key, "") for key in keys),
            str(len(cell.results)),
            *(_mean(cell, name) for name in shown),
            ", ".join(cell.marks),
        )
        for cell in cells
    ]
    return Table((*keys, "runs", *(MEASURES[name].axis for name in shown), "marks"), tuple(rows), len(keys))


def _mean(cell: Cell, name: str) -> str:
    if name not in cell.estimates:
        return "–"
    found, measure = cell.estimates[name], MEASURES[name]
    bound = "≥ " if measure.of_delays and cell.censored else ""
    return bound + _with_half(found, measure.factor)


def _with_half(found: Estimate, factor: float) -> str:
    if found.t is None:
        return _digits(found.mean * factor, 4)
    return f"{_digits(found.mean * factor, 4)} ± {_digits((found.t[1] - found.mean) * factor, 2)}"


def _digits(value: float, significant: int) -> str:
    """With so many digits that mean something, and never as a power of ten unless it is tiny."""
    return f"{value:.0f}" if abs(value) >= 10**significant else f"{value:.{significant}g}"


def _mean_rows(cells: Sequence[Cell]) -> list[dict[str, object]]:
    return [
        {
            **dict(cell.settings),
            "measure": name,
            **_estimate_columns("mean", found),
            "invalid": cell.invalid,
            "censored": MEASURES[name].of_delays and cell.censored,
            "marks": ", ".join(cell.marks),
        }
        for cell in cells
        for name, found in cell.estimates.items()
    ]


# ------------------------------------------------------------------------------------------------------- differences


def differences_table(contrasts: Sequence[Contrast]) -> Table:
    """A row per policy, setting and measure: paired difference to the baseline, ratio, and what a claim would need."""
    keys = _varying([contrast.settings for contrast in contrasts])
    rows = [
        (
            *(dict(contrast.settings).get(key, "") for key in keys),
            f"{contrast.policy} – {contrast.baseline}",
            MEASURES[contrast.measure].axis,
            str(contrast.comparison.difference.n),
            _with_half(contrast.comparison.difference, MEASURES[contrast.measure].factor),
            _ratio(contrast.comparison.ratio, contrast.comparison.ratio_bootstrap),
            "–" if contrast.comparison.seeds_needed is None else str(contrast.comparison.seeds_needed),
            "censored" if contrast.censored else "",
        )
        for contrast in contrasts
        if contrast.measure in SHOWN
    ]
    columns = (*keys, "policies", "measure", "pairs", "difference", "ratio", "seeds for a claim", "marks")
    return Table(columns, tuple(rows), len(keys) + 2)


def _ratio(ratio: float | None, interval: Interval | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.3f}" if interval is None else f"{ratio:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _difference_rows(contrasts: Sequence[Contrast]) -> list[dict[str, object]]:
    return [
        {
            **dict(contrast.settings),
            "policy": contrast.policy,
            "baseline": contrast.baseline,
            "measure": contrast.measure,
            **_estimate_columns("difference", contrast.comparison.difference),
            "ratio": contrast.comparison.ratio,
            **_interval_columns("ratio_bootstrap", contrast.comparison.ratio_bootstrap),
            "seeds_needed": contrast.comparison.seeds_needed,
            "censored": contrast.censored,
        }
        for contrast in contrasts
    ]


def _estimate_columns(name: str, found: Estimate) -> dict[str, object]:
    return {
        "n": found.n,
        name: found.mean,
        **_interval_columns("t", found.t),
        **_interval_columns("bootstrap", found.bootstrap),
    }


def _interval_columns(name: str, interval: Interval | None) -> dict[str, object]:
    low, high = interval if interval is not None else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _varying(settings: Sequence[tuple[tuple[str, str], ...]]) -> list[str]:
    """The keys that tell rows apart; the first one if there is one row only."""
    seen: dict[str, set[str]] = {}
    for row in settings:
        for key, value in row:
            seen.setdefault(key, set()).add(value)
    return [key for key, values in seen.items() if len(values) > 1 or key == "policy"]
