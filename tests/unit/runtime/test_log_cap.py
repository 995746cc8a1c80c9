"""Logs lie in memory: they forget their beginning, and whoever writes goes on."""

from __future__ import annotations

from pathlib import Path

from testbed.runtime.processes.child import LOG_BYTES, cap_log

LINE = b"%09d of the log\n"


def test_a_log_that_has_grown_too_long_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / "ue1.log"
    count = LOG_BYTES // len(LINE % 0) + 1000
    with path.open("ab", buffering=0) as program:
        program.write(b"".join(LINE % number for number in range(count)))
        cap_log(path)
        program.write(b"and on\n")
    first, *lines = path.read_bytes().splitlines(keepends=True)
    assert b"forgotten" in first
    assert lines[-2:] == [LINE % (count - 1), b"and on\n"]
    assert lines[:-1] == [LINE % number for number in range(count - len(lines) + 1, count)]
    assert LOG_BYTES // 2 - 100 < path.stat().st_size < LOG_BYTES // 2 + 200


def test_a_short_log_and_none_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "ue1.log"
    cap_log(path)
    assert not path.exists()
    path.write_bytes(b"x" * LOG_BYTES)
    cap_log(path)
    assert path.stat().st_size == LOG_BYTES
