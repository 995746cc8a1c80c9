"""What a UE sees of its own channel, and when: asked of the trace player, which makes that channel.

A device measures its channel while it uses it. In the lab the channel is made by the player, so a UE asks for its
present state at the moment at which it decides (``Look``), and learns nothing of what comes. Where a channel is drawn
anew for every task and stage, the player also has to know whose gain is on the air: the UE says so before it transmits
(``Tune``), and that gain holds until the next upload. Both travel over a UNIX socket in the lab's directory, not over
the wire that they are about.
"""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec
import zmq

from testbed.decoding import decode_frame

_HIGH_WATER = 1000
#: A player that is about to change a wire looks at no socket for 2 ms; one that is gone must not hold up a device.
ANSWER_SECONDS = 0.05


class _Frame(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base."""


class Look(_Frame, frozen=True):
    """``column``: index of the cut in the model's chain; it matters where the channel is drawn per stage."""

    ue: str
    task: int
    column: int


class Seen(_Frame, frozen=True):
    """The uplink's state: a power gain, or bit/s at the whole spectrum."""

    task: int
    column: int
    state: float


class Tune(_Frame, frozen=True):
    """The UE is about to transmit this task, cut at ``column`` (-1: a cut of several tensors, at the mean gain)."""

    ue: str
    task: int
    column: int


class Tuned(_Frame, frozen=True):
    """The wire has the task's gain."""

    task: int
    rate_bits_per_second: float


_encoder = msgspec.msgpack.Encoder()
_asked: msgspec.msgpack.Decoder[Look | Tune] = msgspec.msgpack.Decoder(Look | Tune)
_told: msgspec.msgpack.Decoder[Seen | Tuned] = msgspec.msgpack.Decoder(Seen | Tuned)
_FrameType = TypeVar("_FrameType", bound=_Frame)


def endpoint(lab_directory: str) -> str:
    return f"ipc://{lab_directory}/ipc/channel"


class SightServer:
    """The player's side: a ROUTER. What cannot be decoded is counted and dropped."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], lab_directory: str) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, _HIGH_WATER)
        self.socket.bind(endpoint(lab_directory))
        self.malformed = 0

    def received(self) -> list[tuple[bytes, Look | Tune]]:
        """Everything that has come, with who asked."""
        found: list[tuple[bytes, Look | Tune]] = []
        while True:
            try:
                identity, frame = self.socket.recv_multipart(zmq.NOBLOCK)
                found.append((identity, decode_frame(_asked, frame)))
            except zmq.Again:
                return found
            except (ValueError, msgspec.DecodeError):
                self.malformed += 1

    def answer(self, identity: bytes, frame: Seen | Tuned) -> None:
        try:
            self.socket.send_multipart([identity, _encoder.encode(frame)], zmq.NOBLOCK)
        except zmq.ZMQError:  # who asked is gone
            return

    def close(self) -> None:
        self.socket.close()


class Sight:
    """A UE's side: used by one thread. ``blind`` counts looks that were not answered in time."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], ue: str, lab_directory: str) -> None:
        self._ue = ue
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, _HIGH_WATER)
        self.socket.connect(endpoint(lab_directory))
        self.blind = 0

    def look(self, task: int, column: int) -> float | None:
        """The channel's state now; None if nobody answers in time."""
        self._send(Look(self._ue, task, column))
        until = time.monotonic() + ANSWER_SECONDS
        while (left := until - time.monotonic()) > 0:
            if not self.socket.poll(max(1, int(left * 1e3))):
                break
            answer = self._receive()
            if isinstance(answer, Seen) and (answer.task, answer.column) == (task, column):
                return answer.state
        self.blind += 1
        return None

    def tune(self, task: int, column: int) -> None:
        """Ask for a task's gain on the wire; :meth:`tuned` tells when it is there."""
        self._send(Tune(self._ue, task, column))

    def tuned(self) -> list[Tuned]:
        """Answers to :meth:`tune` that have come."""
        found: list[Tuned] = []
        while (answer := self._receive()) is not None:
            if isinstance(answer, Tuned):
                found.append(answer)
        return found

    def close(self) -> None:
        self.socket.close()

    def _send(self, frame: Look | Tune) -> None:
        try:
            self.socket.send(_encoder.encode(frame), zmq.NOBLOCK)
        except zmq.Again:  # the player is gone for long: its answer will not come either
            return

    def _receive(self) -> Seen | Tuned | None:
        try:
            return decode_frame(_told, self.socket.recv(zmq.NOBLOCK))
        except (zmq.Again, msgspec.DecodeError):
            return None


class Tuner:
    """Holds a task back until the wire has its gain, which is asked for when the upload before it is over."""

    #: Said again after this: a player that was started anew knows nothing of it.
    REPEAT_SECONDS = 0.5

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._asked = (-1, 0.0)  # task, when
        self._ready = (-1, 0.0)  # task, its rate

    @property
    def socket(self) -> zmq.Socket[bytes]:
        return self._sight.socket

    def collect(self) -> None:
        for answer in self._sight.tuned():
            self._ready = (answer.task, answer.rate_bits_per_second)

    def admit(self, task: int, column: int, wire_is_free: bool) -> float | None:
        """The task's rate once it may be sent; None: not yet."""
        if self._ready[0] == task:
            return self._ready[1]
        now = time.monotonic()
        if wire_is_free and (self._asked[0] != task or now - self._asked[1] > self.REPEAT_SECONDS):
            self._asked = (task, now)
            self._sight.tune(task, column)
        return None

    def close(self) -> None:
        self._sight.close()
