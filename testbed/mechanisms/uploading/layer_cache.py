"""Parameters that an edge holds of its UEs' models: by content, under a limit, the least recently used go first."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from testbed.inference.weights import Arriving, Contents

#: What parameters are, whoever sent them: an owner ("" where UEs share), checksum, and the kinds of the tensors.
Key = tuple[str, bytes, tuple[tuple[str, tuple[int, ...]], ...]]


class OutOfMemoryError(Exception):
    """Parameters for which there is no room, whatever is evicted."""


@dataclass(eq=False)
class _Entry:
    size_bytes: int
    used: int  # counts up with every use of anything
    tensors: tuple[Tensor, ...] = ()  # of one that is held
    arriving: Arriving | None = None  # of one that comes


class LayerCache:
    """Used by one thread. What comes counts as what is held; content that two UEs send at a time counts twice."""

    def __init__(self, limit_bytes: int, *, shared: bool) -> None:
        """``shared``: equal content of several UEs is held once, and serves all of them."""
        self.limit_bytes = limit_bytes
        self._shared = shared
        self._held: dict[Key, _Entry] = {}
        self._coming: dict[tuple[str, Key], _Entry] = {}  # by UE too
        self._pins: dict[str, frozenset[Key]] = {}
        self._clock = itertools.count()
        self.bytes = 0
        self.evictions = 0
        self.evicted_bytes = 0
        self.refusals = 0

    def key(self, ue: str, contents: Contents) -> Key:
        kinds = tuple((entry.dtype, entry.shape) for entry in contents.tensors)
        return "" if self._shared else ue, contents.digest, kinds

    def pin(self, ue: str, keys: Collection[Key]) -> None:
        """What a UE's running task needs, instead of what its last one needed, is not evicted."""
        self._pins[ue] = frozenset(keys)

    def unpin(self, ue: str) -> None:
        self._pins.pop(ue, None)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def held(self, key: Key) -> tuple[Tensor, ...] | None:
        """The tensors, if they are here; this is a use of them."""
        entry = self._held.get(key)
        if entry is None:
            return None
        entry.used = next(self._clock)
        return entry.tensors

    def coming(self, ue: str, key: Key) -> Arriving | None:
        """What a UE has begun to send."""
        entry = self._coming.get((ue, key))
        return None if entry is None else entry.arriving

    def open(self, ue: str, key: Key, contents: Contents) -> Arriving:
        """Make room and begin to receive, from the first byte on.

        Raises OutOfMemoryError where running tasks need what would have to go, MalformedFrame as Arriving does.
        """
        self.drop(ue, key)
        self._make_room(contents.total_bytes)
        arriving = Arriving(contents)
        self._coming[ue, key] = _Entry(contents.total_bytes, next(self._clock), arriving=arriving)
        self.bytes += contents.total_bytes
        return arriving

    def take(self, ue: str, key: Key) -> tuple[str, ...]:
        """What came is whole and sound: hold it. Returns the UEs that were sending the same and need not go on."""
        entry = self._coming.pop((ue, key))
        assert entry.arriving is not None
        if key in self._held:  # of another UE, meanwhile
            self.bytes -= entry.size_bytes
        else:
            self._held[key] = _Entry(entry.size_bytes, next(self._clock), tuple(entry.arriving.tensors))
        others = tuple(other for other, found in self._coming if found == key)
        for other in others:
            self.drop(other, key)
        return others

    def drop(self, ue: str, key: Key) -> None:
        """Throw away what has come of something."""
        entry = self._coming.pop((ue, key), None)
        if entry is not None:
            self.bytes -= entry.size_bytes

    def forget(self, ue: str) -> None:
        """Everything that is a UE's alone, and what it was sending."""
        for other, key in list(self._coming):
            if other == ue:
                self.drop(ue, key)
        for key in [key for key in self._held if key[0] == ue]:
            self.bytes -= self._held.pop(key).size_bytes

    def _make_room(self, size_bytes: int) -> None:
        pinned = frozenset().union(*self._pins.values())
        free = self.limit_bytes - self.bytes
        going: list[tuple[int, Key, tuple[str, Key] | None]] = [
            (entry.used, key, None) for key, entry in self._held.items() if key not in pinned
        ]
        going += [
            (entry.used, key, (ue, key))
            for (ue, key), entry in self._coming.items()
            if key not in self._pins.get(ue, frozenset())
        ]
        chosen = []
        for _, key, coming in sorted(going, key=lambda one: one[0]):
            if free >= size_bytes:
                break
            entry = self._held[key] if coming is None else self._coming[coming]
            free += entry.size_bytes
            chosen.append((key, coming, entry.size_bytes))
        if free < size_bytes:
            self.refusals += 1
            raise OutOfMemoryError(
                f"{size_bytes} bytes of parameters do not fit: of {self.limit_bytes} bytes, "
                f"{self.limit_bytes - free} are needed by running tasks"
            )
        for key, coming, entry_bytes in chosen:
            if coming is None:
                del self._held[key]
            else:
                del self._coming[coming]
            self.bytes -= entry_bytes
            self.evictions += 1
            self.evicted_bytes += entry_bytes
