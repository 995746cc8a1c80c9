"""What a UE sees of its own channel, and when: asked of the trace player, which makes that channel.

A device measures its channel while it uses it. In the lab the channel is made by the player, so a UE asks for its
present state at the moment at which it decides (``Look``), and learns nothing of what comes. Where a channel is drawn
anew for every task and stage, the player also has to know whose gain is on the air: the UE says so before it transmits
(``Tune``), and that gain holds until the next upload. And a radio that can send nothing does not transmit: a UE that
says so once (``Follow``) is told when its uplink falls silent, and when that is over (``Air``). All of it travels over
a UNIX socket in the lab's directory, not over the wire that it is about.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec
import zmq
from msgspec import Meta

from controller.decoding import decode_frame
from controller.service.node_listener import Connection, NodeListener
from testbed.protocol.roles import CHANNEL_LIMITS
from testbed.protocol.sockets import socket_path

_HIGH_WATER = 1000
_SOCKET = "channel"
#: A player that is about to change a wire looks at no socket for 2 ms; one that is gone must not hold up a device.
ANSWER_SECONDS = 0.05


Task = Annotated[int, Meta(ge=0, lt=1 << 53)]
Column = Annotated[int, Meta(ge=-1, lt=1 << 31)]


class _Frame(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Base."""


class Look(_Frame, frozen=True):
    """``column``: index of the cut in the model's chain; it matters where the channel is drawn per stage."""

    ue: str
    task: Task
    column: Column


class Seen(_Frame, frozen=True):
    """The uplink's state: a power gain, or bit/s at the whole spectrum."""

    task: int
    column: int
    state: float


class Tune(_Frame, frozen=True):
    """The UE is about to transmit this task, cut at ``column`` (-1: a cut of several tensors, at the mean gain)."""

    ue: str
    task: Task
    column: Column


class Tuned(_Frame, frozen=True):
    """The wire has the task's gain."""

    task: int
    rate_bits_per_second: float


class Follow(_Frame, frozen=True):
    """Tell this UE of its uplink from now on; it is said again, for a player that was started anew."""

    ue: str


class Air(_Frame, frozen=True):
    """Since when the uplink lets nothing through, or something again."""

    silent: bool
    since_seconds: float


_encoder = msgspec.msgpack.Encoder()
_asked: msgspec.msgpack.Decoder[Look | Tune | Follow] = msgspec.msgpack.Decoder(Look | Tune | Follow)
_told: msgspec.msgpack.Decoder[Seen | Tuned | Air] = msgspec.msgpack.Decoder(Seen | Tuned | Air)
_FrameType = TypeVar("_FrameType", bound=_Frame)


class SightServer:
    """The player's side: a socket for each UE, which may ask of its own channel. The rest is counted and dropped."""

    def __init__(self, lab_directory: str, ues: Iterable[str]) -> None:
        sockets = {ue: (socket_path(lab_directory, ue, _SOCKET), CHANNEL_LIMITS) for ue in ues}
        self._listener = NodeListener("ROUTER", sockets)
        self._followers: dict[str, Connection] = {}
        self.malformed = 0

    def fileno(self) -> int:
        return self._listener.fileno()

    def received(self) -> list[tuple[Connection, Look | Tune | Follow]]:
        """Some of what has come, with who asked."""
        found: list[tuple[Connection, Look | Tune | Follow]] = []
        for connection, frame in self._listener.heard():
            try:
                request = decode_frame(_asked, frame)
                if request.ue != connection.node.name:
                    raise msgspec.DecodeError("of another UE")
            except msgspec.DecodeError:
                self.malformed += 1
            else:
                if isinstance(request, Follow):
                    self._followers[request.ue] = connection
                found.append((connection, request))
        return found

    def answer(self, connection: Connection, frame: Seen | Tuned | Air) -> None:
        self._listener.answer(connection, _encoder.encode(frame))

    def tell(self, ue: str, frame: Air) -> None:
        """What a UE follows."""
        if ue in self._followers:
            self.answer(self._followers[ue], frame)

    def close(self) -> None:
        self._listener.close()


class Sight:
    """A UE's side: used by one thread. ``blind`` counts looks that were not answered in time."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], ue: str, lab_directory: str) -> None:
        self._ue = ue
        self.socket = context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, _HIGH_WATER)
        self.socket.connect(f"ipc://{socket_path(lab_directory, ue, _SOCKET)}")
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

    def follow(self) -> None:
        """Ask to be told by :meth:`aired`."""
        self._send(Follow(self._ue))

    def aired(self) -> list[Air]:
        """What has come since :meth:`follow`."""
        found: list[Air] = []
        while (answer := self._receive()) is not None:
            if isinstance(answer, Air):
                found.append(answer)
        return found

    def _send(self, frame: Look | Tune | Follow) -> None:
        try:
            self.socket.send(_encoder.encode(frame), zmq.NOBLOCK)
        except zmq.Again:  # the player is gone for long: its answer will not come either
            return

    def _receive(self) -> Seen | Tuned | Air | None:
        try:
            return decode_frame(_told, self.socket.recv(zmq.NOBLOCK))
        except (zmq.Again, msgspec.DecodeError):
            return None


class Silences:
    """When a UE's uplink let nothing through: such time is none in which its radio transmits. Used by one thread."""

    #: That are remembered, for a UE that sends nothing for long.
    _MOST = 4096

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._over: deque[tuple[float, float]] = deque(maxlen=self._MOST)  # from when until when
        self._since_seconds: float | None = None  # of the one that goes on

    @property
    def socket(self) -> zmq.Socket[bytes]:
        return self._sight.socket

    def follow(self) -> None:
        self._sight.follow()

    def collect(self) -> None:
        for told in self._sight.aired():
            self.note(told)

    def note(self, told: Air) -> None:
        if told.silent and self._since_seconds is None:
            self._since_seconds = told.since_seconds
        elif not told.silent and self._since_seconds is not None:
            self._over.append((self._since_seconds, told.since_seconds))
            self._since_seconds = None

    def seconds(self, begin_seconds: float, end_seconds: float) -> float:
        """Of the time from ``begin_seconds`` until ``end_seconds``. Whoever asks goes on in time."""
        while self._over and self._over[0][1] <= begin_seconds:
            self._over.popleft()
        still = [] if self._since_seconds is None else [(self._since_seconds, end_seconds)]
        return sum(max(0.0, min(end, end_seconds) - max(begin, begin_seconds)) for begin, end in [*self._over, *still])

    def close(self) -> None:
        self._sight.close()


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
