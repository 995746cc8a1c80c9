"""Mutated frames at every decoder of the testbed: ``python -m benchmarks.fuzz [--frames N] [--seed S] [PROTOCOL...]``.

Of each protocol: frames decoded, accepted, refused by the error that the decoder states, and crashes - any other
exception, or memory beyond what a frame of that size needs. Ends with 1, the seed and the frame in hex, where there
is one. Frames start from one message of each type, filled in by its fields, and go through up to four mutations.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

import msgspec
import torch

from controller.contract import Scenario
from controller.policies.examples import example_scenario
from controller.service import protocol
from testbed.inference import tensors, weights
from testbed.inference.tensors import MalformedFrame
from testbed.mechanisms.retraining import update_frames
from testbed.mechanisms.uploading import upload_frames
from testbed.node import task_frames
from testbed.node.transport import Assembler
from testbed.protocol import records

#: What all decoders together may keep in memory beyond what is there before: no frame is larger than 100 kB.
MEMORY_LIMIT_BYTES = 64 * 1024 * 1024

_HEADER, _ = tensors.pack(7, ("a",), [torch.ones(3)], "fp32")
_CONTENTS, _ = weights.pack({"w": torch.ones(2, 3), "b": torch.zeros(3)})
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True)
class Protocol:
    """``corpus``: valid frames. ``decode`` raises one of ``refusals`` for what is malformed."""

    corpus: Sequence[bytes]
    decode: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]


@dataclass
class Outcome:
    frames: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    memory_bytes: int = 0
    crash: str = ""
    frame_hex: str = ""


# ------------------------------------------------------------------------------------------------------------ protocols


def example(of: Any) -> Any:
    """A value of a type, structs field by field."""
    if typing.get_origin(of) is typing.Annotated:
        of = typing.get_args(of)[0]
    of = getattr(of, "__supertype__", of)  # of a NewType
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if of is Scenario:
        return example_scenario(1)
    if of is weights.Contents:
        return _CONTENTS
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return example(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return (example(arguments[0]),) * 2 if arguments[-1] is ... else tuple(example(one) for one in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return {"key": example(arguments[1])}
    if isinstance(of, type) and issubclass(of, msgspec.Struct):
        hints = typing.get_type_hints(of, include_extras=True)
        # a version that is not ours would end the decoding before it begins
        fields = [field for field in msgspec.structs.fields(of) if "wire_version" not in field.name]
        return of(**{field.name: example(hints[field.name]) for field in fields})
    plain: dict[Any, Any] = {int: 3, float: 0.25, str: "ue1", bool: True, bytes: _HEADER, Any: [1, {"a": 2.5}]}
    return plain[of]


def _corpus(*unions: Any) -> list[bytes]:
    kinds = [kind for union in unions for kind in (typing.get_args(union) or (union,))]
    return [_encode(example(kind)) for kind in kinds]


_LENGTH_BYTES = 2


def _joined(frames: Sequence[bytes | memoryview]) -> bytes:
    """Several frames as one, each with its length before it, so that mutations reach all of them."""
    return b"".join(len(frame).to_bytes(_LENGTH_BYTES, "big") + bytes(frame) for frame in frames)


def _parted(data: bytes) -> Iterator[memoryview]:
    view, at = memoryview(data), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + _LENGTH_BYTES], "big")
        yield view[at + _LENGTH_BYTES : at + _LENGTH_BYTES + size]
        at += _LENGTH_BYTES + size


def _tensor_frames() -> list[bytes]:
    found = []
    for codec in ("fp32", "fp16", "uint8"):
        some = [
            torch.linspace(0, 1, 24).reshape(2, 3, 4),
            torch.ones(1, 2, 3, 3).contiguous(memory_format=torch.channels_last),
        ]
        header, buffers = tensors.pack(7, ("a", "b"), some, codec)
        found.append(_joined([_encode(task_frames.Chunk(7, 0)), header, *buffers]))
        found.append(_joined([_encode(task_frames.Chunk(7, 0)), header, b"".join(buffers)]))
    return found


def _decode_tensors(data: bytes) -> None:
    """As the edge does: the chunk, the header, the task put together, its tensors."""
    _, task = Assembler(lambda _header: None).feed(list(_parted(data)), 0.0)
    if task is not None:
        tensors.unpack(task.header, task.buffers)


def _decode_result(data: bytes) -> None:
    task_frames.decode_down(data)


def _decode_upload(data: bytes) -> None:
    """Either way; parameters as the edge takes them in, a value's header as whoever gets it."""
    errors = 0
    for decode in (upload_frames.decode_up, upload_frames.decode_down, upload_frames.decode_start):
        try:
            found: object = decode(data)
        except MalformedFrame:
            errors += 1
            continue
        if isinstance(found, upload_frames.Model):
            for layer in found.layers:
                weights.Arriving(layer.contents).write(memoryview(b"12345678"))
        elif isinstance(found, upload_frames.ValueStart):
            tensors.decode_header(found.header)
    if errors == 3:
        raise MalformedFrame("neither way")


