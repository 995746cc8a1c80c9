"""Process 1 of the guest, after ``init``: modules, a root that can be written to, cgroups; then the job and the end.

Standard library only, and nothing but this file: it runs before there is a place to write byte code to.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

MODULES = Path("/usr/lib/uml/modules") / os.uname().release
#: What plumbing and the tests use: there is no modprobe that the kernel could call when it misses one.
NEEDED = (
    *("overlay", "veth", "tun", "ifb", "bridge"),
    *("sch_htb", "sch_netem", "sch_tbf", "sch_ingress", "cls_u32", "act_mirred", "tcp_bbr"),
)
_FINIT_MODULE = 313  # x86-64
_EEXIST = 17
_MS_MOVE = 0x2000

libc = ctypes.CDLL(None, use_errno=True)


def load(names: tuple[str, ...]) -> None:
    """Load modules and what they need, as modprobe would. Raises OSError."""
    paths: dict[str, list[str]] = {}
    for line in (MODULES / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        paths[Path(path).stem.replace("-", "_")] = [path, *needs.split()]
    for name in names:
        for path in reversed(paths[name]):
            descriptor = os.open(MODULES / path, os.O_RDONLY)
            if libc.syscall(_FINIT_MODULE, descriptor, b"", 0) != 0 and ctypes.get_errno() != _EEXIST:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
            os.close(descriptor)


def mount(kind: str, target: str, options: str = "", source: str = "none", flags: int = 0) -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode())
    if libc.mount(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind} {options}: {os.strerror(ctypes.get_errno())}", target)


def make_root(folder: str) -> None:
    """The host's files with a layer in memory above them: what the guest writes is gone at its end.

    Only ``folder`` is the host's own. The mount is moved over the old root because user namespaces are refused to
    a process in a mere chroot.
    """
    mount("tmpfs", "/mnt", "mode=755")
    for name in ("above", "work", "root"):
        Path("/mnt", name).mkdir()
    mount("overlay", "/mnt/root", "lowerdir=/,upperdir=/mnt/above,workdir=/mnt/work")
    os.chdir("/mnt/root")
    mount("", "/", source=".", flags=_MS_MOVE)
    os.chroot(".")
    os.chdir("/")
    mount("proc", "/proc")
    mount("sysfs", "/sys")
    mount("cgroup2", "/sys/fs/cgroup")
    mount("devtmpfs", "/dev")
    for path in ("/dev/pts", "/dev/shm"):
        Path(path).mkdir(exist_ok=True)
    mount("devpts", "/dev/pts", "newinstance,ptmxmode=666")
    mount("tmpfs", "/dev/shm", "mode=1777")
    mount("tmpfs", "/run", "mode=755")
    # What is in the host's /tmp is none of the guest's business, unless the sources or the interpreter are there.
    if not any(path.is_relative_to("/tmp") for path in (Path(__file__), Path(sys.executable), Path(sys.base_prefix))):
        mount("tmpfs", "/tmp", "mode=1777")
    Path(folder).mkdir(parents=True, exist_ok=True)
    mount("hostfs", folder, folder)
    Path("/dev/fd").symlink_to("/proc/self/fd")


def run(folder: Path) -> int:
    """The exit code of the job in ``folder``; its output goes to the console as it comes."""
    job = json.loads((folder / "job.json").read_text())
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, env=job["environment"])
    with subprocess.Popen(
        job["command"],
        cwd=job["directory"],
        env=job["environment"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        while part := os.read(process.stdout.fileno(), 65536):
            os.write(1, part)
    return process.returncode


def in_child(action: Callable[[], int]) -> int:
    """Exit code of ``action`` in a child, while this process does what process 1 is for: it reaps every orphan."""
    worker = os.fork()
    if worker == 0:
        code = 1
        try:
            code = action()
        except (OSError, ValueError, subprocess.CalledProcessError):  # it must not go on as a second process 1
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code if code >= 0 else 128 - code)
    while True:
        pid, status = os.wait()
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def main(folder: Path) -> None:
    try:
        load(NEEDED)
        make_root(str(folder))
        (folder / "exit_code").write_text(str(in_child(lambda: run(folder))))
    except (OSError, KeyError):  # process 1 must not end: the kernel would panic and hide why
        traceback.print_exc()
    sys.stdout.flush()
    os.sync()
    Path("/proc/sysrq-trigger").write_text("o")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
