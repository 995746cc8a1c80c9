"""The zygote forks only while it has one thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.runtime.netns.netns_runtime import ONE_THREAD

SOURCES = Path(__file__).parents[3]


def prepare(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    (tmp_path / "zygote_probe.py").write_text(code)
    script = (
        "from testbed.runtime.processes.zygote import Call, Preparation, prepare\n"
        "prepare(Preparation((), (Call('zygote_probe:load', ('name', 3)),)))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": f"{SOURCES}:{tmp_path}", **dict.fromkeys(ONE_THREAD, "1")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_calls_are_made_with_their_arguments(tmp_path: Path) -> None:
    result = prepare("def load(name, seed):\n    print(name, seed)\n", tmp_path)
    assert (result.returncode, result.stdout) == (0, "name 3\n")


def test_a_model_that_starts_threads_is_refused(tmp_path: Path) -> None:
    code = (
        "import threading, time\n"
        "def load(name, seed):\n    threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
    )
    result = prepare(code, tmp_path)
    assert result.returncode != 0
    assert "2 threads before the first fork" in result.stderr


@pytest.mark.thorough
def test_torch_can_be_imported_without_threads(tmp_path: Path) -> None:
    code = "import torch\ndef load(name, seed):\n    torch.set_num_threads(1)\n"
    assert prepare(code, tmp_path).returncode == 0
