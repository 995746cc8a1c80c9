"""What of an outcome is a fault of the testbed. Pure: the same outcome gives the same faults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.chaos.facts import OF_TIME, RunFacts

#: Killed or frozen for good while tasks arrive, none of these leaves a run that can be used.
NEEDED = re.compile(r"ue\d+|edge|controller|player|recorder")
BUSY = "another command is"
RUN_DIRECTORY = "out/run"


@dataclass(frozen=True)
class Second:
    """Another command about the lab, while the run was at work."""

    verb: str
    code: int | None
    text: str
    lab_was_busy: bool


@dataclass(frozen=True)
class Outcome:
    """Everything that was seen of one lab and of what happened to it."""

    event: str
    did: str  # empty: it found nothing to happen to
    phase: str  # of the run when it happened
    codes: tuple[int, ...]  # with which the run may end
    harmless: bool
    on_command: bool
    lethal: bool  # what was hit never worked again
    victims: tuple[str, ...]
    code: int | None  # of the run; None: it hung
    text: str  # its standard error
    seconds_after: float  # from the event to the end of the run
    left: tuple[str, ...]  # after the run, before `down`
    report_code: int | None  # of `testbed report`; None: not needed
    report_text: str
    has_manifest: bool
    facts: RunFacts | None
    expected: dict[str, int]  # arrivals by UE
    down_code: int | None
    down_text: str
    left_after_down: tuple[str, ...]
    host: tuple[str, ...]  # differences
    others: tuple[Second, ...] = field(default=())


def faults(outcome: Outcome) -> list[str]:
    """One line each; empty if all is as promised."""
    return [*_end(outcome), *_directory(outcome), *_truth(outcome), *_seconds(outcome), *_host(outcome)]


def _end(outcome: Outcome) -> Iterator[str]:
    if outcome.code is None:
        yield "the run hung"
        return
    happened = bool(outcome.did)
    allowed = outcome.codes if happened and outcome.phase != "over" else (0, 4)
    if outcome.on_command and outcome.phase == "ending":
        allowed = (*allowed, 0, 4)  # it had ended before the signal came
    if outcome.on_command and outcome.phase == "coming up":
        allowed = (*allowed, -15, -2, -1)  # before it hears signals, nothing has begun
    if outcome.code not in allowed:
        yield f"exit code {outcome.code}, allowed {allowed}: {_tail(outcome.text)}"
    yield from _tone("run", outcome.text, failed=outcome.code in (1, 2, 3, 4))
    if outcome.code >= 0 and outcome.left:
        yield f"the run ended by itself and left: {'; '.join(outcome.left)}"


def _tone(verb: str, text: str, *, failed: bool) -> Iterator[str]:
    """Whether a command spoke to its user."""
    for noise in ("Traceback", "Exception ignored", "Exception in thread", "Error(", "assert", "core dumped"):
        if noise in text:
            yield f"{verb}: {noise} in what it says: {_tail(text)}"
            break
    if failed and "error: " not in text:
        yield f"{verb}: failed without a word: {_tail(text)}"


def _directory(outcome: Outcome) -> Iterator[str]:
    if outcome.report_code is not None:
        yield from _tone("report", outcome.report_text, failed=outcome.report_code != 0)
        if outcome.has_manifest and outcome.report_code not in (0, 2):
            yield f"report ended with {outcome.report_code}: {_tail(outcome.report_text)}"
        if outcome.has_manifest and outcome.report_code == 2 and "has no records" not in outcome.report_text:
            yield f"the run directory cannot be read: {_tail(outcome.report_text)}"
    if outcome.code == 1 and outcome.has_manifest and outcome.phase == "running" and RUN_DIRECTORY not in outcome.text:
        yield f"it does not say where the records are: {_tail(outcome.text)}"
    harmless = outcome.harmless and outcome.did and not _refused(outcome)
    if outcome.facts is None and (outcome.code in (0, 4) or harmless):
        yield f"the run left no summary: {_tail(outcome.text)}"


def _truth(outcome: Outcome) -> Iterator[str]:
    facts = outcome.facts
    if facts is None:
        return
    counted = facts.counted
    if counted["arrived"] != counted["completed"] + counted["failed"] + counted["in_flight"]:
        yield f"tasks do not add up: {counted}"
    if counted["arrived"] != sum(facts.rows.values()) or any(
        counted[status] != facts.rows.get(status, 0) for status in ("completed", "failed", "in_flight")
    ):
        yield f"the summary counts {counted}, the table {facts.rows}"
    if facts.doubles:
        yield f"{facts.doubles} tasks were recorded twice"
    if facts.backwards:
        yield f"{facts.backwards} completed tasks without a stamp, or with stamps out of order"
    for ue, number in facts.arrived.items():
        if number > outcome.expected.get(ue, 0):
            yield f"{ue}: {number} tasks arrived, by the law of arrivals only {outcome.expected.get(ue, 0)}"
    # with a disk that was full when tables were to be written, the run is whole, and `report` finds that out later
    late_report = outcome.code == 1 and outcome.report_code == 0 and "what was recorded is safe" in outcome.text
    if facts.valid and outcome.code != 0 and not outcome.on_command and not late_report:
        yield f"exit code {outcome.code}, and the run is valid"
    if not facts.valid and outcome.code == 0:
        yield f"exit code 0, and the run is invalid: {facts.reasons}"
    others = [reason for reason in facts.reasons if not reason.startswith(OF_TIME)]
    if not others:
        yield from _whole(outcome, facts)
    if not facts.valid and not facts.reasons:
        yield "invalid without a reason"
    if outcome.harmless and outcome.did and others:
        yield f"what must cost nothing made the run invalid: {others}"


def _whole(outcome: Outcome, facts: RunFacts) -> Iterator[str]:
    """A valid run has lost nothing; nor has one that would be valid on a quieter host."""
    if facts.arrived != outcome.expected:
        yield f"nothing is said to be missing, and of {outcome.expected} tasks it has {facts.arrived}"
    for ue, (arrived, ended) in facts.told.items():
        if (facts.arrived.get(ue, 0), facts.ended.get(ue, 0)) != (arrived, ended):
            yield (
                f"nothing is said to be missing, and {ue} told of {arrived} arrivals, {ended} ends: "
                f"{facts.arrived}, {facts.ended}"
            )
    if facts.ended_programs:
        yield f"nothing is said to be missing, and programs ended: {facts.ended_programs}"
    # a recorder that is asked to end writes what still comes, for some seconds: the run may be over by then
    patient = {"recorder"} if outcome.event.startswith("SIGTERM") else set()
    dead = [victim for victim in outcome.victims if NEEDED.fullmatch(victim) and victim not in patient]
    silent = any(
        reason.startswith(("stale_report_ratio", "oldest_report")) for reason in facts.reasons
    )  # a fair way to say it
    if outcome.lethal and outcome.did and outcome.phase == "running" and dead and not silent:
        yield f"nothing is said to be missing, and {', '.join(dead)} did not live to its end"


def _seconds(outcome: Outcome) -> Iterator[str]:
    for other in outcome.others:
        if other.code is None:
            yield f"{other.verb} beside the run hung"
            continue
        yield from _tone(other.verb, other.text, failed=other.code in (1, 2, 3, 4))
        first = outcome.phase == "coming up" and (other.verb == "down" or _refused(outcome))  # it came before the run
        if other.lab_was_busy and (other.code != 1 or BUSY not in other.text) and not (first and other.code == 0):
            yield f"{other.verb} beside the run ended with {other.code}: {_tail(other.text)}"


def _refused(outcome: Outcome) -> bool:
    """Whether another command was first, and the run was told so."""
    told = BUSY in outcome.text or "a lab of this name is up" in outcome.text
    return outcome.phase == "coming up" and outcome.code in (1, 2) and told


def _host(outcome: Outcome) -> Iterator[str]:
    if outcome.down_code != 0:
        yield f"down ended with {outcome.down_code}: {_tail(outcome.down_text)}"
    yield from _tone("down", outcome.down_text, failed=outcome.down_code in (1, 2, 3))
    if outcome.left_after_down:
        yield f"down left: {'; '.join(outcome.left_after_down)}"
    if outcome.host:
        yield f"the host is not as before: {'; '.join(outcome.host)}"


def _tail(text: str) -> str:
    return " | ".join(line for line in text.strip().splitlines()[-3:])[-600:]