def _decode_update(data: bytes) -> None:
    try:
        update_frames.decode_up(data)
    except MalformedFrame:
        found = update_frames.decode_down(data)
        # the UE reserves what its own graph says; the checksum is made to fit, or nothing would get past it
        if isinstance(found, update_frames.Offer) and found.contents.total_bytes < 1 << 20:
            block = bytearray(found.contents.total_bytes)
            weights.unpack(msgspec.structs.replace(found.contents, digest=weights.digest_of(block)), block)


def protocols() -> dict[str, Protocol]:
    down = task_frames.Ack | task_frames.Result
    return {
        "tensors": Protocol(_tensor_frames(), _decode_tensors, (MalformedFrame,)),
        "results": Protocol(_corpus(down), _decode_result, (MalformedFrame,)),
        "control": Protocol(_corpus(protocol.Control), protocol.decode_control, (msgspec.DecodeError,)),
        "records": Protocol(_corpus(*records.KINDS), records.decode_record, (msgspec.DecodeError,)),
        "uploads": Protocol(
            _corpus(upload_frames.Up, upload_frames.Down, upload_frames.Start), _decode_upload, (MalformedFrame,)
        ),
        "updates": Protocol(
            [
                *_corpus(update_frames.Want | update_frames.Fetch),
                *_corpus(update_frames.Published | update_frames.Offer | update_frames.Piece | update_frames.Gone),
            ],
            _decode_update,
            (MalformedFrame,),
        ),
    }


# ------------------------------------------------------------------------------------------------------------ mutations

#: msgpack's markers of lengths to come, of nothing, and of extension types, with lengths that nobody sends.
_MARKERS = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xdc\xff\xff",
    b"\xc0", b"\xc1", b"\xc9\xff\xff\xff\xff\x01", b"\xd4\x00\x00", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\xce\x3f\xff\xff\xff", b"\x90", b"\x80", b"\xa0", b"\xa2\xc3\x28", b"\x00", b"\xff",
)  # fmt: skip
_NESTED = (b"\x91", b"\x81\xa1a", b"\x92\x01", b"\x81\xa7options")


def mutated(frame: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One to four changes: bits, bytes, lengths, pieces left out, doubled, nested or taken from another frame."""
    data = bytearray(frame)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(_MARKERS)
            case 3:
                marker = rng.choice(_MARKERS)
                data[at : at + len(marker)] = marker
            case 4:
                del data[at:]
            case 5:
                del data[at : at + rng.randrange(1, 9)]
            case 6:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            case 7:
                other = rng.choice(others)
                begin = rng.randrange(len(other))
                data[at : at + rng.randrange(20)] = other[begin : begin + rng.randrange(1, 40)]
            case 8 if rng.random() < 0.01:
                data[at:at] = rng.choice(_NESTED) * rng.randrange(10, 6000)
    return bytes(data)


def fuzz(protocol: Protocol, frames: int, seed: int) -> Outcome:
    """Send mutated frames; ends at the first crash."""
    rng = random.Random(seed)
    outcome = Outcome()
    for frame in protocol.corpus:
        protocol.decode(frame)  # a corpus that does not decode would try nothing but the first check
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for _ in range(frames):
        data = mutated(rng.choice(protocol.corpus), protocol.corpus, rng)
        at = time.perf_counter()
        try:
            protocol.decode(data)
            outcome.accepted += 1
        except protocol.refusals:
            outcome.refused += 1
        except Exception as error:  # noqa: BLE001 - what is looked for
            outcome.crash = f"{type(error).__name__}: {error}"
        took = time.perf_counter() - at
        outcome.slowest_seconds = max(outcome.slowest_seconds, took)
        outcome.frames += 1
        outcome.memory_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        if outcome.memory_bytes > MEMORY_LIMIT_BYTES:
            outcome.crash = outcome.crash or f"{outcome.memory_bytes} bytes of memory"
        if outcome.crash:
            outcome.frame_hex = data.hex()
            break
    outcome.seconds = time.perf_counter() - began
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("protocols", nargs="*", metavar="PROTOCOL", help="default: all")
    parser.add_argument("--frames", type=int, default=1_000_000, help="of each protocol; default 1,000,000")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    known = protocols()
    if unknown := set(asked.protocols) - set(known):
        parser.error(f"no such protocol: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    figures = {}
    for name in asked.protocols or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcome = fuzz(known[name], asked.frames, asked.seed)
        figures[name] = {
            "seed": asked.seed,
            **vars(outcome),
            "frames_per_second": round(outcome.frames / outcome.seconds),
        }
    print(json.dumps(figures, indent=1))
    return 1 if any(figure["crash"] for figure in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
