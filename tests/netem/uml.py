"""A kernel with sch_netem and cgroup v2 on any x86-64 host: User-Mode Linux, an ordinary process of this user.

The guest sees the host's files (interpreter, virtual environment, sources) below a layer in memory, so that there is no
image to make, and nothing that it does stays behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PARTS = Path(__file__).parent / "guest"
CACHE = REPOSITORY / ".cache" / "uml"
MEMORY_BYTES = 3 << 30
#: Of the environment, what programs need to find each other; the rest is the host's own affair.
_KEPT = ("LANG", "HOME", "PYTHONPATH")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class GuestError(Exception):
    """The guest did not come to an end of its own."""


@dataclass(frozen=True)
class Answer:
    exit_code: int
    output: str


def missing() -> str:
    """Why no guest can be started here; empty if one can."""
    if os.uname().machine != "x86_64":
        return "needs an x86-64 host for User-Mode Linux"
    if shutil.which("linux.uml") is None or not Path("/usr/lib/uml/modules").is_dir():
        return "needs User-Mode Linux: apt install user-mode-linux"
    trial = subprocess.run(_isolated("true"), capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        return f"needs process namespaces: {trial.stderr.strip()}"
    if _needs_shim() and shutil.which("cc") is None:
        return "needs a C compiler, because User-Mode Linux does not know this CPU's AMX registers: apt install gcc"
    free = shutil.disk_usage("/dev/shm").free
    if free < MEMORY_BYTES:
        return f"needs {MEMORY_BYTES >> 30} GiB in /dev/shm for the guest's memory, and {free >> 20} MiB are free"
    return ""


def at_once() -> int:
    """Guests that this host's memory can hold; the same for all who ask, whatever runs now."""
    shared_memory = Path("/dev/shm")
    return shutil.disk_usage(shared_memory).total // MEMORY_BYTES if shared_memory.is_dir() else 0


def run_in_guest(
    command: Sequence[str],
    folder: Path,
    *,
    timeout_seconds: float,
    echo: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Boot, run a command as root in the repository, power off. ``folder`` is the only place that both can write to.

    ``echo`` gets each line of output as it comes. Raises GuestError, with the last lines, for a guest that hung,
    panicked or could not be started; nothing of it is left in any case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "exit_code").unlink(missing_ok=True)
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    job = {
        "command": list(command),
        "directory": str(REPOSITORY),
        "environment": {**kept, "PATH": _PATH, "PYTHONUNBUFFERED": "1", "TERM": "dumb", **(environment or {})},
    }
    (folder / "job.json").write_text(json.dumps(job))
    output: list[str] = []
    hung = threading.Event()
    with subprocess.Popen(
        _isolated("sh", "-c", '"$@"; exit $?', "sh", *_kernel_command(folder)),
        env={**os.environ, **({"LD_PRELOAD": str(_shim())} if _needs_shim() else {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as guest:

        def end() -> None:
            hung.set()
            guest.kill()

        timer = threading.Timer(timeout_seconds, end)
        timer.start()
        try:
            assert guest.stdout is not None
            for raw in guest.stdout:
                line = raw.rstrip()
                output.append(line)
                echo(line)
        finally:
            timer.cancel()
            guest.kill()  # takes the whole process namespace along
    tail = "\n".join(output[-30:])
    if hung.is_set():
        raise GuestError(f"the guest was ended after {timeout_seconds:.0f} s; its last lines:\n{tail}")
    if not (folder / "exit_code").is_file():
        raise GuestError(f"the guest ended without an answer; its last lines:\n{tail}")
    return Answer(int((folder / "exit_code").read_text()), "\n".join(output))


def _kernel_command(folder: Path) -> list[str]:
    return [
        *("linux.uml", f"mem={MEMORY_BYTES >> 20}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"init={PARTS / 'init'}", f"TB_PYTHON={sys.executable}", f"TB_FOLDER={folder}"),
        *("con=null", "con0=null,fd:1", "quiet", "panic=-1", f"uml_dir={folder}"),
    ]


def _isolated(*command: str) -> list[str]:
    """In a process namespace that ends with the command: the guest's processes are processes of the host."""
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *as_root, "--pid", "--fork", "--kill-child", "--mount-proc", *command]


def _needs_shim() -> bool:
    return "amx_tile" in Path("/proc/cpuinfo").read_text().split()


def _shim() -> Path:
    """The compiled ``guest/xstate.c``, cached by its content."""
    source = PARTS / "xstate.c"
    library = CACHE / f"xstate-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not library.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", part, source], check=True)
        part.rename(library)
    return library
