"""What this host's kernel and programs can do for wires, found by trying it in a namespace that is thrown away."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from testbed.errors import HostError
from testbed.runtime.host import executables
from testbed.runtime.host.namespaces import run_in_new

#: By what packets are delayed and lost.
Delayer = Literal["netem", "vde"]

_TRIALS = {
    "htb": ["qdisc add dev lo root handle 1: htb default 1"],
    "u32": [
        "qdisc add dev lo ingress",
        "filter add dev lo parent ffff: protocol all prio 2 u32 match u32 0 0 flowid 1:1",
    ],
    "mirred": [
        "filter add dev lo parent ffff: protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev lo"
    ],
    "netem": ["qdisc del dev lo root", "qdisc add dev lo root netem delay 1ms"],
    # from Linux 6.6 and iproute2 6.6 on
    "netem_seed": ["qdisc change dev lo root netem delay 1ms seed 1"],
}
VDE_PROGRAM = "wirefilter"
_TUN = "/dev/net/tun"
_SYSCTLS = Path("/proc/sys/net/ipv4")
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x2, 0x1000

_NETEM_FIX = "use a kernel with sch_netem (modprobe sch_netem; on Debian and Ubuntu it is in linux-modules-extra)"
_VDE_FIX = "install the vde wire (apt install vde2), which needs root and /dev/net/tun"
#: What is missing, and the ways to get it.
_FIXES = {
    "htb": "Use a kernel with CONFIG_NET_SCH_HTB, or load its module: modprobe sch_htb.",
    "u32": "Use a kernel with CONFIG_NET_CLS_U32, or load its module: modprobe cls_u32.",
    "mirred": "Use a kernel with CONFIG_NET_ACT_MIRRED, or load its module: modprobe act_mirred.",
    "netem": f"{_NETEM_FIX[0].upper()}{_NETEM_FIX[1:]}, or take it out of the lab's links.",
    "vde": f"{_VDE_FIX[0].upper()}{_VDE_FIX[1:]}, or {_NETEM_FIX}.",
    "delayer": f"There are two ways: {_NETEM_FIX}, or {_VDE_FIX}.",
}
_MISSING = {"delayer": "netem, and vde in its place"}


@dataclass(frozen=True)
class Capabilities:
    htb: bool
    u32: bool
    mirred: bool
    netem: bool
    netem_seed: bool
    vde: bool  # its program, and a TAP can be made
    tcp_rto_max: bool  # the sysctl net.ipv4.tcp_rto_max_ms (Linux 6.15)
    congestion_controls: tuple[str, ...]

    @property
    def delayer(self) -> Delayer | None:
        """What gives wires their delay, jitter and loss."""
        return "netem" if self.netem else "vde" if self.vde else None

    def require(self, asked: str, *needed: str) -> None:
        """Raises HostError that says what was asked, what is missing and the ways to get it."""
        for name in needed:
            if not getattr(self, name):
                missing = f"{_MISSING.get(name, name)} (kernel {_release()})"
                raise HostError(f"{asked} was asked for", missing=missing, fix=_FIXES[name])


@cache
def probe() -> Capabilities:
    """What works here; measured once per process. Raises HostError where not even a namespace can be made."""
    _, tc = executables.require("making wires", "ip", "tc")
    works, tap = run_in_new(
        lambda: ({name: [_tc(tc, trial) for trial in trials][-1] for name, trials in _TRIALS.items()}, _tap())
    )
    return Capabilities(
        **works,
        vde=tap and executables.find(VDE_PROGRAM) is not None,
        tcp_rto_max=(_SYSCTLS / "tcp_rto_max_ms").exists(),
        congestion_controls=_congestion_controls(),
    )


def require_congestion_control(name: str, ue: str) -> None:
    """Have the kernel know a congestion control: its module is loaded where that is allowed. Raises HostError."""
    if name in probe().congestion_controls:
        return
    module = f"tcp_{name}"
    modprobe = executables.find("modprobe")
    if os.geteuid() == 0 and modprobe is not None:
        subprocess.run([modprobe, module], capture_output=True, check=False)
    found = _congestion_controls()
    if name not in found:
        raise HostError(
            f"the congestion control {name!r} of {ue!r} was asked for",
            missing=f"it (kernel {_release()} has {', '.join(found)})",
            fix=f"Load its module as root (modprobe {module}), or name another under link.congestion_control.",
        )


def _congestion_controls() -> tuple[str, ...]:
    return tuple((_SYSCTLS / "tcp_available_congestion_control").read_text(encoding="ascii").split())


def _tc(tc: str, arguments: str) -> bool:
    return subprocess.run([tc, *arguments.split()], capture_output=True, check=False).returncode == 0


def _tap() -> bool:
    """Whether a TAP can be made here; it goes with its descriptor."""
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", b"tap0", _IFF_TAP | _IFF_NO_PI))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _release() -> str:
    return Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
