"""What this host's kernel and programs can do for wires, found by trying it in a namespace that is thrown away."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from testbed.errors import HostError
from testbed.links.netns import in_new_namespace

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
_VDE_PROGRAMS = ("vde_switch", "vde_plug2tap", "wirefilter")

#: What is missing, and the ways to get it.
_FIXES = {
    "htb": "Use a kernel with CONFIG_NET_SCH_HTB, or load its module: modprobe sch_htb.",
    "u32": "Use a kernel with CONFIG_NET_CLS_U32, or load its module: modprobe cls_u32.",
    "mirred": "Use a kernel with CONFIG_NET_ACT_MIRRED, or load its module: modprobe act_mirred.",
    "netem": "Load its module (modprobe sch_netem; on Debian and Ubuntu it is in linux-modules-extra), or run on a "
    "kernel that has it; without it, take delay, jitter and loss out of the lab's links.",
    "vde": "Install its programs (apt install vde2), or run on a kernel with sch_netem.",
}


@dataclass(frozen=True)
class Capabilities:
    htb: bool
    u32: bool
    mirred: bool
    netem: bool
    netem_seed: bool
    vde: bool  # the programs and /dev/net/tun
    tcp_rto_max: bool  # the sysctl net.ipv4.tcp_rto_max_ms (Linux 6.15)
    congestion_controls: tuple[str, ...]

    def require(self, asked: str, *needed: str) -> None:
        """Raises HostError that says what was asked, what is missing and the ways to get it."""
        for name in needed:
            if not getattr(self, name):
                raise HostError(f"{asked} was asked for", missing=f"{name} (kernel {_release()})", fix=_FIXES[name])


@cache
def probe() -> Capabilities:
    """What works here; measured once per process. Raises HostError where not even a namespace can be made."""
    if shutil.which("tc") is None or shutil.which("ip") is None:
        raise HostError("making wires", missing="the programs ip and tc", fix="apt install iproute2.")
    works = in_new_namespace(lambda: {name: [_tc(trial) for trial in trials][-1] for name, trials in _TRIALS.items()})
    sysctls = Path("/proc/sys/net/ipv4")
    return Capabilities(
        **works,
        vde=all(shutil.which(program) for program in _VDE_PROGRAMS) and Path("/dev/net/tun").exists(),
        tcp_rto_max=(sysctls / "tcp_rto_max_ms").exists(),
        congestion_controls=tuple((sysctls / "tcp_available_congestion_control").read_text(encoding="ascii").split()),
    )


def _tc(arguments: str) -> bool:
    return subprocess.run(["tc", *arguments.split()], capture_output=True, check=False).returncode == 0


def _release() -> str:
    return Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
