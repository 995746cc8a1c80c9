"""The messages, spoken by a program that has none of our code: docs/protocol.md is enough for a device."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_lab import FakeLab

from benchmarks import pages, protocol_page
from controller.contract import ALL_ON_EDGE
from controller.service import protocol
from testbed.protocol.sockets import socket_path


@pytest.mark.quiet
@pytest.mark.thorough  # it waits for a controller's imports and for slots
def test_a_ue_of_sixty_lines_is_steered_through_a_run(tmp_path: Path) -> None:
    """It is greeted, started, decided for in every slot, drained and stopped; its reports are in the books."""
    directory = tmp_path / "lab"
    plain = [sys.executable, str(protocol_page.PLAIN_UE), str(socket_path(directory, "ue1", "control")), "ue1"]
    with (
        FakeLab(directory, policy="edge-only", elsewhere=["ue1"]) as lab,
        subprocess.Popen(plain, stdout=subprocess.PIPE, text=True) as ue,
    ):
        try:
            lab.wait(lambda status: status.state == "ready")
            lab.client.begin(1.0, 5.0)
            stopped = lab.wait(lambda status: status.state == "stopped")
            said, _ = ue.communicate(timeout=20)
            assert lab.wait_end() == 0
        finally:
            ue.kill()
    assert ue.returncode == 0
    decisions = [json.loads(line) for line in said.splitlines()]
    assert [one["sequence"] for one in decisions] == list(range(len(decisions)))
    assert len(decisions) > 3
    assert decisions[0]["cut"] == []  # until the policy has decided
    assert {tuple(one["cut"]) for one in decisions[1:]} == {ALL_ON_EDGE}
    assert not lab.events("malformed")
    assert stopped.totals["ue1"] == protocol.TaskTotals(stopped.totals["ue1"].ended, stopped.totals["ue1"].ended)
    rows = [row for row in lab.slots() if row.ue == "ue1"]
    assert sum(row.completions for row in rows) == stopped.totals["ue1"].ended > 3
    assert {row.mean_delay_seconds for row in rows if row.completions == 1} == {0.02}


def test_it_has_no_more_than_the_page_promises() -> None:
    text = protocol_page.PLAIN_UE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    imported = {
        alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert not [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    assert imported - sys.stdlib_module_names == {"msgpack", "zmq"}


def test_the_page_is_what_the_program_writes_and_says_something_of_every_field() -> None:
    """``python -m benchmarks.pages`` writes docs/protocol.md's descriptions of the messages."""
    page = (pages.ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert pages.written(page, "messages", protocol_page.described()) == page
    for kind in (*protocol_page.messages(), *protocol_page.PARTS):
        rows = protocol_page.fields(kind)
        assert [row[0] for row in rows] == list(kind.__struct_fields__)
        assert [name for name, *_, meaning in rows if not meaning] == [], kind
        assert kind.__doc__, kind


@pytest.mark.parametrize("says", ["Hello", "UeReport", "Apply", "SetLink", "Status"])
def test_the_page_knows_both_directions(says: str) -> None:
    message = getattr(protocol, says)
    directions = {
        "Hello": "UE, edge, player → controller",
        "UeReport": "UE → controller",
        "Apply": "controller → UE, edge, player",
        "SetLink": "operator → controller → player",
        "Status": "controller → operator",
    }
    assert protocol_page.direction(message) == directions[says]
