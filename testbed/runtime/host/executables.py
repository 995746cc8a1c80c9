"""Programs of the host that we run: where they are, and what brings them where they are not.

An ordinary user of Debian has no sbin folder in PATH, and ip, tc, ethtool and dockerd live in one.
"""

from __future__ import annotations

import os
import shutil

from testbed.errors import HostError

SBIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
#: Debian's package of each program that we run.
PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "modprobe": "kmod",
    "wirefilter": "vde2",
    "docker": "docker.io",
    "mmdebstrap": "mmdebstrap",
    "prometheus": "prometheus",
    "dot": "graphviz",
}


def search_path() -> str:
    """PATH with the sbin folders behind it: for ``env`` of what runs other programs itself."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*folders, *(folder for folder in SBIN_FOLDERS if folder not in folders)])


def find(name: str) -> str | None:
    """Path of a program; None if it is not installed."""
    return shutil.which(name, path=search_path())


def lacking(*names: str) -> list[str]:
    """Those of the programs that are not installed."""
    return [name for name in names if find(name) is None]


def require(doing: str, *names: str, fix: str = "") -> list[str]:
    """Paths of programs, in order. Raises HostError that says what they are for and names those that are missing."""
    missing = lacking(*names)
    if missing:
        programs = f"the program {missing[0]} is" if len(missing) == 1 else f"the programs {_list(missing)} are"
        packages = sorted({PACKAGES[name] for name in missing if name in PACKAGES})
        ways = ([f"apt install {' '.join(packages)}"] if packages else []) + ([fix] if fix else [])
        raise HostError(f"{doing}: {programs} missing on this host", fix=f"{', or '.join(ways)}." if ways else "")
    return [path for name in names if (path := find(name)) is not None]


def _list(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
