"""Files of a lab's state that were cut short, as by a full disk: one sentence, or the next best answer."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from testbed.errors import TestbedError
from testbed.protocol.configs import RecorderConfig, read_config, write_config
from testbed.runtime.docker.docker_entry import UNREADABLE, StartOrder, order_path, program_of


@pytest.mark.parametrize("size", [0, 1, 30])
def test_a_torn_config_is_told_by_its_name(tmp_path: Path, size: int) -> None:
    path = tmp_path / "recorder.json"
    config = RecorderConfig("lab", "run", "recorder", str(tmp_path), str(tmp_path))
    write_config(config, path)
    assert read_config(path, RecorderConfig) == config
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(TestbedError, match=r"recorder\.json cannot be read"):
        read_config(path, RecorderConfig)


def test_a_container_whose_order_was_torn_has_a_program(tmp_path: Path) -> None:
    path = order_path(tmp_path, "ue1")
    path.parent.mkdir(parents=True)
    assert program_of(tmp_path, "ue1") == ""
    path.write_bytes(msgspec.json.encode(StartOrder("testbed.programs.ue.main", "/c.json")))
    assert program_of(tmp_path, "ue1") == "testbed.programs.ue.main"
    for torn in (path.read_bytes()[:20], b"", b"\xff\xfe"):
        path.write_bytes(torn)
        assert program_of(tmp_path, "ue1") == UNREADABLE
