"""What this host can do, each with its consequence and its fix."""

from __future__ import annotations

from dataclasses import dataclass

from testbed.errors import HostError
from testbed.inference.calibration import calibration_of
from testbed.lab.calibrate import describe
from testbed.runtime.docker import client
from testbed.runtime.host import executables, gpu, realtime
from testbed.runtime.host.cpusets import RESERVE_FROM_CORES
from testbed.runtime.host.facts import HostFacts, facts
from testbed.wires import capabilities

#: The kernel's own limit of real time.
DEFAULT_LIMIT = 950_000


@dataclass(frozen=True)
class Finding:
    """One thing that a lab may want of a host."""

    name: str
    ok: bool
    found: str
    consequence: str  # of not having it
    fix: str
    needed: bool = False  # nothing runs without it


def examine() -> list[Finding]:
    """Everything, in the order in which a newcomer needs it. Makes (and leaves) nothing."""
    host = facts()
    return [*_host(host), *_links(), *_programs()]


def _host(host: HostFacts) -> list[Finding]:
    return [
        Finding(
            "namespaces",
            host.is_root or host.user_namespaces,
            "root" if host.is_root else ("user namespaces" if host.user_namespaces else "none"),
            "no lab can be brought up",
            "run as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)",
            needed=True,
        ),
        Finding(
            "cgroups",
            host.cgroup_version != "none",
            host.cgroup_version,
            "no CPU caps; limits of a valid run are wider",
            "run as root",
        ),
        Finding(
            "real-time",
            host.realtime,
            "SCHED_FIFO" if host.realtime else "refused",
            "stages and trace steps run late under load; limits of a valid run are wider",
            "run as root; with cgroup v1 leave cpu.rt_runtime_us to spare in the root group",
        ),
        Finding(
            "real-time limit",
            not realtime.unlimited(),
            "none (kernel.sched_rt_runtime_us is -1)" if realtime.unlimited() else "kernel.sched_rt_runtime_us",
            realtime.unlimited(),
            f"sysctl -w kernel.sched_rt_runtime_us={DEFAULT_LIMIT}",
        ),
        Finding(
            "cores",
            host.cores >= 2,
            f"{host.cores:.3g} ({host.reference_cores:.3g} reference cores), {host.cpu}, "
            f"{host.memory_bytes / 2**30:.0f} GiB",
            "one core carries little more than one UE",
            "use a host with two cores or more",
        ),
        Finding(
            "cpusets",
            host.cpusets and host.cores >= RESERVE_FROM_CORES,
            f"{host.cores:.3g} cores" if host.cpusets else "no cpuset controller that we may use",
            "UEs share cores with the edge, controller and player; the manifest says so",
            f"run as root on {RESERVE_FROM_CORES} cores or more (docs/lab-file.md, key host)",
        ),
        _calibration(host),
    ]


def _calibration(host: HostFacts) -> Finding:
    calibration, reason = calibration_of(host.cpu)
    return Finding(
        "calibration",
        calibration is not None,
        reason if calibration is None else describe(calibration),
        "a lab that is too slow for this host starts, and ends as an invalid run",
        "testbed doctor --calibrate (ten seconds, on a quiet host)",
    )


def _links() -> list[Finding]:
    try:
        found = capabilities.probe()
    except HostError as error:
        return [Finding("links", False, "cannot be tried", str(error), "run as root", needed=True)]
    return [
        Finding(
            "shaping",
            found.htb and found.u32 and found.mirred,
            ", ".join(name for name in ("htb", "u32", "mirred") if getattr(found, name)) or "none",
            "no wire can be shaped",
            "use a kernel with sch_htb, cls_u32 and act_mirred",
            needed=True,
        ),
        Finding(
            "netem",
            found.netem,
            "sch_netem" if found.netem else "not in this kernel",
            "links cannot reorder or damage packets; delay, jitter and loss are vde's, if that is there",
            "modprobe sch_netem, or a kernel that has it",
        ),
        Finding(
            "vde",
            found.vde,
            "wirefilter and TAPs" if found.vde else "no wirefilter, or no TAP can be made",
            "without netem, labs that ask for delay, jitter or loss end with exit code 3",
            "apt install vde2, run as root with /dev/net/tun",
        ),
        Finding(
            "congestion control",
            "cubic" in found.congestion_controls,
            ", ".join(found.congestion_controls),
            "the default of the lab file, cubic, is refused; choose another under link.congestion_control",
            "modprobe tcp_cubic",
        ),
    ]


def _programs() -> list[Finding]:
    docker, docker_fix = _docker()
    lacking, gpu_fix = gpu.lacking()
    return [
        Finding(
            "docker",
            docker.startswith("Engine"),
            docker,
            "labs run in the netns runtime",
            docker_fix,
        ),
        Finding(
            "prometheus",
            executables.find("prometheus") is not None,
            executables.find("prometheus") or "not installed",
            "no metrics history while a lab runs",
            "apt install prometheus",
        ),
        Finding(
            "gpu",
            not lacking,
            f"without {lacking}" if lacking else ", ".join(map(str, gpu.device_files())),
            "the edge computes on the CPU; labs with gpu: required end with exit code 3",
            gpu_fix or "for the docker runtime also NVIDIA's container toolkit",
        ),
    ]


def _docker() -> tuple[str, str]:
    """What `--runtime docker` would meet, and what to do about it."""
    try:
        engine = client.require()
    except HostError as error:
        install = "" if executables.find("dockerd") else "Install docker.io. "
        return error.text, install + error.fix
    try:
        return f"Engine {engine.version()['Version']}", ""
    finally:
        engine.close()
