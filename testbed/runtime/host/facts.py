"""Facts about this host that decide what a lab can do on it."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from testbed.inference.profiles import REFERENCE_CORE_FRACTION, host_cpu
from testbed.runtime.host import executables, realtime
from testbed.runtime.host.cgroups import Version, detect, own_quota_cores
from testbed.runtime.host.state import system_lock


@dataclass(frozen=True)
class HostFacts:
    """Goes into every manifest; ``doctor`` and ``validate`` judge by it."""

    kernel: str
    preemption: str  # the kernel's model as it names it; "unknown" where it does not say
    cpu: str
    cpus: tuple[int, ...]  # that this process may use, as the kernel numbers them
    quota_cores: float  # that a quota on the container (or service) in which this runs leaves it; infinite without one
    memory_bytes: int
    cgroup_version: Version  # that we may write to
    cpusets: bool  # whether nodes can be kept on some of the cores
    realtime: bool  # whether threads can become SCHED_FIFO
    is_root: bool
    in_user_namespace: bool  # root of a user namespace only
    user_namespaces: bool  # whether one can be made, with a network and a process namespace in it

    @property
    def cores(self) -> float:
        return min(len(self.cpus), self.quota_cores)

    @property
    def reference_cores(self) -> float:
        """Cores of the host in reference cores: what the edge's cpus and the UEs' speeds are taken from."""
        return self.cores / REFERENCE_CORE_FRACTION


@cache
def facts() -> HostFacts:
    """This host's facts. Makes (and leaves) nothing."""
    groups = detect()
    with system_lock():
        fifo = realtime.available(groups)
    return HostFacts(
        kernel=platform.release(),
        preemption=_preemption(),
        cpu=host_cpu(),
        cpus=tuple(sorted(os.sched_getaffinity(0))),
        quota_cores=own_quota_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cgroup_version=groups.version,
        cpusets=groups.has_cpusets,
        realtime=fifo,
        is_root=os.geteuid() == 0,
        in_user_namespace=in_user_namespace(),
        user_namespaces=user_namespace_error() == "",
    )


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than the host's first."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


@cache
def user_namespace_error() -> str:
    """Why a user namespace with its own network, mounts and processes cannot be made here; empty if it can."""
    missing = executables.lacking("unshare", "nsenter")
    if missing:
        return f"not installed: {', '.join(missing)}"
    [unshare] = executables.require("making a user namespace", "unshare")
    result = subprocess.run(
        [unshare, "-Urnmpf", "--kill-child", "--mount-proc", "true"], capture_output=True, text=True, check=False
    )
    return "" if result.returncode == 0 else result.stderr.strip() or "unshare failed"


def _preemption() -> str:
    chosen = Path("/sys/kernel/debug/sched/preempt")
    if os.access(chosen, os.R_OK):
        return next((word.strip("()") for word in chosen.read_text().split() if word.startswith("(")), "unknown")
    words = [word for word in platform.version().split() if word.startswith("PREEMPT")]
    return words[0] if words else "unknown"
