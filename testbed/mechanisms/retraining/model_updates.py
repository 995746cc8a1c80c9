"""A UE's side of a model that moves: fetch the placed layers of the newest version, hand them over whole or not at all.

The old version serves until the stage thread, between two tasks, takes the new one (:class:`DeviceWeights`). A download
that is interrupted goes on where it stopped; what does not have the announced checksum, or is of a version that the
edge has dropped, is thrown away. A UE that was killed starts with the first version and fetches the newest anew.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import zmq
from torch import Tensor

from controller.contract import ALL_ON_EDGE, Cut, UeDecision, cut_label
from controller.model.cuts import canonical_cut, device_set
from controller.model.placed import within_placed
from testbed.inference.partition import SplitModel
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import unpack
from testbed.mechanisms.retraining.update_frames import (
    MAX_PIECE_BYTES,
    Fetch,
    Gone,
    Offer,
    Piece,
    Published,
    Want,
    decode_down,
    encode,
)
from testbed.node.task_frames import message_layer2_bytes
from testbed.node.threads import AgentThread, Wakeup
from testbed.node.transport import CHUNK_SECONDS
from testbed.protocol.records import ModelUpdate

_STALL_SECONDS = 1.0
_HIGH_WATER = 1000
_SMALLEST_PIECE_BYTES = 2 * 1448


@dataclass(frozen=True)
class Placed:
    """Layers that a device holds of a version."""

    version: int
    nodes: frozenset[str]


class DeviceWeights:
    """What the device computes with. :meth:`adopt` belongs to the stage thread, the rest to anybody."""

    def __init__(self, split: SplitModel) -> None:
        self._split = split
        self._nodes = split.graph.nodes
        self._sets: dict[Cut, frozenset[str]] = {}
        self.placed = Placed(0, frozenset(node.name for node in self._nodes))
        self._pending: tuple[Placed, dict[str, Tensor]] | None = None
        self.adopted: Callable[[Placed], None] = lambda placed: None

    def device_set(self, cut: Cut) -> frozenset[str]:
        if cut not in self._sets:
            self._sets[cut] = device_set(self._nodes, cut)
        return self._sets[cut]

    def hand_over(self, placed: Placed, tensors: dict[str, Tensor]) -> None:
        """A whole version, checked. It is taken before the next head."""
        self._pending = (placed, tensors)

    def adopt(self) -> None:
        """Swap if there is something new: all pointers between two heads, by the thread that computes heads."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        placed, tensors = pending
        weights, before = self._split.weights, self.placed.version
        weights.add(placed.version, tensors)
        weights.use(placed.version)
        if before != placed.version:
            weights.drop(before)
        self.placed = placed
        self.adopted(placed)

    def fit(self, own: UeDecision) -> UeDecision:
        """The decision with its cut no deeper than what is placed."""
        return within_placed(own, self.placed.nodes, self._split.graph.chain_cuts, self.device_set)


@dataclass
class _Download:
    offer: Offer
    placed: Placed
    block: bytearray
    started_seconds: float
    offset: int = 0  # received
    asked: int = 0
    wire_bytes: int = 0
    resumed: int = 0
    heard_seconds: float = 0.0


