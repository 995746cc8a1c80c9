"""The edge's model versions: made anew at intervals, handed out in pieces, kept while a task may still need them.

Two threads: ``updates`` owns the socket and only copies bytes; ``trainer`` makes and packs versions, and runs at
ordinary priority, so that it never takes a core from a stage.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import zmq

from controller.contract import cut_from_label
from controller.model.cuts import device_set
from testbed.inference.partition import SplitModel
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import Contents, pack
from testbed.mechanisms.retraining.update_frames import Fetch, Gone, Offer, Piece, Published, Want, decode_up, encode
from testbed.node.threads import AgentThread
from testbed.node.ue_sockets import UeSockets

_HIGH_WATER = 100  # pieces of 64 kB; a UE has two under way
_LARGEST_REQUEST_BYTES = 128 << 10
_IDLE_SECONDS = 0.5
_MESSAGES_PER_TURN = 64
#: A packed prefix of an older version is kept so long after its last piece: a slow download must come to its end.
_BLOCK_SECONDS = 10.0


@dataclass
class _Block:
    """Layers of a version, ready to be sent."""

    contents: Contents
    data: bytes
    used_seconds: float


class _Holder:
    """Which versions a UE may still send tasks of."""

    def __init__(self) -> None:
        self.version = 0
        self._left: dict[int, float] = {}  # when it stopped using each older one

    def moves_to(self, version: int, now_seconds: float) -> bool:
        """False if it has that version already."""
        if version == self.version:
            return False
        self._left[self.version] = now_seconds
        self._left.pop(version, None)
        self.version = version
        return True

    def oldest(self, now_seconds: float, hold_seconds: float) -> int:
        """The oldest version that a task of it may be of."""
        self._left = {version: left for version, left in self._left.items() if now_seconds - left <= hold_seconds}
        return min([self.version, *self._left])


class ModelStore(AgentThread):
    """All models of an edge. ``splits`` and ``endpoints`` by UE; UEs of one model share its versions.

    A version is dropped once every UE has held a newer one for ``hold_seconds``: until then a task of it may be on its
    way.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        splits: Mapping[str, SplitModel],
        endpoints: Mapping[str, str],
        *,
        seed: int,
        interval_seconds: float,
        perturbation: float,
        hold_seconds: float,
    ) -> None:
        super().__init__("updates", stop_seconds=2.0)
        self._splits = dict(splits)
        self._seed, self._interval_seconds, self._perturbation = seed, interval_seconds, perturbation
        self._hold_seconds = hold_seconds
        self._sockets = UeSockets(
            context,
            {ue: (endpoint, 0.0) for ue, endpoint in endpoints.items()},
            part_bytes=_LARGEST_REQUEST_BYTES,
            send_high_water=_HIGH_WATER,
        )
        self._origin_seconds = math.inf
        self.newest = 0
        self.malformed = 0
        self._holders = {ue: _Holder() for ue in self._splits}
        self._blocks: dict[tuple[int, int, str], _Block] = {}  # by model, version, cut
        self._waiting: dict[str, tuple[int, str]] = {}  # by UE: version and cut that are being packed for it
        self._queued: set[str] = set()  # UEs whose want the trainer has still to look at
        #: a version to make, or whose want to pack
        self._jobs: queue.SimpleQueue[int | str | None] = queue.SimpleQueue()
        self._trained = threading.Event()
        self._trainer = threading.Thread(target=self._work, name="trainer", daemon=True)

    def start(self) -> None:
        super().start()
        self._trainer.start()

    def begin(self, origin_seconds: float) -> None:
        """Version v is made ``v`` intervals after ``origin_seconds``."""
        self._origin_seconds = origin_seconds
        self._wake.set()

    def take_cuts(self) -> list[tuple[str, str]]:
        """Which UEs were cut off here since the last call, and why; for the edge to count and tell."""
        return self._sockets.take_cuts()

    def _interrupt(self) -> None:
        self._jobs.put(None)
        super()._interrupt()

    # -------------------------------------------------------------------------------------------------------- trainer

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, int):
                for split in self._models():
                    split.weights.train(job, self._seed, self._perturbation)
                self.newest = job
                self._trained.set()
            else:
                self._pack(job)
            self._wake.set()

    def _pack(self, ue: str) -> None:
        self._queued.discard(ue)
        if ue not in self._waiting:
            return
        (version, label), split = self._waiting[ue], self._splits[ue]
        key = (id(split), version, label)
        if key in self._blocks or version not in split.weights:
            return
        nodes = device_set(split.graph.nodes, cut_from_label(label))
        now = time.monotonic()
        self._blocks[key] = _Block(*pack(split.weights.tensors(version, nodes)), now)
        for old, block in list(self._blocks.items()):
            if old[1] < version and now - block.used_seconds > _BLOCK_SECONDS:
                del self._blocks[old]
        while len(self._blocks) > 2 * len(self._splits):  # whoever asks for every cut in turn drives out its own
            del self._blocks[min(self._blocks, key=lambda old: self._blocks[old].used_seconds)]

    def _models(self) -> list[SplitModel]:
        return list({id(split): split for split in self._splits.values()}.values())

    # --------------------------------------------------------------------------------------------------------- serving

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake.fileno(), zmq.POLLIN)
        self._sockets.poll_with(poller)
        asked = 0  # the last version that the trainer was told to make
        while not self._stopping:
            due = self._origin_seconds + (asked + 1) * self._interval_seconds
            now = time.monotonic()
            if now >= due and asked == self.newest:
                asked += 1
                self._jobs.put(asked)
            left = min(max(due - now, 0.0), _IDLE_SECONDS) if asked == self.newest else _IDLE_SECONDS
            ready = dict(poller.poll(math.ceil(left * 1e3)))
            self._wake.clear()
            if self._trained.is_set():
                self._trained.clear()
                for ue in self._splits:
                    self._send(ue, encode(Published(self.newest)))
            self._receive(ready)
            self._sockets.check(time.monotonic())
            self._offer()
        self._sockets.close()

    def _receive(self, ready: Collection[object]) -> None:
        for ue, frames in self._sockets.received(ready, _MESSAGES_PER_TURN):
            try:
                if frames is None or len(frames) != 1:
                    raise MalformedFrame(f"no request of {ue!r}")
                request = decode_up(bytes(frames[0]))
                if isinstance(request, Want):
                    self._wanted(ue, request)
                else:
                    self._fetched(ue, request)
            except (MalformedFrame, ValueError):
                self.malformed += 1

    def _wanted(self, ue: str, want: Want) -> None:
        """Raises ValueError for a cut that the model does not have."""
        if self._holders[ue].moves_to(want.version, time.monotonic()):
            self._retire()
        split = self._splits[ue]
        split.partition(cut_from_label(want.cut))
        self._waiting[ue] = (self.newest, want.cut)
        if ue not in self._queued:  # one at a time of each UE
            self._queued.add(ue)
            self._jobs.put(ue)

    def _offer(self) -> None:
        for ue, (version, cut) in list(self._waiting.items()):
            found = self._blocks.get((id(self._splits[ue]), version, cut))
            if found is not None:
                del self._waiting[ue]
                self._send(ue, encode(Offer(version, cut, found.contents)))

    def _fetched(self, ue: str, fetch: Fetch) -> None:
        found = self._blocks.get((id(self._splits[ue]), fetch.version, fetch.cut))
        if found is None:
            self._send(ue, encode(Gone(fetch.version)))
            return
        found.used_seconds = time.monotonic()
        part = memoryview(found.data)[fetch.offset : fetch.offset + fetch.length]
        self._send(ue, encode(Piece(fetch.version, fetch.cut, fetch.offset)), part)

    def _send(self, ue: str, *frames: bytes | memoryview) -> None:
        self._sockets.send(ue, frames)  # one that is gone, or takes nothing, asks again

    def _retire(self) -> None:
        """Drop what no task can need: older than what every UE has used for long enough."""
        now = time.monotonic()
        needed = min(holder.oldest(now, self._hold_seconds) for holder in self._holders.values())
        for split in self._models():
            for version in split.weights.versions:
                if version < min(needed, self.newest - 1):
                    split.weights.drop(version)
