"""CPU and memory limits of nodes: cgroup v1, v2, or none at all, behind one interface.

The tree is ``testbed/LAB/NODE``. Version 1 has one tree per controller, and a thread can be in a group of its own;
version 2 has one tree, and a process's threads stay together.
"""

from __future__ import annotations

import errno
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from testbed.errors import HostError, InputError
from testbed.runtime.base import NodeSpec

Version = Literal["v1", "v2", "none"]

TREE = "testbed"
#: The kernel's default period of 100 ms does not slow a short inference at all.
PERIOD_MICROSECONDS = 10_000
MINIMUM_QUOTA_MICROSECONDS = 1_000
#: Weights against 1024 (v1) or 100 (v2) of an ordinary task or group. The whole tree competes with each ordinary task
#: of the host as *one* entity, and the few processes that steer a lab with each UE.
_TREE_WEIGHT = 10.0
_STEERING_WEIGHT = 4.0
#: Of version 2, empty groups of ours: each names a controller that the root did not hand down before.
_ENABLED = ".enabled-"
_STEERING_ROLES = ("controller", "player", "recorder", "exporter", "radio")


def quota_microseconds(host_cores: float) -> int:
    """Quota per 10 ms period; -1 for no cap (0 cores). Raises InputError below the kernel's smallest quota, 1 ms."""
    if host_cores == 0:
        return -1
    quota = round(host_cores * PERIOD_MICROSECONDS)
    if quota < MINIMUM_QUOTA_MICROSECONDS:
        raise InputError(
            "CPU cap too small",
            value=f"{host_cores} host cores",
            allowed=f">= {MINIMUM_QUOTA_MICROSECONDS / PERIOD_MICROSECONDS} (1 ms of a 10 ms period), or 0 for none",
        )
    return quota


class Cgroups(ABC):
    """The limits of a host's labs. Directories are named from the system, never from a lab file."""

    version: Version

    @abstractmethod
    def create(self, lab: str, node: NodeSpec) -> None:
        """Create (or keep) a node's group and set its limits. Raises HostError where the host refuses."""

    @abstractmethod
    def set_quota(self, lab: str, node: str, host_cores: float) -> None:
        """Change a node's cap in place; 0 takes it away."""

    @property
    @abstractmethod
    def has_cpusets(self) -> bool:
        """Whether a node can be kept on some of the host's cores."""

    @abstractmethod
    def trees(self) -> list[Path]:
        """Root of ours in each hierarchy that is used."""

    def oom_kills(self, lab: str, node: str) -> int:
        """How often the kernel has killed a process of the node because the node had used up its memory."""
        for group in self.groups(lab, node):
            for name in ("memory.events", "memory.oom_control"):  # of version 2 and of version 1
                with suppress(OSError):
                    for line in (group / name).read_text().splitlines():
                        if line.startswith("oom_kill "):
                            return int(line.split()[1])
        return 0

    def groups(self, lab: str, node: str) -> list[Path]:
        """Directories that a process of the node has to join; those that exist."""
        return [path for tree in self.trees() if (path := tree / lab / node).is_dir()]

    def cpu_group(self, lab: str, node: str) -> Path | None:
        """Where the CPU controller accounts for a node, if it does."""
        return next((group for group in self.groups(lab, node) if (group / "cpu.stat").is_file()), None)

    def labs(self) -> set[str]:
        """Labs that have a group. Groups of ours that belong to no lab start with a dot."""
        return {
            entry.name
            for tree in self.trees()
            if tree.is_dir()
            for entry in tree.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        }

    def lab_groups(self, lab: str) -> list[Path]:
        """All groups of a lab, children before parents."""
        return [path for tree in self.trees() for path in _bottom_up(tree / lab)]

    def remove(self, lab: str, timeout_seconds: float = 1.5) -> None:
        """Remove a lab's groups, and the tree if no lab is left. The processes must have been killed."""
        for path in self.lab_groups(lab):
            _remove_group(path, timeout_seconds)
        self.prune()

    def prune(self) -> None:
        """Remove the tree if no lab is left in it."""
        if not self.labs():
            for tree in self.trees():
                for path in _bottom_up(tree):
                    _remove_group(path, 0.2)


