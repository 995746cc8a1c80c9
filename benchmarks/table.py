"""The figures of the documentation, from the JSON of the benchmarks.

    python -m benchmarks.table [--from build/benchmarks] [--check]

Copies what is there of the benchmarks' JSON to docs/figures/data, writes the tables between the markers of
docs/fidelity.md and draws docs/figures/*.png from all that is in that folder: a figure in the text is always one that a
program wrote.
``--check`` writes nothing and fails when the page is not what the data says.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import _plots, _plots_links

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "figures" / "data"
PAGE = ROOT / "docs" / "fidelity.md"
#: In this order; a benchmark that is not named here comes after them.
ORDER = ("links", "links_mahimahi", "links_alternatives", "links_delay", "slowdown", "repeat", "capacity")
PLOTS = {
    "slowdown": _plots.slowdown,
    "capacity": _plots.capacity,
    "links_alternatives": _plots_links.alternatives,
    "links_mahimahi": _plots_links.mahimahi,
}
PARTS = {"netns": "netns", "docker": "docker", "rootless": "without root", "plain": "`docker run --cpus`"}


def text_of(value: float | int | None, unit: str) -> str:
    """A figure as a reader wants it.

    >>> text_of(0.00234, "s"), text_of(0.00001, "ratio"), text_of(3, "count"), text_of(None, "s")
    ('2.3 ms', '0.001 %', '3', '–')
    """
    if value is None:
        return "–"
    if unit == "s":
        for scale, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
            if abs(value) * scale >= 1 or name == "us":
                return f"{value * scale:.2g} {name}" if abs(value) * scale < 100 else f"{value * scale:.0f} {name}"
    if unit == "ratio":
        return "< 0.001 %" if 0 < abs(value) < 1e-5 else f"{value * 100:.2g} %" if abs(value) < 1 else f"{value:.3g} x"
    return f"{value:g}" if unit == "count" else f"{value:.3g} {unit}"


def figures_table(data: dict[str, dict[str, Any]]) -> list[str]:
    """A row per figure of every benchmark that has some."""
    lines = ["| what | measured | target | the alternative, same run | benchmark |", "|---|---|---|---|---|"]
    for name in sorted(data, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        for figure in data[name].get("figures", []):
            unit = figure["unit"]
            alternatives = (figure.get("alternative") or {}).items()
            others = "; ".join(f"{what}: {text_of(value, unit)}" for what, value in alternatives)
            measured, target = text_of(figure["measured"], unit), text_of(figure.get("target"), unit)
            missed = figure.get("target") is not None and figure["measured"] > figure["target"]
            measured = f"**{measured}**" if missed else measured
            lines.append(f"| {figure['what']} | {measured} | {target} | {others} | `{name}` |")
    return lines if len(lines) > 2 else []


def slowdown_table(data: dict[str, Any]) -> list[str]:
    """p50 / p90 / overruns of every stage, ours and plain limits side by side."""
    parts = [part for part in PARTS if part in data]
    lines = [
        f"| stage | {' | '.join(PARTS[part] for part in parts)} |",
        f"|---|{'---|' * len(parts)}",
    ]
    cells: dict[str, dict[str, str]] = {}
    for part in parts:
        for one in data[part]:
            together = " (alone)" if len(one["speeds"]) == 1 else " (three UEs)"
            stage = f"{one['model']} {one['stage']} at {one['speed']:g}{together}"
            if one["stage"] == "tail":
                beside = "/".join(f"{speed:g}" for speed in one["speeds"])
                stage = f"{one['model']} tails, edge at {one['speed']:g}, UEs at {beside}"
            shown = " / ".join(text_of(one[name], "ratio") for name in ("error_p50", "error_p90", "overrun_ratio"))
            cells.setdefault(stage, {})[part] = shown
    lines += [f"| {stage} | {' | '.join(by.get(part, '–') for part in parts)} |" for stage, by in cells.items()]
    return lines


def tables(data: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """By the name of their markers."""
    found = {"figures": figures_table(data)}
    if "slowdown" in data:
        found["slowdown"] = slowdown_table(data["slowdown"])
    return found


def filled(page: str, name: str, lines: list[str]) -> str:
    """The page with these lines between its markers. Raises ValueError without markers."""
    begin, end = f"<!-- {name}: written by python -m benchmarks.table -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{PAGE} has no markers for {name!r}")
    return "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])


def written(data: Path = DATA, page: Path = PAGE) -> str:
    """What the page should be."""
    content = {path.stem: json.loads(path.read_text()) for path in sorted(data.glob("*.json"))}
    text = page.read_text()
    for name, lines in tables(content).items():
        text = filled(text, name, lines)
    return text


def collect(source: Path) -> None:
    """Copy the JSON of benchmarks that have figures, without what only their authors read."""
    DATA.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.json")):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and "figures" in content:
            (DATA / path.name).write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--from", dest="source", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.check:
        right = written() == PAGE.read_text()
        if not right:
            print(f"{PAGE} is not what docs/figures/data says: python -m benchmarks.table", file=sys.stderr)
        return 0 if right else 1
    if asked.source.is_dir():
        collect(asked.source)
    PAGE.write_text(written())
    for name, draw in PLOTS.items():
        if (path := DATA / f"{name}.json").exists():
            draw(json.loads(path.read_text()), DATA.parent / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
