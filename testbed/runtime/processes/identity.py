"""Whose a lab is: a random id, who made it, on which host and in which namespaces.

Names are not enough. Another container's root has the same uid, and its labs may have the same names; on one engine
there are containers of several hosts' or users' labs; and ``sudo`` makes one root of many people.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

#: Environment variable of a lab's processes and containers.
ID_VARIABLE = "TESTBED_LAB_ID"
#: The user of every container of ours, and of the monitoring programs that root starts; also the group of the sockets
#: that host and containers share.
CONTAINER_UID = 65532
_FILE = "owner.json"


class Identity(msgspec.Struct, frozen=True):
    """``LAB_DIR/owner.json``."""

    id: str  # random: tells a lab from all others of its name
    maker_uid: int  # of the person: who called sudo, where root acts for somebody


def person() -> int:
    """Uid of who gives this command: behind sudo, that of who called it; in a lab without root, that of its user."""
    uid = _outer(os.geteuid())
    behind = os.environ.get("SUDO_UID", "")
    return int(behind) if uid == 0 and behind.isdigit() else uid


def _outer(uid: int) -> int:
    """What a uid of this user namespace is outside of it."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, count = (int(number) for number in line.split())
        if inside <= uid < inside + count:
            return uid - inside + outside
    return uid


def identity_of(lab_directory: Path) -> Identity:
    """The lab's identity; a new one, written, where it has none. Its directory exists."""
    found = read_identity(lab_directory)
    if found is None:
        found = Identity(secrets.token_hex(8), person())
        partial = lab_directory / f"{_FILE}.partial"
        partial.write_bytes(msgspec.json.encode(found))
        partial.rename(lab_directory / _FILE)
    return found


def read_identity(lab_directory: Path) -> Identity | None:
    """None where there is none, or none that can be read."""
    with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode((lab_directory / _FILE).read_bytes(), type=Identity)
    return None


def made_by_others(labs: Iterable[str], state_root: Path) -> dict[str, str]:
    """Those of the labs that another person made: lab -> who that is. One that does not say is whoever's asks."""
    found = {lab: read_identity(state_root / lab) for lab in labs}
    return {
        lab: _name(identity.maker_uid)
        for lab, identity in found.items()
        if identity is not None and identity.maker_uid != person()
    }


@cache
def host_id() -> str:
    """What tells this host (or container) from others that use the same engine."""
    for path in (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")):
        with suppress(OSError):
            if text := path.read_text().strip():
                return hashlib.sha256(f"testbed {text}".encode()).hexdigest()[:16]
    return "unknown"


def is_local(pid: int, environment: Mapping[bytes, bytes], known_ids: Iterable[str]) -> bool:
    """Whether a process that says it is a lab's is one of ours, and not of another container on this host.

    Ours are those whose id is in our state, and those that share our process and mount namespaces. Raises OSError.
    """
    if environment.get(ID_VARIABLE.encode(), b"").decode(errors="replace") in known_ids:
        return True
    return all(
        os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115
        for kind in ("pid", "mnt")
    )


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
