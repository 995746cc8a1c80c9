"""Containers of ours on the engine: how they are named, labelled, found, entered and removed. No lab logic."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container

from testbed.errors import HostError, TestbedError, first_line
from testbed.runtime.base import Owned
from testbed.runtime.host import executables, namespaces
from testbed.runtime.host.cgroups import PERIOD_MICROSECONDS, mount_points, quota_microseconds, write
from testbed.runtime.host.state import state_root
from testbed.runtime.processes.child import stat_fields
from testbed.runtime.processes.identity import host_id, read_identity

LABEL_LAB = "testbed.lab"
LABEL_ID = "testbed.id"
LABEL_RUN = "testbed.run"
LABEL_OWNER = "testbed.owner"
LABEL_ROLE = "testbed.role"
LABEL_NODE = "testbed.node"
#: The engine does much of a creation one at a time; more requests than this only queue up in it.
PARALLEL = 8
#: The engine's, of an image that sets none.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_umask_lock = threading.Lock()


def owner() -> str:
    """Whose containers are ours: labs of other users, and of other hosts' root, on the same engine are not touched."""
    return f"{os.geteuid()}@{host_id()}"


def labels(lab: str, run_id: str, node: str, role: str) -> dict[str, str]:
    """Of a container of a lab."""
    identity = read_identity(state_root() / lab)
    return {
        LABEL_LAB: lab,
        LABEL_ID: "" if identity is None else identity.id,
        LABEL_RUN: run_id,
        LABEL_OWNER: owner(),
        LABEL_ROLE: role,
        LABEL_NODE: node,
    }


def container_name(lab: str, node: str) -> str:
    return f"tb.{lab}.{node}"


def find(client: docker.DockerClient, lab: str | None = None) -> list[Container]:
    """Containers of ours, running or not, of one lab or of all. Raises TestbedError if the engine fails."""
    labels = [f"{LABEL_OWNER}={owner()}", LABEL_LAB if lab is None else f"{LABEL_LAB}={lab}"]
    try:
        return client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
    except (DockerException, OSError) as error:  # OSError: requests' own, when the engine goes away
        raise _silent(error) from error


@contextmanager
def answering() -> Iterator[None]:
    """For work that asks the engine. Raises TestbedError, in words, when it goes away meanwhile."""
    try:
        yield
    except requests.ConnectionError as error:
        raise TestbedError(
            "the Docker Engine does not answer any more: it was stopped, or is being restarted. Look at it with "
            "`docker info`, and try again"
        ) from error


def _silent(error: Exception) -> TestbedError:
    # requests says its causes as tuples of Python's objects
    why = "it does not answer" if isinstance(error, requests.ConnectionError) else first_line(error)
    return TestbedError(f"the Docker Engine did not list containers: {why}")


def list_owned(client: docker.DockerClient, lab: str | None = None, *, running: bool = False) -> list[Owned]:
    """What ``discovery`` cannot see in /proc and /run: containers. One request, whatever their number."""
    labels = [f"{LABEL_OWNER}={owner()}", LABEL_LAB if lab is None else f"{LABEL_LAB}={lab}"]
    try:
        found = client.api.containers(all=not running, filters={"label": labels})
    except (DockerException, OSError) as error:
        raise _silent(error) from error
    return sorted(
        (Owned(one["Labels"][LABEL_LAB], "container", one["Names"][0].lstrip("/")) for one in found),
        key=lambda owned: (owned.lab, owned.name),
    )


def remove(client: docker.DockerClient, lab: str | None = None, *, role: str | None = None) -> list[str]:
    """Kill and remove containers of ours; returns their names. Nothing happens if there are none."""
    containers = [one for one in find(client, lab) if role in (None, one.labels[LABEL_ROLE])]

    def remove_one(container: Container) -> None:
        try:
            container.remove(force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            # 409: another command is removing it at this moment
            if error.response is None or error.response.status_code != 409:
                raise TestbedError(f"container {container.name} could not be removed: {error.explanation}") from error

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(remove_one, containers))
    return sorted(str(container.name) for container in containers)


