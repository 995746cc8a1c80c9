"""What the chaos test calls a fault: each rule by an outcome that breaks it, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.chaos.experiment import pick
from benchmarks.chaos.facts import RunFacts
from benchmarks.chaos.judge import Outcome, Second, faults

FACTS = RunFacts(
    valid=False,
    reasons=("processes_died is 1, limit 0",),
    counted={"arrived": 30, "completed": 20, "failed": 6, "in_flight": 4},
    rows={"completed": 20, "failed": 6, "in_flight": 4},
    arrived={"ue1": 10, "ue2": 20},
    ended={"ue1": 10, "ue2": 16},
    doubles=0,
    backwards=0,
    ended_programs={"ue1": "killed"},
    told={"ue1": (10, 10), "ue2": (20, 16)},
)
WHOLE = replace(
    FACTS,
    valid=True,
    reasons=(),
    counted={"arrived": 30, "completed": 30, "failed": 0, "in_flight": 0},
    rows={"completed": 30},
    ended={"ue1": 10, "ue2": 20},
    ended_programs={},
    told={"ue1": (10, 10), "ue2": (20, 20)},
)
KILLED = Outcome(
    event="kill -9 of a program",
    did="ue1",
    phase="running",
    codes=(0, 1, 4),
    harmless=False,
    on_command=False,
    lethal=True,
    victims=("ue1",),
    code=4,
    text="- creating 7 nodes\nerror: the run is invalid: processes_died is 1, limit 0. See out/run\n",
    seconds_after=9.0,
    left=(),
    report_code=0,
    report_text="invalid: processes_died is 1, limit 0\n",
    has_manifest=True,
    facts=FACTS,
    expected={"ue1": 10, "ue2": 20},
    down_code=0,
    down_text="",
    left_after_down=(),
    host=(),
)
BESIDE = replace(
    KILLED, event="a second up", did="up", harmless=True, lethal=False, victims=(), code=0, facts=WHOLE, text="",
    others=(Second("up", 1, "error: another command is running this lab, pid 7.", True),),
)  # fmt: skip


def test_what_is_as_promised_has_no_fault() -> None:
    assert faults(KILLED) == []
    assert faults(BESIDE) == []
    nothing = replace(KILLED, did="", phase="over", code=0, facts=WHOLE, text="")
    assert faults(nothing) == []
    gone = replace(
        KILLED, on_command=True, codes=(-9,), code=-9, left=("namespace tb.x.ue1",), facts=None, victims=(),
        lethal=False, report_code=2, report_text="error: out/run: the run has no records.",
    )  # fmt: skip
    assert faults(gone) == [], "what a killed command leaves is for `down`"


@pytest.mark.parametrize(
    ("outcome", "changes", "fault"),
    [
        (KILLED, {"code": None}, "hung"),
        (KILLED, {"code": 3}, "exit code 3"),
        (KILLED, {"code": 1, "text": "error: the edge ended"}, "where the records are"),
        (KILLED, {"text": "Traceback (most recent call last):\nerror: x"}, "Traceback"),
        (KILLED, {"text": "- creating 7 nodes\n"}, "without a word"),
        (KILLED, {"text": "error: ('aborted', OSError(2, 'No such file')) out/run"}, "Error( in what it says"),
        (KILLED, {"left": ("process 7 tb-edge",)}, "left"),
        (KILLED, {"report_code": 1, "report_text": "error: no"}, "report ended with 1"),
        (KILLED, {"report_code": 2, "report_text": "error: the manifest cannot be read"}, "cannot be read"),
        (KILLED, {"facts": None}, "no summary"),
        (KILLED, {"facts": replace(FACTS, counted={**FACTS.counted, "failed": 5})}, "add up"),
        (KILLED, {"facts": replace(FACTS, rows={**FACTS.rows, "failed": 7})}, "the table"),
        (KILLED, {"facts": replace(FACTS, doubles=1)}, "twice"),
        (KILLED, {"facts": replace(FACTS, backwards=1)}, "out of order"),
        (KILLED, {"facts": replace(FACTS, arrived={"ue1": 11, "ue2": 19})}, "by the law of arrivals only 10"),
        (KILLED, {"facts": replace(FACTS, reasons=())}, "without a reason"),
        (KILLED, {"code": 0}, "exit code 0, and the run is invalid"),
        (KILLED, {"facts": WHOLE}, "and the run is valid"),
        (KILLED, {"facts": WHOLE, "code": 0}, "did not live"),
        (KILLED, {"down_code": 1, "down_text": "error: not everything"}, "down ended with 1"),
        (KILLED, {"left_after_down": ("file /run/testbed/x",)}, "down left"),
        (KILLED, {"host": ("link new: u0",)}, "not as before"),
        (BESIDE, {"facts": replace(WHOLE, arrived={"ue1": 9, "ue2": 20}, told={})}, "missing, and of"),
        (BESIDE, {"facts": replace(WHOLE, ended={"ue1": 9, "ue2": 20})}, "told of"),
        (BESIDE, {"facts": replace(WHOLE, ended_programs={"edge": "x"})}, "programs ended"),
        (BESIDE, {"facts": replace(FACTS, reasons=("lost is 2",)), "code": 4, "text": "error: x"}, "cost nothing"),
        (BESIDE, {"others": (Second("up", 0, "", True),)}, "up beside the run ended with 0"),
        (BESIDE, {"others": (Second("up", None, "", True),)}, "hung"),
    ],
)  # fmt: skip
def test_each_rule_is_broken_by_something(outcome: Outcome, changes: dict[str, Any], fault: str) -> None:
    found = faults(replace(outcome, **changes))
    assert any(fault in line for line in found), found


def test_a_busy_host_is_no_fault_of_a_run_that_lost_nothing() -> None:
    slow = replace(WHOLE, valid=False, reasons=("overrun_ratio is 7.28 %, limit 1 %", "cause: other processes"))
    busy = replace(BESIDE, facts=slow, code=4, text="error: invalid")
    assert faults(busy) == []
    lost = replace(slow, arrived={"ue1": 9, "ue2": 20}, told={})
    assert any("missing, and of" in line for line in faults(replace(busy, facts=lost))), "nor is it an excuse"


def test_who_comes_first_is_served() -> None:
    early = replace(BESIDE, phase="coming up", facts=None, code=1, text=f"error: {BESIDE.others[0].text}")
    assert faults(replace(early, others=(Second("up", 0, "", True),))) == []
    assert faults(replace(BESIDE, phase="coming up", others=(Second("down", 0, "", True),))) == []
    assert faults(replace(BESIDE, phase="coming up", others=(Second("up", 0, "", True),))) != [], "both had it"
    assert faults(replace(early, text="error: the edge ended")) != [], "nobody was first"


def test_every_event_comes_before_one_comes_again() -> None:
    netns = [pick("netns", 1, index) for index in range(60)]
    count = len(set(netns))
    assert sorted(netns[:count]) == sorted(netns[count : 2 * count]) == sorted(set(netns))
    assert netns[:count] != netns[count : 2 * count]
    assert netns == [pick("netns", 1, index) for index in range(60)]
    assert not any("container" in name for name in netns)


def test_a_whole_run_is_none_the_worse_for_tables_that_were_written_later() -> None:
    text = "error: Tables cannot be written (out/run: No space left); what was recorded is safe: make them with report"
    full = replace(
        KILLED, event="a full disk", phase="ending", victims=(), lethal=False, code=1, facts=WHOLE, text=text
    )
    assert faults(full) == []
    assert any("and the run is valid" in line for line in faults(replace(full, text="error: out/run")))


def test_a_recorder_that_is_asked_to_end_may_write_all_that_comes_until_the_run_is_over() -> None:
    ended = replace(KILLED, event="SIGTERM to a program", did="recorder", victims=("recorder",), code=0, facts=WHOLE)
    assert faults(replace(ended, text="")) == []
    lost = replace(WHOLE, arrived={"ue1": 9, "ue2": 20}, told={})
    assert any("missing, and of" in line for line in faults(replace(ended, text="", facts=lost)))
    assert any("did not live" in line for line in faults(replace(ended, text="", event="kill -9 of a program")))
