"""The messages of docs/protocol.md, as controller/service/protocol.py describes them, and a UE that speaks them.

``python -m benchmarks.pages`` writes them.
"""

from __future__ import annotations

import typing
from pathlib import Path

from benchmarks.contract_tables import fields, first_sentence, table
from controller.contract import STAGES
from controller.service import admission, protocol
from controller.service.engine import COLLECT_RATIO, COLLECT_SECONDS, SILENT_AFTER_SLOTS
from controller.service.node_listener import Limits

ROOT = Path(__file__).resolve().parents[1]
PLAIN_UE = ROOT / "tests" / "data" / "plain_ue.py"

#: Who says which messages to the controller, and who hears which of it.
SAYS = {"UE": protocol.UeSays, "edge": protocol.EdgeSays, "player": protocol.PlayerSays, "operator": protocol.Command}
HEARS = {
    "UE": protocol.UeHears,
    "edge": protocol.EdgeHears,
    "player": protocol.PlayerHears,
    "operator": protocol.OperatorHears,
}
#: What is not a message but part of one, and of which.
PARTS: dict[type, type] = {
    protocol.UeParts: protocol.UeReport,
    **dict.fromkeys(typing.get_type_hints(protocol.UeParts).values(), protocol.UeReport),
    protocol.EdgeUeReport: protocol.EdgeReport,
    protocol.LinkState: protocol.PlayerReport,
    protocol.TaskTotals: protocol.Status,
}

__all__ = ["PARTS", "PLAIN_UE", "described", "direction", "fields", "messages"]


def messages() -> tuple[type, ...]:
    """All messages, in the order in which they are described in protocol.py."""
    order = list(vars(protocol).values())
    return tuple(sorted(typing.get_args(protocol.Control), key=order.index))


def direction(message: type) -> str:
    """Who says a message to whom."""
    says = [who for who, said in SAYS.items() if message in typing.get_args(said)]
    hears = [who for who, heard in HEARS.items() if message in typing.get_args(heard)]
    return " → ".join(", ".join(part) for part in (says, ["controller"], hears) if part)


def described() -> str:
    """Limits, messages and the plain UE as Markdown."""
    lines = ["### Limits", "", *_limits(), "", "### Messages", ""]
    for message in messages():
        lines += [f"**`{message.__name__}`** ({direction(message)}) {first_sentence(message)}", ""]
        for kind in (message, *(part for part, whole in PARTS.items() if whole is message)):
            if kind is not message:
                lines += [f"`{kind.__name__}`: {first_sentence(kind)}", ""]
            if fields(kind):
                lines += [*table(kind), ""]
    source = PLAIN_UE.read_text(encoding="utf-8")
    lines += ["### A UE in 60 lines", "", f"`{PLAIN_UE.relative_to(ROOT)}`:", "", "```python", source + "```"]
    return "\n".join(lines)


def _limits() -> list[str]:
    limits = {"a UE": admission.UE_CONTROL_LIMITS, "the edge, the player": admission.OWN_LIMITS}
    return [
        "| of | a message | a second | at once | not read by it | connections |",
        "|---|---|---|---|---|---|",
        *(f"| {who} | {' | '.join(_cells(of))} |" for who, of in limits.items()),
        "",
        "A node that says more waits. A larger message, or one of several parts, closes its connection; of more "
        "connections the newest stay. A node that does not read loses what no longer fits.",
        "",
        f"In Hello, UeReport and EdgeReport a number is at most {admission.LARGEST:g}, no nan, and not negative but "
        f"for a -1 in a report. A Hello names at most {admission.MOST_THREADS} threads, and its texts have at most "
        f"{admission.MOST_TEXT} printable characters; "
        f"`stage_sum_seconds` has no keys but {', '.join(f'`{stage}`' for stage in STAGES)}. "
        "Whatever breaks this is dropped, and the run's log says so (event `malformed`).",
        "",
        f"Reports are waited for {COLLECT_SECONDS * 1e3:g} ms after the slot's start, or {COLLECT_RATIO:.0%} of the "
        "slot if that is less; then the last known values stand in (event `report-missing`). Whoever misses "
        f"{SILENT_AFTER_SLOTS} slots in a row is waited for no longer, until it reports again.",
    ]


def _cells(limits: Limits) -> tuple[str, ...]:
    return (
        f"{limits.message_bytes / 1024:g} KiB",
        f"{limits.bytes_per_second / 1e6:g} MB",
        f"{limits.burst_bytes / 1e6:g} MB",
        f"{limits.unsent_bytes / 2**20:g} MiB",
        f"{limits.connections}",
    )
