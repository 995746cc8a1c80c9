"""Images, clips and arrays of a user as raw uint8, one input at a time: on the host, before a lab starts."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.errors import InputError, first_line, os_error_text
from testbed.inputs.source import Source

Pixels = NDArray[np.uint8]

_LISTED = 5
_CLIPS = "a whole video file that FFmpeg reads (.mp4, .mkv, .webm)"
#: A clip that ends so long before its container says so was cut off.
_CUT_OFF_SECONDS = 0.5


def frames_of(source: Source, channels: int) -> Iterator[Pixels]:
    """The inputs, each (C, H, W), all of one size. Raises InputError for the first one that cannot be had."""
    match source.kind:
        case "images":
            return _images(Path(source.path), source.size, channels)
        case "video":
            return _video(Path(source.path), source.size, channels)
        case "array":
            return iter(_array(Path(source.path), channels))


def image_files(folder: Path) -> list[Path]:
    """All images below a folder, by name. Raises InputError where there is none."""
    from PIL import Image

    known = set(Image.registered_extensions())
    try:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise InputError(f"the images cannot be listed ({os_error_text(error)})", where="input.images") from None
    images = [path for path in files if path.suffix.lower() in known and not path.name.startswith(".")]
    if not images:
        there = ", ".join(path.name for path in files[:_LISTED]) or "it is empty"
        raise InputError(
            "there is no image in the folder",
            where="input.images",
            value=str(folder),
            allowed=f"files that end with .png, .jpg, .webp or another that Pillow reads (there: {there})",
        )
    return images


def _images(folder: Path, size: tuple[int, int] | None, channels: int) -> Iterator[Pixels]:
    from PIL import Image, ImageOps

    first: tuple[Path, tuple[int, int]] | None = None
    for path in image_files(folder):
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert(_mode(channels))
        except Exception as error:  # noqa: BLE001 - a decoder raises whatever a damaged file makes it
            raise InputError(
                f"this is no image, or not all of it: {first_line(error)}", where="input.images", value=str(path)
            ) from None
        if size is None:
            first = first or (path, image.size)
            if image.size != first[1]:
                raise InputError(
                    "the images have different sizes",
                    where="input.images",
                    value=f"{first[0].name} has {_by(first[1])} (width x height), {path.name} has {_by(image.size)}",
                    allowed="images of one size, as a camera makes them",
                    fix="Say what the camera makes, and they are brought to it: "
                    f"input: {{images: ..., size: [{first[1][1]}, {first[1][0]}]}} (height, width).",
                )
        yield _pixels(image, size)


def _mode(channels: int) -> str:
    if channels not in (1, 3):
        raise InputError(
            "the model does not take images",
            where="input",
            value=f"{channels} channels",
            allowed="images and frames have 1 or 3",
            fix="Give it an array: input: {array: FILE.npy}.",
        )
    return "RGB" if channels == 3 else "L"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _pixels(image: Any, size: tuple[int, int] | None) -> Pixels:
    """(C, H, W) of an image of Pillow's, brought to (height, width)."""
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1])
    values: Pixels = np.asarray(image)
    return np.ascontiguousarray(values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1))


# -------------------------------------------------------------------------------------------------------------- videos


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, its video) of a clip. Raises InputError, also for what is found wrong inside."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(
                    "there is no video in the file, or it is cut off before the part that describes it",
                    where="input.video",
                    value=str(path),
                    allowed=_CLIPS,
                )
            yield container, container.streams.video[0]
    except (av.FFmpegError, OSError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) and not str(error) else first_line(error)
        raise InputError(
            f"the clip cannot be read, or not to its end: {reason}",
            where="input.video",
            value=str(path),
            allowed=_CLIPS,
        ) from None


def frame_rate(path: Path) -> float:
    """Frames per second of a clip, the mean. Raises InputError."""
    return _frame_rate(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _frame_rate(path: Path, _modified_ns: int) -> float:
    with _opened(path) as (_, video):
        rate = float(video.average_rate or video.guessed_rate or 0.0)
    if not 0.0 < rate <= 1000.0:
        raise InputError(
            "the clip does not say how many frames a second it has",
            where="input.video",
            value=f"{path}: {rate:g} /s",
            allowed="up to 1000 /s",
        )
    return rate


def _video(path: Path, size: tuple[int, int] | None, channels: int) -> Iterator[Pixels]:
    mode, count, last_seconds = _mode(channels), 0, 0.0
    with _opened(path) as (container, video):
        for frame in container.decode(video):
            if frame.is_corrupt:
                raise InputError(f"frame {count} of the clip is damaged", where="input.video", value=str(path))
            count += 1
            last_seconds = float(frame.time or 0.0)
            yield _pixels(frame.to_image().convert(mode), size)
        promised = int(video.frames or 0)
        length = float(container.duration or 0) / 1e6 + float(container.start_time or 0) / 1e6
        rate = float(video.average_rate or video.guessed_rate or 1.0)
    short = length - last_seconds - 1.0 / rate > _CUT_OFF_SECONDS
    if not count or count < promised or (not promised and short):
        raise InputError(
            "the clip is cut off",
            where="input.video",
            value=f"{path}: {count} frames can be decoded",
            allowed=f"the {promised} frames that it says it has" if promised else f"{length:.1f} s of frames",
            fix="Copy it again, or repair it: ffmpeg -i CLIP -c copy REPAIRED.",
        )


# -------------------------------------------------------------------------------------------------------------- arrays


def load_array(path: Path, where: str, what: str) -> NDArray[Any]:
    """A ``.npy``, mapped. Raises InputError for a file that is none."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"the {what} cannot be read ({os_error_text(error)})", where=where) from None
    except (ValueError, EOFError) as error:
        raise InputError(
            f"these are no {what}: {first_line(error)}",
            where=where,
            value=str(path),
            allowed="one array, as numpy.save writes it, without Python objects",
        ) from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise InputError(f"there are several arrays in the {what}", where=where, value=str(path), allowed="a .npy")
    return found


def _array(path: Path, channels: int) -> NDArray[Any]:
    found = load_array(path, "input.array", "inputs")
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[1] != channels or not all(found.shape):
        fix = ""
        if found.ndim == 4 and found.shape[3] == channels:
            fix = "Move the channels to the front: array.transpose(0, 3, 1, 2)."
        raise InputError(
            "the array does not hold inputs of the model",
            where="input.array",
            value=f"{path}: {found.dtype} of shape {found.shape}",
            allowed=f"uint8 of shape (inputs, {channels}, height, width)",
            fix=fix,
        )
    return found
