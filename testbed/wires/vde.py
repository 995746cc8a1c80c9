"""The vde wire: delay, jitter and losses in user space, for kernels without ``sch_netem``.

Each direction of a wire passes two TAPs and a ``wirefilter`` (Debian's vde2) between them, before its HTB:

    ingress of uN -> TAP eNi -> wirefilter -> TAP eNo -> HTB at eN's egress

A process per direction, because one ``wirefilter`` keeps packets of both directions in one order: the direction with
the shorter delay would wait for the other. It draws its losses from the time of day and its process id, so they cannot
be seeded.

Its clock is in whole milliseconds: a delay is cut off to them, and a packet is due when the clock has counted so many.
On an idle wire that is the delay, as it waits from when the packet came; where packets follow each other closely the
next one wakes it early, by up to a millisecond, half of one in the mean.

The processes belong to the lab by their environment (as all of a lab's processes do) and end with it; the TAPs go with
them. Sockets are in the lab's directory. Every process is changed over its management socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from testbed.errors import TestbedError
from testbed.runtime.host import executables, realtime
from testbed.runtime.host.cgroups import detect
from testbed.runtime.host.namespaces import run_inside
from testbed.runtime.host.state import state_root, system_lock
from testbed.runtime.processes import discovery
from testbed.wires.capabilities import VDE_PROGRAM
from testbed.wires.impairment import Impairment
from testbed.wires.netns import batch
from testbed.wires.wire import MTU_BYTES

#: Packets that a TAP holds while its process is busy.
_TAP_PACKETS = 10_000
#: Below the trace player and above the stages: a packet must not wait until an inference ends.
_PRIORITY = realtime.PLAYER_PRIORITY - 1
_NICENESS = -20  # where real time is refused
_PROMPT = b"VDEwf$ "
_SUCCESS = b"1000 Success"
_ANSWER_SECONDS = 2.0


def tap_in(port: str) -> str:
    """Where packets for ``port`` enter the filter."""
    return f"{port}i"


def tap_out(port: str) -> str:
    """Where they come out."""
    return f"{port}o"


def directory(radio_namespace: str) -> Path:
    """Of a lab's filters; the lab's name is in that of its namespaces."""
    _, lab, _ = radio_namespace.split(".")
    return state_root() / lab / "vde"


def _socket_path(radio_namespace: str, port: str) -> Path:
    return directory(radio_namespace) / f"{port}.socket"


def _pid_path(radio_namespace: str, port: str) -> Path:
    return directory(radio_namespace) / f"{port}.pid"


def emulated_delay_seconds(delay_seconds: float, jitter_seconds: float = 0.0) -> float:
    """The mean delay of a wire that is asked for one: whole milliseconds, unless jitter spreads it over several."""
    return delay_seconds if jitter_seconds else round(delay_seconds * 1e3) / 1e3


def commands(impairment: Impairment) -> dict[str, str]:
    """The management commands for what leaves by a port, all of them: name -> value.

    Raises TestbedError for what only netem can do.
    """
    if only := impairment.netem_only():
        raise TestbedError(f"the vde wire cannot do this: {', '.join(only)}; a kernel with sch_netem can")
    bursts = impairment.bursts
    # a normal distribution's "+" is three standard deviations, a uniform one's half of the width
    spread = impairment.jitter_seconds * (3 if impairment.distribution == "normal" else 1)
    law = "N" if impairment.distribution == "normal" else "U"
    # a duplicate may have duplicates: so many in the mean
    duplicates = impairment.duplicate_ratio / (1 + impairment.duplicate_ratio)
    delay = emulated_delay_seconds(impairment.delay_seconds, impairment.jitter_seconds) * 1e3
    return {
        # cut off to whole milliseconds by the program, so half of one is added to what is spread
        "delay": f"LR{delay + 0.5:.3f}+{spread * 1e3:.3f}{law}" if spread else f"LR{delay:.0f}",
        "loss": f"LR{impairment.mean_loss_ratio * 100:.6f}",
        "lostburst": f"LR{0 if bursts is None else 1 / bursts.r:.6f}",
        "dup": f"LR{duplicates * 100:.6f}",
    }


def start(radio_namespace: str, impairments: Mapping[str, Impairment]) -> None:
    """Start the filter of each port and bring its TAPs up. Raises TestbedError with the reason of one that fails."""
    home = directory(radio_namespace)
    home.mkdir(parents=True, exist_ok=True)
    run_inside(radio_namespace, lambda: _start(radio_namespace, impairments))
    run_inside(
        radio_namespace,
        lambda: batch(
            "ip",
            [
                f"link set dev {tap} mtu {MTU_BYTES} txqueuelen {_TAP_PACKETS} up"
                for port in impairments
                for tap in (tap_in(port), tap_out(port))
            ],
        ),
    )
    cgroups = detect()
    for port in impairments:
        pid = int(_pid_path(radio_namespace, port).read_text())
        with system_lock():
            punctual = realtime.make_fifo(cgroups, pid, _PRIORITY)
        if not punctual:
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)


def _start(radio_namespace: str, impairments: Mapping[str, Impairment]) -> None:
    for port, impairment in impairments.items():
        _start_one(radio_namespace, port, impairment)


def _start_one(radio_namespace: str, port: str, impairment: Impairment) -> None:
    home = directory(radio_namespace)
    plugs = []
    for tap in (tap_in(port), tap_out(port)):
        # "-v" separates its two names by a colon, so that a name cannot have one: a file holds it.
        plug = home / tap
        plug.write_text(f"tap://{tap}\n")
        plugs.append(str(plug))
    management, pid = _socket_path(radio_namespace, port), _pid_path(radio_namespace, port)
    for path in (management, pid):
        path.unlink(missing_ok=True)
    script = home / f"{port}.rc"
    script.write_text("".join(f"{name} {value}\n" for name, value in commands(impairment).items()))
    _, lab, _ = radio_namespace.split(".")
    arguments = ["-v", ":".join(plugs), "-M", str(management), "-f", str(script), "--daemon", "--pidfile", str(pid)]
    done = subprocess.run(
        [*executables.require("delaying packets", VDE_PROGRAM), *arguments],
        env={**os.environ, **discovery.markers(lab)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TestbedError(f"{VDE_PROGRAM} of {port} did not start: {' '.join(done.stderr.split())}")


def filtered_ports(radio_namespace: str) -> set[str]:
    """The ports that a filter was started for, whether it lives or not."""
    return {path.stem for path in directory(radio_namespace).glob("*.rc")}


def stop(radio_namespace: str, ports: Iterable[str]) -> None:
    """End the filters of ports, and with them their TAPs; nothing happens to a port without one."""
    for port in ports:
        if not _socket_path(radio_namespace, port).exists():
            continue
        with contextlib.suppress(OSError, TestbedError), _Filter(radio_namespace, port) as ending:
            ending.shut_down()
        for path in directory(radio_namespace).glob(f"{port}.*"):
            path.unlink()


class Filters:
    """The filters of a lab, to be changed while packets pass. Not thread-safe."""

    def __init__(self, radio_namespace: str) -> None:
        self._radio_namespace = radio_namespace
        self.ports = filtered_ports(radio_namespace)
        self._filters: dict[str, _Filter] = {}
        self._in_force: dict[str, dict[str, str]] = {}

    def close(self) -> None:
        for each in self._filters.values():
            each.close()
        self._filters.clear()

    def set(self, impairments: Mapping[str, Impairment]) -> None:
        """Change ports; returns when every filter has said that it did. Sends what differs from the last call only.

        Raises TestbedError for what it cannot do and for a filter that does not answer.
        """
        wanted = {port: commands(impairment) for port, impairment in impairments.items()}
        for name in next(iter(wanted.values()), {}):
            changed = [port for port in wanted if self._in_force.get(port, {}).get(name) != wanted[port][name]]
            for port in changed:  # all are asked before any is waited for
                self._filter(port).ask(f"{name} {wanted[port][name]}")
            for port in changed:
                self._filter(port).await_success()
                self._in_force.setdefault(port, {})[name] = wanted[port][name]

    def _filter(self, port: str) -> _Filter:
        if port not in self._filters:
            self._filters[port] = _Filter(self._radio_namespace, port)
        return self._filters[port]


class _Filter:
    """A connection to one process."""

    def __init__(self, radio_namespace: str, port: str) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_ANSWER_SECONDS)
        try:
            self._socket.connect(str(_socket_path(radio_namespace, port)))
            self._answer()
        except (OSError, TestbedError) as error:
            self._socket.close()
            raise TestbedError(f"the filter of {port} does not answer: {error}") from error

    def __enter__(self) -> _Filter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask(self, command: str) -> None:
        try:
            self._socket.sendall(command.encode())
        except OSError as error:
            raise TestbedError(f"the filter of {self._port} has ended: {error}") from error

    def await_success(self) -> None:
        answer = self._answer()
        if _SUCCESS not in answer:
            raise TestbedError(f"the filter of {self._port} refused: {answer.decode(errors='replace').strip()}")

    def shut_down(self) -> None:
        """Returns when the process has closed the connection."""
        self.ask("shutdown")
        while self._socket.recv(4096):
            pass

    def _answer(self) -> bytes:
        """Up to the next prompt."""
        answer = b""
        while not answer.endswith(_PROMPT):
            try:
                part = self._socket.recv(4096)
            except OSError as error:
                raise TestbedError(f"the filter of {self._port} does not answer: {error}") from error
            if not part:
                raise TestbedError(f"the filter of {self._port} has ended")
            answer += part
        return answer
