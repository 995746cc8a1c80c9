"""Named network namespaces under /run/netns, as ``ip netns`` makes them, without forking ``ip`` for each."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from testbed.errors import HostError, TestbedError

NETNS_DIRECTORY = Path("/run/netns")

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x2, 0x4, 0x8
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SHARED = 0x1000, 0x4000, 0x40000, 0x100000
_MNT_DETACH = 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

# Python has no mount, and before 3.12 no os.setns and no os.unshare.
_libc = ctypes.CDLL(None, use_errno=True)
_REFUSED_FIX = "Run as root, or allow unprivileged user namespaces; see `testbed doctor`."

Result = TypeVar("Result")


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _unshare(flags: int, what: str) -> None:
    """unshare(2) for the calling thread. Raises OSError."""
    if sys.version_info >= (3, 12):
        os.unshare(flags)
    else:
        _check(_libc.unshare(flags), f"unshare {what}")


def _setns(descriptor: int, path: Path) -> None:
    """setns(2) for the calling thread. Raises OSError."""
    if sys.version_info >= (3, 12):
        os.setns(descriptor, _CLONE_NEWNET)
    else:
        _check(_libc.setns(descriptor, _CLONE_NEWNET), f"setns {path}")


def mount(source: str, target: Path, flags: int, filesystem: str = "", options: str = "") -> None:
    """mount(2). Raises OSError."""
    arguments = [text.encode() or None for text in (source, str(target), filesystem)]
    _check(
        _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None),
        f"mount {source or filesystem} on {target}",
    )


def bind_mount(source: str, target: Path) -> None:
    """Make ``source`` visible at ``target``. Raises OSError."""
    mount(source, target, _MS_BIND)


def bind_tree(source: str, target: Path) -> None:
    """The same with what is mounted below ``source``. Raises OSError."""
    mount(source, target, _MS_BIND | _MS_REC)


def become_root_of_user_namespace() -> None:
    """Go on as root of a new user namespace and as process 1 of a new process namespace, mounts and network separate.

    The calling process ends with exit code 0 in a child that carries on. It must be single-threaded. Raises OSError.
    """
    user, group = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWNET, "user namespace")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if os.fork() != 0:
        os._exit(0)
    mount("none", Path("/"), _MS_REC | _MS_PRIVATE)
    mount("proc", Path("/proc"), _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "proc")


def enter(path: Path) -> None:
    """Move the calling thread into the network namespace at ``path``. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(descriptor, path)
    finally:
        os.close(descriptor)


def create(names: Sequence[str]) -> None:
    """Create the namespaces that do not exist yet, loopback up and IPv6 off.

    Raises HostError when the kernel refuses.
    """
    missing = [name for name in names if not exists(name)]
    if not missing:
        return
    try:
        _in_own_thread(lambda: _create_here(missing))
    except OSError as error:
        raise HostError(
            f"cannot create network namespaces ({error})",
            fix=_REFUSED_FIX,
        ) from error


def delete(name: str) -> None:
    """Delete one namespace; nothing happens if there is none."""
    path = NETNS_DIRECTORY / name
    if _libc.umount2(str(path).encode(), _MNT_DETACH) != 0:
        code = ctypes.get_errno()
        # EINVAL: a plain file is left where a boot or a crash took the mount away.
        if code not in (errno.EINVAL, errno.ENOENT):
            raise OSError(code, f"umount {path}: {os.strerror(code)}")
    path.unlink(missing_ok=True)


def exists(name: str) -> bool:
    """Whether a live namespace has this name (an unmounted left-over file is none)."""
    path = NETNS_DIRECTORY / name
    return path.exists() and path.stat().st_dev != NETNS_DIRECTORY.stat().st_dev


def names(prefix: str) -> list[str]:
    """Names under /run/netns that start with ``prefix``, left-over files included; sorted."""
    if not NETNS_DIRECTORY.is_dir():
        return []
    return sorted(entry.name for entry in NETNS_DIRECTORY.iterdir() if entry.name.startswith(prefix))


def run_inside(name: str, action: Callable[[], Result]) -> Result:
    """The result of ``action``, called by a thread that is inside namespace ``name``; the process itself never moves.

    Sockets that it opens stay there, programs that it starts begin there, and its exceptions pass through. Raises
    TestbedError if there is no such namespace, HostError if the host does not let us enter it.
    """

    def inside() -> Result:
        try:
            enter(NETNS_DIRECTORY / name)
        except FileNotFoundError:
            raise TestbedError(f"there is no network namespace {name!r}: is the lab up?") from None
        except OSError as error:
            raise HostError(f"cannot enter the network namespace {name!r} ({error})", fix=_REFUSED_FIX) from error
        return action()

    return _in_own_thread(inside)


def run_in_new(action: Callable[[], Result]) -> Result:
    """The result of ``action``, called inside a nameless namespace that ends with the call. Raises HostError."""

    def inside() -> Result:
        try:
            _unshare(_CLONE_NEWNET, "network namespace")
        except OSError as error:
            raise HostError(f"cannot make a network namespace ({error})", fix=_REFUSED_FIX) from error
        return action()

    return _in_own_thread(inside)


def _in_own_thread(action: Callable[[], Result]) -> Result:
    # The network namespace belongs to a thread: one that ends afterwards leaves the caller where it was.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(action).result()


def _create_here(missing: Sequence[str]) -> None:
    _prepare_directory()
    for name in missing:
        path = NETNS_DIRECTORY / name
        path.touch(mode=0o444)
        _unshare(_CLONE_NEWNET, "network namespace")
        _set_up_namespace()
        bind_mount("/proc/thread-self/ns/net", path)


def _prepare_directory() -> None:
    """A shared mount, as ``ip netns`` does it: a deletion must reach the mount namespaces that copied it."""
    NETNS_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        mount("", NETNS_DIRECTORY, _MS_SHARED | _MS_REC, "none")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount(str(NETNS_DIRECTORY), NETNS_DIRECTORY, _MS_BIND | _MS_REC, "none")
        mount("", NETNS_DIRECTORY, _MS_SHARED | _MS_REC, "none")


def _set_up_namespace() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    for scope in ("all", "default"):
        setting = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if setting.exists():
            setting.write_text("1")
