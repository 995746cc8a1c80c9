"""What a node runs instead of its agent under ``testbed verify``: the calibration kernel, paced as stages are.

It connects to a UNIX socket of its node and answers requests, one after the other; the stage is computed by a thread of
its own and ended by another, as in a UE, so that both can be made real-time from outside.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import zmq

from testbed.inference.calibration import make_kernel, time_open_loop
from testbed.node.pacing import DeadlineThread
from testbed.node.threads import AgentThread, Wakeup
from testbed.protocol.configs import Config
from testbed.protocol.sockets import socket_path


class SelfTestConfig(Config, frozen=True):
    """Nothing but who and where: what to do comes in requests."""


class Threads(msgspec.Struct, frozen=True, tag=True):
    """Asks for the numbers of the threads; the answer is :class:`ThreadIds`."""


class Kernel(msgspec.Struct, frozen=True, tag=True):
    """Asks for the kernel's time on this host, open loop; the answer is :class:`Seconds`."""

    repetitions: int


class Stages(msgspec.Struct, frozen=True, tag=True):
    """Asks for stage after stage of ``target_seconds``; the answer, when all are done, is :class:`StageTimes`."""

    start_seconds: float  # CLOCK_MONOTONIC, the same for all nodes
    duration_seconds: float
    target_seconds: float


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Ends the program."""


class ThreadIds(msgspec.Struct, frozen=True, tag=True):
    compute: int
    deadlines: int


class Seconds(msgspec.Struct, frozen=True, tag=True):
    runs: tuple[float, ...]


class StageTimes(msgspec.Struct, frozen=True, tag=True):
    achieved_seconds: tuple[float, ...]
    compute_seconds: tuple[float, ...]  # of these, how long the kernel took


Request = Threads | Kernel | Stages | Leave
Answer = ThreadIds | Seconds | StageTimes


def endpoint(lab_directory: str, node: str) -> str:
    return f"ipc://{socket_path(lab_directory, node, 'selftest')}"


class _Worker(AgentThread):
    """The thread that computes. One order at a time."""

    def __init__(self) -> None:
        super().__init__("stage")
        self._kernel = make_kernel()
        self._deadlines = DeadlineThread("deadlines")
        self._order: Kernel | Stages | None = None
        self._done, self._released = Wakeup(), Wakeup()
        self._answer: Answer | None = None
        self._ended_seconds = 0.0

    def start(self) -> None:
        self._deadlines.start()
        super().start()

    @property
    def threads(self) -> ThreadIds:
        return ThreadIds(self.tid, self._deadlines.tid)

    def do(self, order: Kernel | Stages) -> Answer:
        """Blocks until it is done."""
        self._order = order
        self._wake.set()
        self._done.wait()
        assert self._answer is not None
        return self._answer

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            order = self._order
            if isinstance(order, Kernel):
                self._answer = Seconds(tuple(time_open_loop(self._kernel, order.repetitions)))
            elif order is not None:
                self._answer = self._stages(order)
            self._done.set()

    def _stages(self, order: Stages) -> StageTimes:
        achieved, computing = [], []
        time.sleep(max(0.0, order.start_seconds - time.monotonic()))
        start = time.monotonic()
        while start < order.start_seconds + order.duration_seconds:
            began = time.monotonic()
            self._kernel()
            computed = time.monotonic()
            target = start + order.target_seconds
            if computed < target:
                self._deadlines.submit(target, self._release)
                self._released.wait()
                end = self._ended_seconds
            else:
                end = computed
            achieved.append(end - start)
            computing.append(computed - began)
            start = end
        return StageTimes(tuple(achieved), tuple(computing))

    def _release(self, now_seconds: float) -> None:
        self._ended_seconds = now_seconds
        self._released.set()


def main(config_path: Path) -> None:
    """Serve until told to leave."""
    config = msgspec.json.decode(Path(config_path).read_bytes(), type=SelfTestConfig)
    worker = _Worker()
    worker.start()
    decoder = msgspec.json.Decoder(Request)
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.linger = 1000
        socket.connect(endpoint(config.lab_directory, config.node))
        while True:
            match decoder.decode(socket.recv()):
                case Threads():
                    socket.send(msgspec.json.encode(worker.threads))
                case Leave():
                    return
                case order:
                    socket.send(msgspec.json.encode(worker.do(order)))
