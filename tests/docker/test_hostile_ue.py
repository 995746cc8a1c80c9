"""A UE whose model attacks the lab from inside its container: neither what it says nor what it does harms others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulation.conftest import Bench
from tests.emulation.hostile import attack, check_messages

pytestmark = [pytest.mark.docker, pytest.mark.root]


def test_a_hostile_ue_harms_nobody(docker_bench: Bench, tmp_path: Path) -> None:
    run = attack(docker_bench, tmp_path)
    check_messages(run)
    outcomes = run.outcomes
    assert outcomes["command_the_lab"].endswith("the operator's sockets: none")
    assert outcomes["reach_anothers_wire"] == "reached []"
    seen = "['ipc', 'ipc/mallory', 'orders', 'orders/mallory', 'shared']"
    assert outcomes["look_around"] == f"{seen}, 1 processes"
    assert outcomes["fill_folders"] == "mallory: EROFS, ipc: EROFS, shared: EROFS, run: EROFS, opt: EROFS, tmp: ENOSPC"
