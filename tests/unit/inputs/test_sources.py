"""What a lab's tasks are about: decoded as it is, in an order of the seed's, or refused in one paragraph."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from testbed.errors import InputError
from testbed.inputs import store
from testbed.inputs.decode import frame_rate
from testbed.inputs.labels import Box, stored_labels
from testbed.inputs.source import IMAGES, Inputs, Source, order_of
from testbed.inputs.store import inputs_of
from tests import made_inputs as made


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pixels(inputs: Inputs) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.load(inputs.path)


def test_images_are_what_their_files_hold_by_name(tmp_path: Path) -> None:
    inputs = inputs_of(Source("images", str(made.images(tmp_path / "images"))), 3)
    assert inputs.shape == pixels(inputs).shape == (3, 3, made.SIDE, 24)
    assert pixels(inputs)[:, :, 0, 0].tolist() == [[0, 10, 200], [1, 10, 200], [2, 10, 200]]
    assert inputs_of(Source("images", str(tmp_path / "images")), 1).shape[1] == 1


def test_images_of_several_sizes_need_the_one_of_the_camera(tmp_path: Path) -> None:
    folder = str(made.images(tmp_path / "images", sizes=((24, 16), (16, 24))))
    with pytest.raises(InputError, match="different sizes") as error:
        inputs_of(Source("images", folder), 3)
    assert "size: [16, 24]" in error.value.fix
    assert inputs_of(Source("images", folder, size=(8, 12)), 3).shape == (3, 3, 8, 12)


def test_a_clip_is_its_frames_in_their_order_at_its_rate(tmp_path: Path) -> None:
    path = made.clip(tmp_path / "clip.mp4", frames=8, rate=5)
    assert frame_rate(path) == 5.0
    inputs = inputs_of(Source("video", str(path)), 3)
    assert (inputs.shape, inputs.rate_per_second) == ((8, 3, 32, 32), 5.0)
    assert (np.diff(pixels(inputs).mean(axis=(1, 2, 3))) > 10).all()
    assert order_of(inputs, 7, 0).tolist() == list(range(8))


def test_the_order_is_the_seeds_and_each_ue_has_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((50, 3, 4, 4), np.uint8))
    inputs = inputs_of(Source("array", str(tmp_path / "x.npy")), 3)
    order = order_of(inputs, 7, 0)
    assert sorted(order) == list(range(50))
    assert (order == order_of(inputs, 7, 0)).all()
    assert (order != order_of(inputs, 7, 1)).any()
    assert (order != order_of(inputs, 8, 0)).any()
    assert order_of(None, 7, 0).tolist() == list(range(IMAGES))


def test_what_was_decoded_is_kept_until_its_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.images(tmp_path / "images")
    first = inputs_of(Source("images", str(folder)), 3)
    made.images(folder, count=4)
    other = inputs_of(Source("images", str(folder)), 3)
    assert (other.sha256, other.path) != (first.sha256, first.path)
    monkeypatch.setattr(store, "frames_of", None)  # nothing is decoded again
    (folder / "b3.png").unlink()
    assert inputs_of(Source("images", str(folder)), 3) == first


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "KEPT_BYTES", 40_000)
    paths = []
    for number in range(4):
        np.save(tmp_path / "x.npy", np.full((1, 3, 64, 64), number, np.uint8))
        paths.append(Path(inputs_of(Source("array", str(tmp_path / "x.npy")), 3).path))
    assert [path.exists() for path in paths] == [False, True, True, True]  # 12 kB each


# -------------------------------------------------------------------------------------------------------------- labels


def labelled(tmp_path: Path, name: str, content: str) -> Source:
    (tmp_path / name).write_text(content)
    return Source("images", str(made.images(tmp_path / "images")), str(tmp_path / name))


COCO = {
    "images": [{"id": 5, "file_name": "b1.png"}, {"id": 3, "file_name": "b2.png"}, {"id": 9, "file_name": "b0.png"}],
    "annotations": [{"id": 1, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0}],
    "categories": [{"id": 2, "name": "ring"}],
}


@pytest.mark.parametrize("text", ["4\n5\n6\n", "label\n4\n5\n6\n", "file,class\nb2.png,6\nb0.png,4\nb1.png,5\n"])
def test_classes_from_a_csv_by_order_or_by_file(tmp_path: Path, text: str) -> None:
    labels = stored_labels(Path(inputs_of(labelled(tmp_path, "y.csv", text), 3).labels_path))
    assert (labels.kind, labels.classes) == ("classes", (4, 5, 6))


def test_boxes_from_coco_by_file_and_of_a_clip_by_id(tmp_path: Path) -> None:
    labels = stored_labels(Path(inputs_of(labelled(tmp_path, "y.json", json.dumps(COCO)), 3).labels_path))
    assert labels.boxes == ((), (), (Box(1, 2, 3, 4, 2),))
    assert labels.categories == {2: "ring"}
    clip = Source("video", str(made.clip(tmp_path / "clip.mp4", frames=3)), str(tmp_path / "y.json"))
    assert stored_labels(Path(inputs_of(clip, 3).labels_path)).boxes == ((Box(1, 2, 3, 4, 2),), (), ())


@pytest.mark.parametrize(("shape", "kind"), [((3,), "classes"), ((3, 16, 24), "maps")])
def test_classes_and_maps_from_an_array(tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    np.save(tmp_path / "y.npy", np.ones(shape, np.int64))
    source = Source("images", str(made.images(tmp_path / "images")), str(tmp_path / "y.npy"))
    labels = stored_labels(Path(inputs_of(source, 3).labels_path))
    assert (labels.kind, len(labels)) == (kind, 3)


# ----------------------------------------------------------------------------------------------------------- bad input


def empty(folder: Path) -> Source:
    (folder / "images").mkdir()
    (folder / "images" / "notes.txt").write_text("none")
    return Source("images", str(folder / "images"))


def no_image(folder: Path) -> Source:
    (made.images(folder / "images") / "b1.png").write_text("none")
    return Source("images", str(folder / "images"))


def half_an_image(folder: Path) -> Source:
    path = made.images(folder / "images", sizes=((300, 300),)) / "b1.png"
    path.write_bytes(path.read_bytes()[:-400])
    return Source("images", str(folder / "images"))


def cut_off(folder: Path) -> Source:
    """Its index is at its end: nothing can be read without it."""
    path = made.clip(folder / "clip.mp4", frames=20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return Source("video", str(path))


def cut_off_without_an_index(folder: Path) -> Source:
    path = made.clip(folder / "clip.mkv", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    return Source("video", str(path))


def no_clip(folder: Path) -> Source:
    (folder / "clip.mp4").write_text("none")
    return Source("video", str(folder / "clip.mp4"))


def saved(array: object) -> Callable[[Path], Source]:
    def save(folder: Path) -> Source:
        np.save(folder / "x.npy", np.asarray(array), allow_pickle=True)
        return Source("array", str(folder / "x.npy"))

    return save


def with_labels(name: str, content: bytes) -> Callable[[Path], Source]:
    def write(folder: Path) -> Source:
        (folder / name).write_bytes(content)
        return Source("images", str(made.images(folder / "images")), str(folder / name))

    return write


FOREIGN = b'{"images":[],"annotations":[{"image_id":1,"category_id":1,"bbox":[0,0,1,1]}]}'


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (empty, "there is no image in the folder"),
        (no_image, "b1.png"),
        (half_an_image, "not all of it"),
        (cut_off, "cut off"),
        (cut_off_without_an_index, "cut off|to its end"),
        (no_clip, "the clip cannot be read"),
        (saved(np.zeros((2, 3, 4, 4))), "float64 of shape"),
        (saved(np.zeros((2, 4, 4, 3), np.uint8)), "Move the channels to the front"),
        (saved(np.zeros((0, 3, 4, 4), np.uint8)), "does not hold inputs"),
        (saved(np.array([{}], dtype=object)), "these are no inputs"),
        (with_labels("y.csv", b"1\n2\n"), "another number of labels"),
        (with_labels("y.csv", b"1\ntwo\n3\n"), "not a label"),
        (with_labels("y.csv", b"a.png,1\nb1.png,2\nb2.png,3\n"), "an input has no label: b0.png"),
        (with_labels("y.json", b"{}"), "no COCO file"),
        (with_labels("y.json", b'{"images": [], "annotations": []}'), "an input has no label"),
        (with_labels("y.json", FOREIGN), "image_id 1"),
        (with_labels("y.npy", b"none"), "these are no labels"),
        (with_labels("y.txt", b"1"), "not a file of labels"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(tmp_path: Path, make: Callable[[Path], Source], says: str) -> None:
    with pytest.raises(InputError) as error:
        inputs_of(make(tmp_path), 3)
    assert re.search(says, str(error.value)), str(error.value)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_what_is_too_large_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_BYTES", 3000)
    with pytest.raises(InputError, match="too large"):
        inputs_of(Source("video", str(made.clip(tmp_path / "clip.mp4"))), 3)
    assert not list((tmp_path / "cache").rglob("*.npy"))
