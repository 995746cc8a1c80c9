"""What a UE and an edge without models say to each other: who runs what, parameters up, values both ways.

The data socket (ZeroMQ DEALER to ROUTER, multipart) carries single frames of control, and *streams*: the parameters of
a node, or the value of a node. A stream travels in chunks as tasks do in :mod:`testbed.node.task_frames` - ``Chunk``,
in the first one a frame that says what the stream holds, then payload - and ``Chunk.task`` is its number, counted by
the sender from the start of the connection's process. Each chunk is acknowledged.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from controller.decoding import decode_frame
from testbed.inference.tensors import MalformedFrame
from testbed.inference.weights import Contents
from testbed.node.task_frames import Ack, Chunk, Frame

UPLOAD_WIRE_VERSION = 1

Task = Annotated[int, Meta(ge=0)]


class Layer(Frame, frozen=True):
    """The parameters of a node."""

    node: str
    contents: Contents


class Model(Frame, frozen=True, tag="m"):
    """First message of a connection: what a UE computes with."""

    layers: tuple[Layer, ...]
    model_version: int
    wire_version: int = UPLOAD_WIRE_VERSION


class Begin(Frame, frozen=True, tag="b"):
    """A task starts, or goes on after a broken connection. ``have``: values of the edge's that the UE has."""

    task: Task
    edge_nodes: tuple[str, ...]
    serial: bool
    have: tuple[str, ...] = ()


class End(Frame, frozen=True, tag="e"):
    """A task is over for the UE: its answer is there, or it gave it up."""

    task: Task


class LayerStart(Frame, frozen=True, tag="l"):
    """What a stream of parameters holds: a node's, from ``start`` on."""

    task: Task
    node: str
    start: Annotated[int, Meta(ge=0)]


class Segment(Frame, frozen=True, tag="s"):
    """Nodes that one side ran one after the other without waiting, and what it waited for before."""

    number: int
    first: str
    last: str
    start_seconds: float
    end_seconds: float
    target_seconds: float  # of all its nodes
    compute_seconds: float  # real
    free_seconds: float  # when this side ended what it ran before, or the task began
    value: str = ""  # the last value from the other side that it waited for
    value_seconds: float = -1.0  # when that was there
    layer: str = ""  # the last parameters
    layer_seconds: float = -1.0
    overrun: bool = False
    share: float = 0.0  # or the device's speed

    @property
    def ready_seconds(self) -> float:
        """When everything that its first node needs was there."""
        return max(self.value_seconds, self.layer_seconds)


class ValueStart(Frame, frozen=True, tag="v"):
    """What a stream of a value holds. ``header`` is of :mod:`testbed.inference.tensors`."""

    task: Task
    name: str
    header: bytes
    released_seconds: float  # when the node ended
    segments: tuple[Segment, ...] = ()  # of the sender, new or grown since its last value


class Ready(Frame, frozen=True, tag="r"):
    """The edge's answer to Begin: what it has of the task already."""

    task: Task
    fresh: bool  # it knew nothing of the task
    values: tuple[str, ...]  # of the UE's
    layers: tuple[str, ...]  # whose parameters it holds, of those that the task needs
    partial: tuple[tuple[str, int], ...]  # bytes of others that came before a connection broke


class Verdict(Frame, frozen=True, tag="d"):
    """What became of a node's parameters: "held", "shared" (another UE's were there first), "corrupt" (the checksum is
    another) or "lost" (they do not go on from what is here) - both are wanted again - or "refused" (the UE computes the
    node)."""

    task: Task
    node: str
    status: str
    seconds: float
    reason: str = ""


class Turn(Frame, frozen=True, tag="t"):
    """The edge has come to a node and lacks its parameters."""

    task: Task
    node: str


class Failed(Frame, frozen=True, tag="f"):
    """The edge cannot go on with a task."""

    task: Task
    reason: str


class Broken(Frame, frozen=True, tag="x"):
    """Something malformed came: begin again as on a new connection."""


Up = Model | Begin | End | Chunk | Ack
Down = Ready | Verdict | Turn | Failed | Broken | Chunk | Ack
Start = LayerStart | ValueStart

_encoder = msgspec.msgpack.Encoder()
_up: msgspec.msgpack.Decoder[Up] = msgspec.msgpack.Decoder(Up)
_down: msgspec.msgpack.Decoder[Down] = msgspec.msgpack.Decoder(Down)
_start: msgspec.msgpack.Decoder[Start] = msgspec.msgpack.Decoder(Start)
_FrameType = TypeVar("_FrameType")


def encode(frame: Frame) -> bytes:
    return _encoder.encode(frame)


def decode_up(data: bytes | memoryview) -> Up:
    """Raises MalformedFrame."""
    frame = _decode(_up, data)
    if isinstance(frame, Model) and frame.wire_version != UPLOAD_WIRE_VERSION:
        raise MalformedFrame(f"wire version {frame.wire_version}, this edge speaks {UPLOAD_WIRE_VERSION}")
    return frame


def decode_down(data: bytes | memoryview) -> Down:
    """Raises MalformedFrame."""
    return _decode(_down, data)


def decode_start(data: bytes | memoryview) -> Start:
    """Raises MalformedFrame."""
    return _decode(_start, data)


def _decode(decoder: msgspec.msgpack.Decoder[_FrameType], data: bytes | memoryview) -> _FrameType:
    try:
        return decode_frame(decoder, data)
    except msgspec.DecodeError as error:
        raise MalformedFrame(str(error)) from error