class NoCgroups(Cgroups):
    """A host (or a user namespace) that lets us have none: nothing is capped."""

    version: Version = "none"

    @property
    def has_cpusets(self) -> bool:
        return False

    def create(self, lab: str, node: NodeSpec) -> None:
        quota_microseconds(node.quota_host_cores)

    def set_quota(self, lab: str, node: str, host_cores: float) -> None:
        quota_microseconds(host_cores)

    def trees(self) -> list[Path]:
        return []


class CgroupsV1(Cgroups):
    """One tree per controller; only those that a node uses: cpu always, memory and cpuset when it limits them."""

    version: Version = "v1"

    def __init__(self, mounts: dict[str, Path]) -> None:
        self._mounts = mounts

    @property
    def has_cpusets(self) -> bool:
        return "cpuset" in self._mounts and os.access(self._mounts["cpuset"], os.W_OK)

    @property
    def cpu_root(self) -> Path:
        return self._mounts["cpu"]

    def trees(self) -> list[Path]:
        # cpu and another controller may share a mount
        roots = {self._mounts[name].resolve() for name in ("cpu", "memory", "cpuset") if name in self._mounts}
        return sorted(root / TREE for root in roots)

    def create(self, lab: str, node: NodeSpec) -> None:
        tree = self.cpu_root / TREE
        group = tree / lab / node.name
        _make(group)
        for parent in (tree, tree / lab):
            write(parent / "cpu.shares", round(1024 * _TREE_WEIGHT))
        if node.role in _STEERING_ROLES:
            write(group / "cpu.shares", round(1024 * _STEERING_WEIGHT))
        write(group / "cpu.cfs_period_us", PERIOD_MICROSECONDS)
        self.set_quota(lab, node.name, node.quota_host_cores)
        if node.memory_bytes and ("memory" in self._mounts or not node.memory_by_default):
            memory = self._controller("memory") / TREE / lab / node.name
            _make(memory)
            write(memory / "memory.limit_in_bytes", node.memory_bytes)
            if (memory / "memory.memsw.limit_in_bytes").exists():  # memory and swap together
                write(memory / "memory.memsw.limit_in_bytes", node.memory_bytes)
        if node.cpu_list:
            root = self._controller("cpuset")
            for path in (root / TREE, root / TREE / lab, root / TREE / lab / node.name):
                _make(path)
                # a new v1 cpuset is empty, and an empty one takes no process
                write(path / "cpuset.mems", (root / "cpuset.mems").read_text().strip())
                cpus = node.cpu_list if path.name == node.name else (root / "cpuset.cpus").read_text().strip()
                write(path / "cpuset.cpus", cpus)

    def set_quota(self, lab: str, node: str, host_cores: float) -> None:
        write(self.cpu_root / TREE / lab / node / "cpu.cfs_quota_us", quota_microseconds(host_cores))

    def _controller(self, name: str) -> Path:
        if name not in self._mounts:
            raise HostError(f"a node limits its {name}", missing=f"cgroup v1 controller {name!r}")
        return self._mounts[name]


