"""Where a user's own files of ours are kept on this host: what was measured, what was downloaded.

A user may have no home (a uid without a passwd entry, a service), or one that is read-only or somebody else's. Then a
private folder under /tmp takes its place: what is kept there is only measured, or downloaded, again.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from testbed.errors import HostError, InputError


def cache_file(*parts: str) -> Path:
    """A file that can be made again: ``$XDG_CACHE_HOME/testbed/...``."""
    return _file("XDG_CACHE_HOME", ".cache", parts)


def state_file(*parts: str) -> Path:
    """A file that belongs to this host: ``$XDG_STATE_HOME/testbed/...``."""
    return _file("XDG_STATE_HOME", ".local/state", parts)


def private_folder() -> Path:
    """``/tmp/testbed-UID``, made if need be, for nobody else. Raises HostError if somebody else owns it."""
    return make_own(Path(f"/tmp/testbed-{os.geteuid()}"), 0o700)


def give_libraries_a_place() -> None:
    """Where there is no home to write to: have matplotlib, numba and torch keep theirs in the private folder."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if home.is_absolute() and can_be_written(home):
        return
    for variable in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        if variable not in os.environ:
            os.environ[variable] = str(private_folder() / ".kept" / variable.partition("_")[0].lower())


def make_own(folder: Path, mode: int) -> Path:
    """The folder, made if need be, whatever the umask. Raises HostError if it is not this user's, or cannot be made."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        status = folder.lstat()
    except OSError as error:
        raise HostError(f"{folder} cannot be made ({error.strerror})") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise HostError(f"{folder} is not a directory of ours", fix="Remove it, or set XDG_RUNTIME_DIR to your own.")
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole at any moment: whoever reads it has the one before, or this one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def open_to_others(path: Path) -> None:
    """Let others (the containers' user) read what is here, whatever the umask; the lab's own folder keeps users out."""
    for entry in (path, *path.rglob("*")):
        if not entry.is_symlink():
            entry.chmod(entry.stat().st_mode | (0o055 if entry.is_dir() else 0o044))


def refuse_links(folder: Path) -> None:
    """For root, who is about to write into a folder: raises InputError for links in one that another user owns.

    They may lead anywhere, and to root everything is open.
    """
    if os.geteuid() != 0 or not folder.is_dir() or folder.stat().st_uid == 0:
        return
    for entry in folder.rglob("*"):
        status = entry.lstat()
        if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
            raise InputError(
                "root follows no links in a folder of another user",
                where=str(folder),
                value=str(entry),
                fix=f"Run this as that user (uid {folder.stat().st_uid}), or remove the link.",
            )


def is_own(folder: Path) -> bool:
    """Whether this user owns a folder and may write into it."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and os.access(folder, os.W_OK | os.X_OK)


def can_be_written(path: Path) -> bool:
    """Whether a file, or a folder, could be made here: what exists of its path is a folder that we may write to."""
    for folder in (path, *path.parents):
        try:
            folder.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return False


def _file(variable: str, below_home: str, parts: tuple[str, ...]) -> Path:
    """Where the file is; where it is nowhere, the first place where it can be made."""
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    bases = (os.environ.get(variable, ""), f"{home}/{below_home}")
    candidates = [Path(base).joinpath("testbed", *parts) for base in bases if base.startswith("/")]
    for path in candidates:
        if os.access(path, os.R_OK):
            return path
    for path in candidates:
        if can_be_written(path.parent):
            return path
    return private_folder().joinpath(".kept", below_home.replace("/", "-").lstrip("."), *parts)


def reach(folder: Path) -> None:
    """Let modules of a folder (a lab file's: models, policies) be imported, here and in what is started from here."""
    if str(folder.absolute()) not in sys.path:
        sys.path.append(str(folder.absolute()))
