"""Parts of pages that say what the code says.

python -m benchmarks.pages        write them
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from benchmarks import contract_tables, lab_file_keys, protocol_page, record_tables
from benchmarks import models as models_survey
from controller.policies import registry
from testbed.programs.exporter.metrics import METRICS
from testbed.report.fidelity.fidelity import FIGURES
from testbed.report.html import figure_value

ROOT = Path(__file__).resolve().parents[1]


def example() -> str:
    """The shipped quickstart, as it is."""
    return f"```yaml\n{(ROOT / 'topologies' / 'quickstart.yaml').read_text(encoding='utf-8').rstrip()}\n```"


def policies() -> str:
    """Every shipped policy: its options with their defaults, and what it says of itself."""
    rows = ["| name | options | |", "|---|---|---|"]
    for point in sorted(entry_points(group=registry.ENTRY_POINT_GROUP), key=lambda point: point.name):
        if not point.value.startswith("controller."):
            continue  # somebody's own, installed here
        options = ", ".join(f"`{key}={value!r}`" for key, value in registry.options(point.name).items())
        rows.append(f"| `{point.name}` | {options} | {_first_sentence(point.load())} |")
    return "\n".join(rows)


def limits() -> str:
    """Every fidelity figure with its limits and why they are what they are, as declared."""
    rows = ["| figure | what it is | limit | without real-time priority | why this limit |", "|---|---|---|---|---|"]
    for figure in FIGURES.values():
        wider = f", or {figure.wider.words} if that is more" if figure.wider else ""
        values = [figure_value(limit, figure.unit) + wider for limit in figure.limits() or ()] or ["–", "–"]
        rows.append(f"| `{figure.name}` | {figure.meaning} | {' | '.join(values)} | {figure.why} |")
    return "\n".join(rows)


def metrics() -> str:
    """Every metric that a lab exports, as declared."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        meaning = " ".join(text for text in (metric.text, metric.more) if text)
        rows.append(f"| `{metric.series}` | {metric.kind} | {', '.join(metric.labels)} | {meaning} |")
    return "\n".join(rows)


def models() -> str:
    """The survey of models, as it was measured."""
    found = json.loads((ROOT / "docs" / "figures" / "models.json").read_text(encoding="utf-8"))
    return models_survey.table(found["models"])


def _first_sentence(kind: type) -> str:
    text = contract_tables.first_paragraph(inspect.getdoc(kind) or "").replace("|", "\\|")
    return text if len(text) < 220 else f"{text[:217]}..."


#: Page, name of the part, and what writes it.
PARTS: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("lab-file.md", "example", example),
    ("lab-file.md", "keys", lab_file_keys.keys),
    ("policies.md", "policies", policies),
    ("policies.md", "contract", contract_tables.tables),
    ("protocol.md", "messages", protocol_page.described),
    ("fidelity.md", "limits", limits),
    ("monitoring.md", "metrics", metrics),
    ("runs.md", "columns", record_tables.columns),
    ("profile.md", "models", models),
)


def written(page: str, name: str, text: str, command: str = "python -m benchmarks.pages") -> str:
    """A page with one part as it is today."""
    begin, end = f"<!-- {name}: written by {command} -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


if __name__ == "__main__":
    for file, part, write in PARTS:
        path = ROOT / "docs" / file
        path.write_text(written(path.read_text(encoding="utf-8"), part, write()), encoding="utf-8")
        print(f"{path}: {part}")
