"""What the command line says: on any terminal, of any error of the system, in one paragraph."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from rich.table import Table

from testbed.cli import main, tables, terminal
from testbed.cli import main as entry
from testbed.errors import os_error_text
from testbed.monitoring import bringup

TRACE = Path(__file__).parents[2] / "topologies" / "traces" / "drive.up"


def verb(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "testbed", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["iso8859-1", "cp1252", "utf-8"])
def test_a_plot_on_any_terminal(encoding: str) -> None:
    shown = verb("trace", "show", str(TRACE), PYTHONIOENCODING=encoding)
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode(encoding)
    assert ("█" in text) == (encoding == "utf-8")
    assert ("#" in text) == (encoding != "utf-8")


def test_what_an_encoding_lacks_is_shown_as_something_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.prepare()
    stream.write("– ± 3 µs … 界 \udcff")  # the last: a byte of a file name that is not UTF-8
    stream.flush()
    assert stream.buffer.getvalue().decode() == r"- +- 3 us ... \u754c \udcff"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/run/x"), "/run/x: No space left on device. Free some"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "/root/x: Permission denied. This user may"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device link."),
        (OSError("said\nmuch"), "said."),
        (ConnectionResetError(), "ConnectionResetError."),
    ],
)
def test_an_error_of_the_system_is_one_paragraph(error: OSError, text: str) -> None:
    assert os_error_text(error).startswith(text)
    assert "\n" not in os_error_text(error)


def test_a_full_disk_names_the_file_that_was_being_written() -> None:
    path = Path("/dev/full")
    with pytest.raises(OSError) as caught:
        path.write_bytes(b"x")
    assert caught.value.filename is None
    assert os_error_text(caught.value).startswith("/dev/full: No space left on device. Free some space")


def test_an_error_of_the_system_ends_the_command_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/testbed/x/config/ue1.json")

    monkeypatch.setattr(sys.modules["testbed.cli.main"], "group", command)
    with pytest.raises(SystemExit) as caught:
        entry([])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: /run/testbed/x/config/ue1.json: No space left on device.")


@pytest.mark.parametrize("name", ["run", "simulate", "up", "sweep"])
def test_a_place_where_nothing_can_be_written_is_refused_first(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        main([name, str(tmp_path / "none.yaml"), "--out", str(tmp_path / "file" / "x")])
    assert caught.value.code == 2
    assert "error: --out: nothing can be written there; got " in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_lab_file_that_cannot_be_read(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lab.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        main(["validate", str(path)])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_loopback_never_goes_through_a_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(bringup, "READY_SECONDS", 0.5)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert bringup._await(f"http://127.0.0.1:{server.server_port}/")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_table_loses_no_name_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a-node-with-a-name-of-its-own-{number}" for number in range(6)]
    table = Table(*("column",) * len(names))
    table.add_row(*names)
    tables.show(table)
    out = capsys.readouterr().out
    assert all(name in out for name in names)
    assert len({len(line) for line in out.splitlines()}) == 1
