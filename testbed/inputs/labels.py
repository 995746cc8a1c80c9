"""Labels of inputs: classes, maps of classes, or boxes; from a CSV, a ``.npy`` or a COCO JSON."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from testbed.errors import InputError
from testbed.inputs.decode import load_array
from testbed.text_files import read_text

_WHERE = "input.labels"


class Box(msgspec.Struct, frozen=True):
    """In pixels of the input as its source has it (before the device's resizing), from the left upper corner."""

    x: float
    y: float
    width: float
    height: float
    category: int


class Labels(msgspec.Struct, frozen=True):
    """One entry per input, in the order of the inputs' indices."""

    kind: Literal["classes", "maps", "boxes"]
    classes: tuple[int, ...] = ()
    boxes: tuple[tuple[Box, ...], ...] = ()
    maps_path: str = ""  # of a .npy of integers, (inputs, height, width)
    categories: dict[int, str] = {}  # names, where the file has them

    def __len__(self) -> int:
        if self.kind == "maps":
            return len(np.load(self.maps_path, mmap_mode="r", allow_pickle=False))
        return len(self.classes if self.kind == "classes" else self.boxes)


def read_labels(path: Path, names: Sequence[str], count: int) -> Labels:
    """Labels of ``count`` inputs; ``names``: the files that they are from, below their folder (of a video and an array
    there are none).

    Raises InputError for a file that is none of the three, or is of other inputs.
    """
    match path.suffix.lower():
        case ".csv":
            labels = Labels("classes", classes=_of_csv(path, names))
        case ".npy":
            labels = _of_array(path)
        case ".json":
            labels = _of_coco(path, names)
        case _:
            raise InputError("not a file of labels", where=_WHERE, value=str(path), allowed=".csv, .npy, .json (COCO)")
    if len(labels) != count:
        raise InputError(
            "there is another number of labels than of inputs",
            where=_WHERE,
            value=f"{path}: {len(labels)}",
            allowed=f"{count}, one for each input",
        )
    return labels


def stored_labels(path: Path) -> Labels:
    """Labels as a run's directory has them."""
    return msgspec.json.decode(path.read_bytes(), type=Labels)


def _of_csv(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """``label`` in the order of the inputs, or ``file,label``; a first line that is no label is a heading."""
    rows = [row for row in csv.reader(read_text(path, "labels").splitlines()) if any(cell.strip() for cell in row)]
    if rows and not _is_class(rows[0][-1]):
        rows = rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) not in (1, 2) or not _is_class(row[-1]):
            raise InputError(
                "not a label",
                where=f"{_WHERE}: {path}, label {number}",
                value=",".join(row)[:80],
                allowed="the number of a class, 0 or more: one per line, or FILE,CLASS",
            )
    classes = [int(row[-1]) for row in rows]
    if not names or not rows or len(rows[0]) == 1:
        return tuple(classes)
    return tuple(_by_name({row[0].strip(): one for row, one in zip(rows, classes, strict=True)}, names, path))


def _is_class(text: str) -> bool:
    return text.strip().isdigit()


def _by_name(found: Mapping[str, Any], names: Sequence[str], path: Path) -> list[Any]:
    """What belongs to each file, by its path below the folder or, where that is not there, by its name alone."""
    keys = [name if name in found else Path(name).name for name in names]
    missing = [name for name, key in zip(names, keys, strict=True) if key not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"an input has no label: {missing[0]}{more}",
            where=_WHERE,
            value=f"{path}: {len(found)} labels, the first of {next(iter(found), 'nothing')}",
            allowed="a label for each image, by its file's name",
        )
    return [found[key] for key in keys]


def _of_array(path: Path) -> Labels:
    found = load_array(path, _WHERE, "labels")
    if found.dtype.kind not in "iu" or found.ndim not in (1, 3) or (found.size and found.min() < 0):
        raise InputError(
            "the array does not hold labels",
            where=_WHERE,
            value=f"{path}: {found.dtype} of shape {found.shape}",
            allowed="integers, 0 or more: classes (inputs,), or maps of classes (inputs, height, width)",
        )
    if found.ndim == 3:
        return Labels("maps", maps_path=str(path))
    return Labels("classes", classes=tuple(found.tolist()))


class _CocoImage(msgspec.Struct):
    id: int
    file_name: str = ""


class _CocoAnnotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]


class _CocoCategory(msgspec.Struct):
    id: int
    name: str = ""


class _Coco(msgspec.Struct):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory] = []


def _of_coco(path: Path, names: Sequence[str]) -> Labels:
    """Boxes; frames of a video, and inputs of an array, are the file's images by growing id."""
    try:
        coco = msgspec.json.decode(read_text(path, "labels"), type=_Coco)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"this is no COCO file of objects: {error}",
            where=_WHERE,
            value=str(path),
            allowed="images (id, file_name), annotations (image_id, category_id, bbox), categories",
        ) from None
    boxes: dict[int, list[Box]] = {image.id: [] for image in coco.images}
    for annotation in coco.annotations:
        if annotation.image_id not in boxes:
            raise InputError("a box is of no image", where=f"{_WHERE}: {path}", value=f"image_id {annotation.image_id}")
        boxes[annotation.image_id].append(Box(*annotation.bbox, annotation.category_id))
    if names:
        of_images = _by_name({image.file_name: boxes[image.id] for image in coco.images}, names, path)
    else:
        of_images = [boxes[number] for number in sorted(boxes)]
    categories = {category.id: category.name for category in coco.categories}
    return Labels("boxes", boxes=tuple(tuple(found) for found in of_images), categories=categories)