def check_here(container: Container, lab_directory: Path) -> bool:
    """Whether a container was seen to run on this host, by its process; False where it has ended.

    Raises HostError where its process id, or the lab's folder in it, is another machine's: an engine may be reached
    through a socket that leads elsewhere.
    """
    pid = int(container.attrs["State"]["Pid"])
    if pid == 0:
        return False
    try:
        ours = str(container.id) in Path(f"/proc/{pid}/cgroup").read_text()
        folder = lab_directory / "ipc" / container.labels[LABEL_NODE]
        seen = Path(f"/proc/{pid}/root{folder}")
        shared = ours and seen.exists() and folder.exists() and seen.samefile(folder)
    except (FileNotFoundError, ProcessLookupError):
        container.reload()
        if container.attrs["State"]["Pid"] != pid:
            return False
        ours = shared = False
    if not ours or (not shared and container.labels[LABEL_ROLE] != "service"):
        lacks = "its containers do not see this machine's folders" if ours else "its process ids mean nothing here"
        raise HostError(
            f"The Docker Engine is not of this machine: {lacks}",
            fix="Run the testbed where the engine runs, or use --runtime netns.",
        )
    return True


def holds(container: Container, program: str) -> bool:
    """Whether ``docker exec`` would find a program in a container; True where that cannot be seen: it has ended."""
    pid = int(container.attrs["State"]["Pid"])
    if pid == 0 or "/" in program:
        return True
    set_by_image = dict(entry.partition("=")[::2] for entry in container.attrs["Config"]["Env"] or ())
    # links are left alone: an absolute one leads elsewhere from here
    return any(
        os.path.lexists(f"/proc/{pid}/root{folder}/{program}")
        for folder in set_by_image.get("PATH", _DEFAULT_PATH).split(":")
    )


def attach_namespace(name: str, pid: int) -> None:
    """Give a container's network namespace a name under /run/netns, so that ``ip -n`` and the wires find it."""
    if namespaces.exists(name):
        namespaces.delete(name)  # of a container that has ended
    [ip] = executables.require("naming network namespaces", "ip")
    done = subprocess.run([ip, "netns", "attach", name, str(pid)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostError(f"the network namespace of process {pid} cannot be named {name}: {done.stderr.strip()}")
    namespaces.run_inside(name, _disable_ipv6)


def _disable_ipv6() -> None:
    # Router solicitations and neighbour discovery would be traffic on a shaped wire.
    for scope in ("all", "default"):
        setting = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if setting.exists():
            setting.write_text("1")


class ContainerCgroup:
    """The CPU controller's directory of a container, written directly: the engine's update API takes 14 ms."""

    def __init__(self, pid: int) -> None:
        paths = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        mounts = mount_points()
        for controllers, path in paths.items():
            if "cpu" in controllers.split(",") and "cpu" in mounts:
                self.directory, self.version = Path(f"{mounts['cpu']}{path}"), "v1"
                break
        else:
            self.directory, self.version = Path(f"{mounts.get('', '/sys/fs/cgroup')}{paths['']}"), "v2"

    def set_quota(self, host_cores: float) -> None:
        """Cap over a 10 ms period; 0: none. Raises InputError below the kernel's smallest quota, HostError."""
        quota = quota_microseconds(host_cores)
        if self.version == "v1":
            write(self.directory / "cpu.cfs_period_us", PERIOD_MICROSECONDS)
            write(self.directory / "cpu.cfs_quota_us", quota)
        else:
            write(self.directory / "cpu.max", f"{'max' if quota < 0 else quota} {PERIOD_MICROSECONDS}")

    def cpu_seconds(self) -> float:
        """CPU time used by the living processes of the container."""
        # Not the group's own account: stage threads leave the group when they become SCHED_FIFO (cgroup v1).
        fields = [found for pid in self.pids() if (found := stat_fields(pid))]
        return sum(int(found[11]) + int(found[12]) for found in fields) / os.sysconf("SC_CLK_TCK")

    def pids(self) -> list[int]:
        """Processes in the container, as the host numbers them."""
        return [int(line) for line in (self.directory / "cgroup.procs").read_text().split()]


def host_tid(cgroup: ContainerCgroup, tid: int) -> int:
    """The host's number of a thread that its container calls ``tid``. Raises TestbedError if there is none."""
    for pid in cgroup.pids():
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            try:
                lines = status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
            if numbers and int(numbers[-1]) == tid:
                return int(status.parent.name)
    raise TestbedError(f"thread {tid} does not exist in its container")


def share_directory(path: Path, group: int) -> None:
    """New files and sockets in ``path`` belong to ``group``, whoever makes them."""
    os.chown(path, -1, group)
    path.chmod(0o2770)


@contextmanager
def group_may_write() -> Iterator[None]:
    """Processes started in here make sockets that their group can connect to: that needs write permission.

    A default ACL would not do: bind(2) applies the umask before the file system sees the mode.
    """
    with _umask_lock:  # the umask is the process's, and monitoring is started by a thread of its own
        before = os.umask(0o002)
        try:
            yield
        finally:
            os.umask(before)
