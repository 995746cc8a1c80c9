"""Transfers to an edge without models, against the applied rate: one by one, and only undisturbed ones."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_finalise import write_streams

from controller.service.protocol import Message
from testbed.protocol.records import LinkStep, UploadRecord
from testbed.report.fidelity.rates import applied_rates
from testbed.report.fidelity.uplink import transfers_of, uplink_of

RATE = 10e6
DELAY = 0.004


def step(rate: float = RATE) -> LinkStep:
    return LinkStep("ue", "up", 0.0, 0.0, rate, rate, 1.0, "trace", delay_seconds=DELAY)


def transfer(name: str, start: float, seconds: float, *, status: str = "held", resumed: int = 0) -> UploadRecord:
    """That took as long as the rate says."""
    size = round(seconds * RATE / 8)
    kind = "feature" if status == "received" else "parameters"
    end = start + seconds + DELAY
    return UploadRecord("ue", 0, name, kind, status, "", size, size, 0, True, resumed, start, start, start, end, 0, 0)


def test_what_had_the_link_to_itself_is_judged(tmp_path: Path) -> None:
    records: list[Message] = [
        step(),
        transfer("first", 1.0, 0.1),
        transfer("interrupted", 1.1, 0.3),
        transfer("value", 1.2, 0.05, status="received"),
        transfer("after", 1.4, 0.2),
        transfer("broken", 1.7, 0.1, resumed=1),
        transfer("refused", 1.8, 0.1, status="refused"),
        transfer("alone", 3.0, 0.1),
        transfer("never", math.nan, 0.1),
    ]
    tables = write_streams(tmp_path, records)
    (rate,) = applied_rates(tables.links, "up").values()
    transfers = transfers_of(tables, "ue", rate)
    assert transfers.start.tolist() == [1.0, 1.4, 3.0]
    assert not transfers.follows.any()
    assert transfers.bits == pytest.approx(transfers.integral_bits, rel=1e-6)
    judged = uplink_of(tables, "ue", rate)
    assert judged.bits == pytest.approx(judged.integral_bits, rel=1e-6)
    assert judged.stage_seconds == pytest.approx(judged.predicted_seconds, rel=1e-6)


def test_a_link_that_was_slower_than_applied_shows(tmp_path: Path) -> None:
    records: list[Message] = [step(2 * RATE), *(transfer(str(n), 1.0 + n, 0.5) for n in range(5))]
    tables = write_streams(tmp_path, records)
    (rate,) = applied_rates(tables.links, "up").values()
    judged = uplink_of(tables, "ue", rate)
    assert judged.integral_bits / judged.bits == pytest.approx(2.0)
