"""Programs of an ordinary user, started by root: what labs without root are tried with."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

USER = pwd.getpwnam("nobody")
ROOT = Path(__file__).parents[1]

#: Becomes the user in a mount namespace of its own, where directories that are closed to him (/root, usually) hold
#: nothing but what he needs: the interpreter, the virtual environment, the sources.
AS_USER = """
import os, stat, subprocess, sys
from pathlib import Path
uid, gid, needed, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(":"), sys.argv[4:]
paths = [Path(path) for path in needed]
handles = {path: os.open(path, os.O_PATH) for path in paths}
closed = set()
for path in paths:
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & stat.S_IXOTH:
            closed.add(parent)
            break
    else:
        if not path.stat().st_mode & stat.S_IXOTH:
            closed.add(path)
for parent in closed:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", parent], check=True)
for path, handle in handles.items():
    if closed & {path, *path.parents}:
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{handle}", path], check=True)
os.chdir("/tmp")
arguments = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--inh-caps=-all", *command]
os.execvp("setpriv", arguments)
"""


def command_as_user(*command: str) -> list[str]:
    """The command as :data:`USER` may run it from /tmp; the sources are those that this file belongs to."""
    needed = {sys.prefix, sys.base_prefix, str(ROOT)}
    return [
        *("unshare", "-m", sys.executable, "-c", AS_USER, str(USER.pw_uid), str(USER.pw_gid), ":".join(sorted(needed))),
        *command,
    ]


def environment() -> dict[str, str]:
    """Of such a program: nothing of root's own folders."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    return {**kept, "HOME": "/tmp", "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
