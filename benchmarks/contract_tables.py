"""The tables of docs/policies.md: every field that a policy sees or decides, as controller/contract/ describes it.

``python -m benchmarks.pages`` writes them.
"""

from __future__ import annotations

import ast
import inspect
import re

from controller import contract

#: In the order in which a policy meets them.
TYPES = (
    contract.Scenario,
    contract.Radio,
    contract.Edge,
    contract.UeScenario,
    contract.Arrivals,
    contract.ShadowingLaw,
    contract.Uploading,
    contract.Knowledge,
    contract.Observation,
    contract.UeObservation,
    contract.Decision,
    contract.UeDecision,
    contract.UploadPlan,
    contract.SlotOutcome,
    contract.UeOutcome,
)


def fields(kind: type) -> list[tuple[str, str, str, str]]:
    """(name, type, default, meaning) of each field of a contract type; the meaning is its comment."""
    lines = inspect.getsource(kind).splitlines()
    body = ast.parse("\n".join(lines)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = []
    for node in body.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        assert isinstance(node.target, ast.Name)
        above = node.lineno - 2
        while lines[above].lstrip().startswith("#:"):
            above -= 1
        said = [line.strip().removeprefix("#:").strip() for line in lines[above + 1 : node.lineno - 1]]
        last = lines[node.lineno - 1]
        said += [part.strip() for part in last.split("  # ")[1:]]
        default = "" if node.value is None else ast.unparse(node.value)
        found.append((node.target.id, ast.unparse(node.annotation), default, " ".join(said)))
    return found


def tables() -> str:
    """All tables as Markdown."""
    parts = []
    for kind in TYPES:
        parts += [f"**`{kind.__name__}`** {first_sentence(kind)}".rstrip(), "", *table(kind), ""]
    return "\n".join(parts).rstrip()


def table(kind: type) -> list[str]:
    """The lines of a type's table in Markdown."""
    rows = ["| " + " | ".join(_cells(row)) + " |" for row in fields(kind)]
    return ["| field | type | default | |", "|---|---|---|---|", *rows]


def first_sentence(kind: type) -> str:
    """The first paragraph of a type's own docstring, in one line of Markdown."""
    return first_paragraph(vars(kind).get("__doc__") or "")


def first_paragraph(docstring: str) -> str:
    """The first paragraph of a docstring, in one line of Markdown; of what it links to, the last name."""
    text = re.sub(r"\s+", " ", docstring.split("\n\n")[0]).strip()
    return re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text).replace("``", "`")


def _cells(row: tuple[str, str, str, str]) -> tuple[str, ...]:
    name, kind, default, meaning = (text.replace("|", "\\|") for text in row)
    return f"`{name}`", f"`{kind}`", f"`{default}`" if default else "", meaning.replace("``", "`")
