"""What an edge holds of its UEs' models: content once, within its memory, never what a running task needs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.inference.weights import Contents, contents_of
from testbed.mechanisms.uploading.layer_cache import Key, LayerCache, OutOfMemoryError

WORDS = 100
SIZE_BYTES = 4 * WORDS


def layer(seed: int) -> tuple[Contents, bytes]:
    contents, parts = contents_of({f"layer{seed}": torch.full((WORDS,), float(seed))})
    return contents, b"".join(parts)


def send(cache: LayerCache, ue: str, seed: int) -> Key:
    contents, data = layer(seed)
    key = cache.key(ue, contents)
    cache.open(ue, key, contents).write(memoryview(data))
    cache.take(ue, key)
    return key


def test_equal_content_is_held_once_whatever_it_is_called() -> None:
    cache = LayerCache(10 * SIZE_BYTES, shared=True)
    key = send(cache, "ue0", 1)
    renamed, _ = contents_of({"another": torch.full((WORDS,), 1.0)})
    assert cache.key("ue1", renamed) == key
    shaped, _ = contents_of({"layer1": torch.full((WORDS // 2, 2), 1.0)})
    assert cache.key("ue1", shaped) != key
    assert cache.bytes == SIZE_BYTES
    held = cache.held(key)
    assert held is not None
    assert torch.equal(held[0], torch.full((WORDS,), 1.0))


def test_where_every_query_is_cold_nothing_is_shared_and_all_of_a_ue_is_forgotten() -> None:
    cache = LayerCache(10 * SIZE_BYTES, shared=False)
    keys = [send(cache, ue, 1) for ue in ("ue0", "ue1")]
    assert keys[0] != keys[1]
    assert cache.bytes == 2 * SIZE_BYTES
    cache.forget("ue0")
    assert [key in cache for key in keys] == [False, True]
    assert cache.bytes == SIZE_BYTES


def test_the_least_recently_used_goes_first_and_what_is_needed_stays() -> None:
    cache = LayerCache(3 * SIZE_BYTES, shared=True)
    first, second, third = (send(cache, "ue0", seed) for seed in (1, 2, 3))
    cache.held(first)
    fourth = send(cache, "ue0", 4)
    assert [key in cache for key in (first, second, third, fourth)] == [True, False, True, True]
    cache.pin("ue0", [first, third])
    cache.pin("ue1", [fourth])
    with pytest.raises(OutOfMemoryError, match=f"{SIZE_BYTES} bytes of parameters do not fit"):
        send(cache, "ue0", 5)
    cache.unpin("ue1")
    fifth = send(cache, "ue0", 5)
    assert [key in cache for key in (first, third, fourth, fifth)] == [True, True, False, True]
    assert (cache.evictions, cache.evicted_bytes, cache.refusals) == (2, 2 * SIZE_BYTES, 1)


def test_the_first_of_two_that_send_the_same_ends_it_for_the_other() -> None:
    cache = LayerCache(10 * SIZE_BYTES, shared=True)
    contents, data = layer(1)
    key = cache.key("ue0", contents)
    slow, fast = (cache.open(ue, key, contents) for ue in ("ue0", "ue1"))
    slow.write(memoryview(data)[:40])
    fast.write(memoryview(data))
    assert cache.bytes == 2 * SIZE_BYTES
    assert cache.take("ue1", key) == ("ue0",)
    assert cache.coming("ue0", key) is None
    assert cache.bytes == SIZE_BYTES


def test_half_of_something_waits_for_its_rest_unless_room_is_needed() -> None:
    cache = LayerCache(2 * SIZE_BYTES, shared=True)
    contents, data = layer(1)
    key = cache.key("ue0", contents)
    cache.open("ue0", key, contents).write(memoryview(data)[:100])
    send(cache, "ue1", 2)
    arriving = cache.coming("ue0", key)
    assert arriving is not None
    assert arriving.received == 100
    send(cache, "ue1", 3)
    assert cache.coming("ue0", key) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["send", "half", "pin", "unpin", "drop"]), st.integers(0, 1), st.integers(1, 6)))
)
def test_the_books_are_right_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    cache = LayerCache(3 * SIZE_BYTES, shared=True)
    pinned: dict[str, Key] = {}
    for what, number, seed in steps:
        ue = f"ue{number}"
        contents, data = layer(seed)
        key = cache.key(ue, contents)
        before = {other: wanted in cache for other, wanted in pinned.items()}
        try:
            if what == "send":
                send(cache, ue, seed)
            elif what == "half":
                cache.open(ue, key, contents).write(memoryview(data)[:8])
            elif what == "pin":
                cache.pin(ue, [key])
                pinned[ue] = key
            elif what == "unpin":
                cache.unpin(ue)
                pinned.pop(ue, None)
            else:
                cache.drop(ue, key)
        except OutOfMemoryError:
            continue
        assert cache.bytes <= cache.limit_bytes
        there = sum(cache.key("", layer(one)[0]) in cache for one in range(1, 7))
        coming = sum(
            cache.coming(one, cache.key(one, layer(which)[0])) is not None
            for one in ("ue0", "ue1")
            for which in range(1, 7)
        )
        assert cache.bytes == (there + coming) * SIZE_BYTES
        if what != "pin":
            assert all(pinned[other] in cache for other, held in before.items() if held and other in pinned)