class CgroupsV2(Cgroups):
    """The unified tree."""

    version: Version = "v2"

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def has_cpusets(self) -> bool:
        return "cpuset" in (self._root / "cgroup.controllers").read_text().split()

    def trees(self) -> list[Path]:
        return [self._root / TREE]

    def create(self, lab: str, node: NodeSpec) -> None:
        offered = (self._root / "cgroup.controllers").read_text().split()
        controllers = ["cpu"]
        limits_memory = node.memory_bytes > 0 and ("memory" in offered or not node.memory_by_default)
        if limits_memory:
            controllers.append("memory")
        if node.cpu_list:
            controllers.append("cpuset")
        for name in controllers:
            if name not in offered:
                raise HostError(f"a node limits its {name}", missing=f"cgroup v2 controller {name!r}")
        tree = self._root / TREE
        group = tree / lab / node.name
        _make(group)
        present = _controllers_of_children(self._root)
        for name in controllers:
            if name not in present:  # remembered where a crash leaves it: prune() gives it back
                _make(tree / f"{_ENABLED}{name}")
        for parent in (self._root, tree, tree / lab):
            write(parent / "cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
        for parent in (tree, tree / lab):
            write(parent / "cpu.weight", round(100 * _TREE_WEIGHT))
        if node.role in _STEERING_ROLES:
            write(group / "cpu.weight", round(100 * _STEERING_WEIGHT))
        self.set_quota(lab, node.name, node.quota_host_cores)
        if limits_memory:
            write(group / "memory.max", node.memory_bytes)
            if (group / "memory.swap.max").exists():
                write(group / "memory.swap.max", 0)
        if node.cpu_list:
            write(group / "cpuset.cpus", node.cpu_list)

    def prune(self) -> None:
        """With the tree, the controllers that the root's groups did not have before it."""
        tree = self._root / TREE
        enabled = [path.name.removeprefix(_ENABLED) for path in sorted(tree.glob(f"{_ENABLED}*"))]
        super().prune()
        if not tree.exists():
            for name in enabled:
                with suppress(HostError):  # busy: somebody else has begun to use it
                    write(self._root / "cgroup.subtree_control", f"-{name}")

    def set_quota(self, lab: str, node: str, host_cores: float) -> None:
        quota = quota_microseconds(host_cores)
        limit = "max" if quota < 0 else str(quota)
        write(self._root / TREE / lab / node / "cpu.max", f"{limit} {PERIOD_MICROSECONDS}")


@cache
def detect() -> Cgroups:
    """The cgroups that this process may use."""
    version1: dict[str, Path] = {}
    version2: Path | None = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, filesystem, options, *_ = line.split(" ")
        if filesystem == "cgroup":
            for option in options.split(","):
                version1.setdefault(option, Path(target))
        elif filesystem == "cgroup2":
            version2 = Path(target)
    if "cpu" in version1:
        return CgroupsV1(version1) if os.access(version1["cpu"], os.W_OK) else NoCgroups()
    if version2 is not None and os.access(version2, os.W_OK):
        controllers = (version2 / "cgroup.controllers").read_text().split()
        if "cpu" in controllers and _can_delegate(version2):
            return CgroupsV2(version2)
    return NoCgroups()


def mount_points() -> dict[str, str]:
    """Mount point of each version 1 controller; under the empty name that of version 2."""
    mounts: dict[str, str] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, filesystem, options, *_ = line.split(" ")
        if filesystem == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), target))
        elif filesystem == "cgroup2":
            mounts[""] = target
    return mounts


def own_quota_cores() -> float:
    """Cores that the groups of this process (a container's, a service's) may use; infinite where none is capped."""
    mounts = mount_points()
    quotas = [math.inf]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = next((mounts[name] for name in controllers.split(",") if name in ("", "cpu") and name in mounts), None)
        if mount is None:
            continue
        root = Path(mount)
        group = root / path.lstrip("/")
        if ".." in group.parts or not group.is_dir():  # the path is the host's, the mount the container's own
            group = root
        while True:
            quotas.append(_quota_cores(group))
            if group == root:
                break
            group = group.parent
    return min(quotas)


def _quota_cores(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def join(group: Path) -> None:
    """Move the calling process (all its threads) into a group. Raises HostError."""
    write(group / "cgroup.procs", os.getpid())


def write(path: Path, value: int | str) -> None:
    """Write one setting. Raises HostError that names file, value and the kernel's reason."""
    try:
        path.write_text(f"{value}\n")
    except OSError as error:
        raise HostError(
            f"the kernel refused {value!r} for {path} ({error.strerror})",
            fix="A parent group may have a tighter limit, or the controller may not be delegated to us.",
        ) from error


def _can_delegate(root: Path) -> bool:
    # In a container the "root" may hold processes, and then it cannot hand controllers to children.
    if "cpu" in _controllers_of_children(root):
        return True
    try:
        (root / "cgroup.subtree_control").write_text("+cpu")
    except OSError:
        return False
    with suppress(OSError):  # busy: somebody else has begun to use it
        (root / "cgroup.subtree_control").write_text("-cpu")
    return True


def _controllers_of_children(group: Path) -> list[str]:
    """Of version 2: what the groups directly below have."""
    try:
        return (group / "cgroup.subtree_control").read_text().split()
    except FileNotFoundError:
        return []


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot create cgroup {path} ({error.strerror})") from error


def _bottom_up(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        return
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            yield from _bottom_up(entry)
    yield path


def _remove_group(path: Path, timeout_seconds: float) -> None:
    # A killed process leaves its group a little after it has left the process list.
    deadline = time.monotonic() + timeout_seconds
    realtime = path / "cpu.rt_runtime_us"
    while True:
        try:
            # The kernel frees a removed group later, and until then would count its share against its siblings'.
            if realtime.exists():
                realtime.write_text("0")
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # EINVAL: a group below it still has a share
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.EINVAL):
                raise
            if time.monotonic() >= deadline:
                return
            time.sleep(0.005)
        else:
            return