class ModelUpdates(AgentThread):
    """The thread that fetches. What happened waits in :attr:`records` for the I/O thread, which is woken."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        node: str,
        endpoint: str,
        weights: DeviceWeights,
        split: SplitModel,
        receive_watts: float,
        wake_io: Wakeup,
    ) -> None:
        super().__init__("updates", stop_seconds=2.0)
        self._node, self._weights, self._nodes = node, weights, split.graph.nodes
        self._receive_watts = receive_watts
        self._wake_io = wake_io
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, node.encode())
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, _HIGH_WATER)
        self._socket.set(zmq.RECONNECT_IVL, 100)
        self._socket.connect(endpoint)
        self.rate_bits_per_second = 10e6  # of the downlink, as decided
        self.records: deque[ModelUpdate] = deque()
        self.fetched_bytes = 0
        self._wanted: frozenset[str] | None = None  # before the first decision
        self._newest = 0
        self._download: _Download | None = None
        self._fetched: ModelUpdate | None = None  # handed over, not taken yet
        self._asked_seconds = -math.inf
        self._swapped = False  # and the edge does not know yet
        weights.adopted = self._adopted

    def want(self, own: UeDecision) -> None:
        """The layers that a decision needs are wanted of every version from now on."""
        nodes = self._weights.device_set(own.cut) if own.cut != ALL_ON_EDGE else frozenset()
        if nodes != self._wanted:
            self._wanted = nodes
            self._wake.set()

    # -------------------------------------------------------------------------------------------------------- fetching

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake.fileno(), zmq.POLLIN)
        self._ask()  # a UE that was restarted learns what is newest
        while not self._stopping:
            poller.poll(int(_STALL_SECONDS * 1e3 / 4))
            self._wake.clear()
            self._receive()
            now = time.monotonic()
            download = self._download
            if self._swapped:
                self._swapped = False
                self._ask()
            elif download is None:
                if self._lacks() and now - self._asked_seconds > _STALL_SECONDS:
                    self._ask()
            elif now - download.heard_seconds > _STALL_SECONDS:
                download.asked, download.heard_seconds = download.offset, now
                download.resumed += 1
            self._fetch()
        self._socket.close()

    def _lacks(self) -> bool:
        if self._wanted is None:
            return False
        placed = self._weights.placed
        waiting = self._fetched
        version = placed.version if waiting is None else waiting.version
        return self._newest > version or not self._wanted <= placed.nodes

    def _ask(self) -> None:
        """Also tells the edge which version is in use, so that it can drop older ones."""
        self._asked_seconds = time.monotonic()
        self._send(Want(self._weights.placed.version, self._label()))

    def _label(self) -> str:
        nodes = self._wanted
        return cut_label(canonical_cut(self._nodes, nodes)) if nodes else cut_label(ALL_ON_EDGE)

    def _receive(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode_down(frames[0])
            except MalformedFrame:
                continue
            match message:
                case Published():
                    self._newest = max(self._newest, message.version)
                    self._asked_seconds = -math.inf
                case Offer():
                    self._open(message)
                case Piece():
                    if len(frames) == 2:
                        self._take(message, frames)
                case Gone():
                    if self._download is not None and self._download.offer.version == message.version:
                        self._discard(f"version {message.version} is not at the edge any more")

    def _open(self, offer: Offer) -> None:
        self._newest = max(self._newest, offer.version)
        if self._wanted is None or self._download is not None or not self._lacks() or offer.cut != self._label():
            return
        now = time.monotonic()
        placed = Placed(offer.version, self._wanted)
        self._download = _Download(offer, placed, bytearray(offer.contents.total_bytes), now, heard_seconds=now)
        if not offer.contents.total_bytes:
            self._finish(self._download)

    def _fetch(self) -> None:
        """Keep two pieces of 10 ms each under way."""
        download = self._download
        if download is None:
            return
        piece = int(self.rate_bits_per_second / 8 * CHUNK_SECONDS)
        piece = min(max(piece, _SMALLEST_PIECE_BYTES), MAX_PIECE_BYTES)
        total = download.offer.contents.total_bytes
        while download.asked < total and download.asked + piece <= download.offset + 2 * piece:
            length = min(piece, total - download.asked)
            self._send(Fetch(download.offer.version, download.offer.cut, download.asked, length))
            download.asked += length

    def _take(self, piece: Piece, frames: list[bytes]) -> None:
        download, data = self._download, frames[1]
        if download is None or (piece.version, piece.cut) != (download.offer.version, download.offer.cut):
            return
        end = piece.offset + len(data)
        if piece.offset != download.offset or not data or end > len(download.block):
            return  # asked for twice
        download.block[piece.offset : end] = data
        download.offset = end
        download.asked = max(download.asked, end)
        download.heard_seconds = time.monotonic()
        download.wire_bytes += message_layer2_bytes(frames)
        self.fetched_bytes += len(data)
        if end == len(download.block):
            self._finish(download)

    def _finish(self, download: _Download) -> None:
        try:
            tensors = unpack(download.offer.contents, download.block)
        except MalformedFrame as error:
            self._discard(str(error))
            return
        self._download = None
        passed_over, self._fetched = self._fetched, self._record(download, "placed", "")
        if passed_over is not None:  # no task came since
            self._tell(msgspec.structs.replace(passed_over, status="discarded", reason="a newer version came first"))
        self._weights.hand_over(download.placed, tensors)

    def _discard(self, reason: str) -> None:
        assert self._download is not None
        self._tell(self._record(self._download, "discarded", reason))
        self._download = None
        self._asked_seconds = -math.inf

    def _adopted(self, placed: Placed) -> None:
        """From the stage thread."""
        fetched, self._fetched = self._fetched, None
        if fetched is not None:
            self._tell(msgspec.structs.replace(fetched, swapped_seconds=time.monotonic()))
        self._swapped = True
        self._wake.set()

    def _record(self, download: _Download, status: str, reason: str) -> ModelUpdate:
        now = time.monotonic()
        return ModelUpdate(
            ue=self._node,
            version=download.offer.version,
            cut=download.offer.cut,
            status=status,
            reason=reason,
            placed_nodes=len(download.placed.nodes),
            payload_bytes=download.offset,
            wire_bytes=download.wire_bytes,
            resumed=download.resumed,
            started_seconds=download.started_seconds,
            received_seconds=now,
            swapped_seconds=math.nan,
            receive_joules=self._receive_watts * (now - download.started_seconds),
        )

    def _tell(self, record: ModelUpdate) -> None:
        self.records.append(record)
        self._wake_io.set()

    def _send(self, frame: Want | Fetch) -> None:
        try:
            self._socket.send(encode(frame), zmq.NOBLOCK)
        except zmq.Again:  # no connection: it is asked for again
            return
