"""Decoded inputs, kept on this host by what they were made of: a sweep decodes its clip once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from testbed.errors import InputError, os_error_text
from testbed.folders import cache_file, write_whole
from testbed.inputs.decode import Pixels, frame_rate, frames_of, image_files
from testbed.inputs.labels import read_labels
from testbed.inputs.source import Inputs, Source

#: Of one array: a lab's nodes share it in memory.
MAX_BYTES = 2 << 30
#: Of all that is kept; what was not used for longest goes first.
KEPT_BYTES = 4 << 30
_VERSION = 1


def inputs_of(source: Source, channels: int) -> Inputs:
    """Decode what a lab file names, or find it decoded. Raises InputError."""
    try:
        files = image_files(Path(source.path)) if source.kind == "images" else [Path(source.path)]
        key = _key(source, channels, files)
        path = cache_file("inputs", f"{key}.npy")
        facts = path.with_suffix(".json")
        if path.is_file() and facts.is_file():
            found = msgspec.json.decode(facts.read_bytes(), type=Inputs)
            path.touch()
        else:
            found = _decode(source, channels, path)
            write_whole(facts, msgspec.json.encode(found))
            _trim(path.parent, path)
        return msgspec.structs.replace(found, path=str(path), labels_path=_labels(source, files, found, path))
    except OSError as error:
        raise InputError(f"the inputs cannot be read, or not be kept ({os_error_text(error)})", where="input") from None


def _key(source: Source, channels: int, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for name in ("av", "pillow", "numpy"):
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    digest.update(f"{_VERSION} {source.kind} {source.size} {channels}\n".encode())
    for file in files:
        digest.update(f"{file.relative_to(source.path) if source.kind == 'images' else ''}\n".encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:32]


def _decode(source: Source, channels: int, path: Path) -> Inputs:
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = frame_rate(Path(source.path)) if source.kind == "video" else 0.0
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("w+b") as file:
            shape, sha256 = _write(file, frames_of(source, channels), source)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return Inputs(str(path), source.kind, sha256, shape, rate)


def _write(file: BinaryIO, frames: Iterable[Pixels], source: Source) -> tuple[tuple[int, int, int, int], str]:
    """A ``.npy`` whose length is known when it has been written: numpy leaves room for it in the header."""
    digest, count, inner = hashlib.sha256(), 0, (0, 0, 0)
    for frame in frames:
        if not count:
            inner = (frame.shape[0], frame.shape[1], frame.shape[2])
            _header(file, (0, *inner))
        content = np.ascontiguousarray(frame).tobytes()
        digest.update(content)
        file.write(content)
        count += 1
        if file.tell() > MAX_BYTES:
            raise InputError(
                "the inputs are too large",
                where=f"input.{source.kind}",
                value=f"{source.path}: {inner[2]} x {inner[1]} (width x height), {count} of them are read",
                allowed=f"{MAX_BYTES / 2**30:g} GiB as raw pixels",
                fix="Take fewer, or a camera of less resolution: input: {..., size: [HEIGHT, WIDTH]}.",
            )
    shape = (count, *inner)
    begin = file.tell() - count * int(np.prod(inner))
    file.seek(0)
    _header(file, shape)
    assert file.tell() == begin
    digest.update(str(shape).encode())
    return shape, digest.hexdigest()


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    )


def _labels(source: Source, files: Sequence[Path], inputs: Inputs, path: Path) -> str:
    if not source.labels:
        return ""
    of_images = source.kind == "images"
    names = [file.relative_to(source.path).as_posix() for file in files] if of_images else []
    labels = read_labels(Path(source.labels), names, inputs.count)
    content = msgspec.json.encode(labels)
    kept = path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:16]}.labels.json")
    if not kept.is_file():
        write_whole(kept, content)
    return str(kept)


def _trim(folder: Path, new: Path) -> None:
    """Leave no more than is to be kept. What a lab has mapped stays with it."""
    kept = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)
    total = sum(path.stat().st_size for path in kept)
    for path in kept:
        if total <= KEPT_BYTES or path == new:
            break
        total -= path.stat().st_size
        for other in folder.glob(f"{path.stem}*"):
            other.unlink(missing_ok=True)
