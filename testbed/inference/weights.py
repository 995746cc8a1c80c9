"""Versions of a model's weights: raw bytes with a checksum in between, pointers swapped under compiled modules.

All partitions of a graph share its parameters, so a version is put in force by pointing each of them at other memory:
microseconds, and no module is built anew. One thread computes with a model; that thread alone calls
:meth:`VersionedWeights.use`, between two stages, so that no stage ever runs on two versions.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from controller.seeds import Purpose, generator
from testbed.inference.codec import DTYPE_NAMES, DTYPES
from testbed.inference.graph import ModelGraph
from testbed.inference.tensors import Dimensions, MalformedFrame, elements

MAX_WEIGHTS_BYTES = 1 << 32
_DIGEST_BYTES = 16

Tensors = Mapping[str, Tensor]


class TensorEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor of :class:`Contents`."""

    name: str
    dtype: str
    shape: Dimensions


class Contents(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a block of weights holds: tensors one after the other without padding, and the checksum of all bytes."""

    tensors: tuple[TensorEntry, ...]
    total_bytes: Annotated[int, Meta(ge=0, le=MAX_WEIGHTS_BYTES)]
    digest: Annotated[bytes, Meta(min_length=_DIGEST_BYTES, max_length=_DIGEST_BYTES)]


def digest_of(block: bytes | bytearray | memoryview) -> bytes:
    return hashlib.blake2b(block, digest_size=_DIGEST_BYTES).digest()


def contents_of(tensors: Tensors) -> tuple[Contents, list[memoryview]]:
    """What a block of these tensors holds, and its bytes in order: views of their memory."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    parts: list[memoryview] = []
    entries: list[TensorEntry] = []
    for name, tensor in tensors.items():
        entries.append(TensorEntry(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)))
        if tensor.numel():
            parts.append(bytes_of(tensor.detach().contiguous()))
            digest.update(parts[-1])
    return Contents(tuple(entries), sum(len(part) for part in parts), digest.digest()), parts


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor of at least one element."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def pack(tensors: Tensors) -> tuple[Contents, bytes]:
    """One block of bytes, and what it holds."""
    contents, parts = contents_of(tensors)
    return contents, b"".join(parts)


def _bytes_of_entry(entry: TensorEntry) -> int:
    if entry.dtype not in DTYPES:
        raise MalformedFrame(f"weights of unknown dtype {entry.dtype!r}")
    return elements(entry.shape, MAX_WEIGHTS_BYTES) * DTYPES[entry.dtype].itemsize


class Arriving:
    """A block of weights that comes bit by bit, straight into the memory of its tensors.

    Raises MalformedFrame for contents of unknown type, or whose sizes do not add up; nothing has been reserved then.
    """

    def __init__(self, contents: Contents) -> None:
        if sum(_bytes_of_entry(entry) for entry in contents.tensors) != contents.total_bytes:
            raise MalformedFrame("the tensors of a block of weights do not make up its size")
        self.contents = contents
        self.received = 0
        self.tensors: list[Tensor] = []
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        for entry in contents.tensors:
            # memory as torch aligns it: kernels round otherwise where it is not, and answers would differ
            self.tensors.append(torch.empty(entry.shape, dtype=DTYPES[entry.dtype]))
        self._memory = [bytes_of(tensor) for tensor in self.tensors if tensor.numel()]

    def write(self, data: memoryview) -> None:
        """What follows what has come. Raises MalformedFrame for more than is missing."""
        if self.received + len(data) > self.contents.total_bytes:
            raise MalformedFrame("more weights than were announced")
        self._digest.update(data)
        start, done = 0, 0
        for memory in self._memory:
            offset = self.received + done - start
            if 0 <= offset < len(memory) and done < len(data):
                count = min(len(memory) - offset, len(data) - done)
                memory[offset : offset + count] = data[done : done + count]
                done += count
            start += len(memory)
        self.received += len(data)

    @property
    def complete(self) -> bool:
        return self.received == self.contents.total_bytes

    @property
    def sound(self) -> bool:
        """Whether what has come has the checksum that was announced."""
        return self._digest.digest() == self.contents.digest


def unpack(contents: Contents, block: bytearray) -> dict[str, Tensor]:
    """The tensors of a whole block. Raises MalformedFrame for a wrong size, type or checksum."""
    if len(block) != contents.total_bytes or digest_of(block) != contents.digest:
        raise MalformedFrame(f"{len(block)} bytes of weights do not have the checksum that was announced")
    tensors: dict[str, Tensor] = {}
    offset = 0
    for entry in contents.tensors:
        size = _bytes_of_entry(entry)
        if offset + size > len(block):
            raise MalformedFrame("weights end before their last tensor")
        # copied out: kernels round otherwise where memory is not aligned as torch aligns it, and answers would differ
        tensors[entry.name] = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        if size:
            flat = torch.frombuffer(block, dtype=torch.uint8, count=size, offset=offset)
            tensors[entry.name].view(-1).view(torch.uint8).copy_(flat)
        offset += size
    if offset != len(block):
        raise MalformedFrame(f"{len(block) - offset} bytes of weights belong to no tensor")
    return tensors


def retrained(tensors: Tensors, seed: int, version: int, perturbation: float) -> dict[str, Tensor]:
    """The next version: each output channel of each parameter scaled by ``1 + perturbation * N(0, 1)``.

    Integers stay. The same for the same (tensors, seed, version). It stands for a training that the edge
    did: the change is real, what it learnt is not.
    """
    rng = generator(seed, Purpose.MODEL, version)
    changed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            changed[name] = tensor
            continue
        channels = tensor.shape[0] if tensor.ndim else 1
        factors = torch.from_numpy(1.0 + perturbation * rng.standard_normal(channels)).to(tensor.dtype)
        changed[name] = tensor * factors.view(-1, *([1] * max(tensor.ndim - 1, 0)))
    return changed


class VersionedWeights:
    """The tensors of a graph by name, and the versions that are at hand. Version 0 is what the model was made with."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        self._live: dict[str, Tensor] = {}  # the objects that all modules of the graph share
        self._of_node: dict[str, tuple[str, ...]] = {}
        values = {node.name for node in graph.nodes}
        for node in graph.nodes[1:]:
            found: dict[str, Tensor] = {}
            own = [node.name]
            for name in own:  # grows while it is walked
                operation = graph.operations[name]
                found.update(_tensors(graph.root, operation.op, str(operation.target)))
                own += [read.name for read in operation.all_input_nodes if read.name not in values]
            self._live.update(found)
            self._of_node[node.name] = tuple(found)
        self._trainable = frozenset(name for name, tensor in self._live.items() if isinstance(tensor, nn.Parameter))
        self._kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in self._live.items()}
        self._versions: dict[int, dict[str, Tensor]] = {0: {name: t.data for name, t in self._live.items()}}
        self.active = 0

    def __contains__(self, version: int) -> bool:
        return version in self._versions

    @property
    def versions(self) -> Sequence[int]:
        return sorted(self._versions)

    def names(self, nodes: Collection[str]) -> tuple[str, ...]:
        """Tensors that these nodes read, each once, in the order of the graph."""
        found: dict[str, None] = {}
        for node in self._graph.nodes[1:]:
            if node.name in nodes:
                found.update(dict.fromkeys(self._of_node[node.name]))
        return tuple(found)

    def tensors(self, version: int, nodes: Collection[str]) -> dict[str, Tensor]:
        """What these nodes read of a version. Raises KeyError for one that is not at hand."""
        table = self._versions[version]
        return {name: table[name] for name in self.names(nodes)}

    def train(self, version: int, seed: int, perturbation: float) -> None:
        """Make a version from the one before it and keep both."""
        before = self._versions[version - 1]
        tuned = {name: tensor for name, tensor in before.items() if name in self._trainable}
        self._versions[version] = {**before, **retrained(tuned, seed, version, perturbation)}

    def add(self, version: int, tensors: Tensors) -> None:
        """A version, or the part of it that came. Raises MalformedFrame for a tensor that does not fit."""
        for name, tensor in tensors.items():
            if self._kinds.get(name) != (tensor.shape, tensor.dtype):
                raise MalformedFrame(f"weights {name!r} of {tuple(tensor.shape)} have no place in this model")
        self._versions[version] = {**self._versions.get(version, {}), **tensors}
        if version == self.active:
            self._point(tensors)

    def use(self, version: int) -> None:
        """Put a version in force, between two stages. Raises ValueError for one that is not at hand."""
        if version == self.active:
            return
        if version not in self._versions:
            raise ValueError(f"model version {version} is not here; there are {', '.join(map(str, self.versions))}")
        self._point(self._versions[version])
        self.active = version

    def _point(self, tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            self._live[name].data = tensor

    @functools.cached_property
    def layers(self) -> dict[str, tuple[str, ...]]:
        """By node, in the order of the graph: the tensors that it reads and no node before it. Only nodes with some."""
        seen: set[str] = set()
        found: dict[str, tuple[str, ...]] = {}
        for node, names in self._of_node.items():
            own = tuple(name for name in names if name not in seen)
            seen.update(own)
            if own:
                found[node] = own
        return found

    def layers_of(self, node: str) -> tuple[str, ...]:
        """The nodes of :attr:`layers` whose tensors a node reads: itself, and those that it shares a module with."""
        wanted = set(self._of_node[node])
        return tuple(owner for owner, names in self.layers.items() if not wanted.isdisjoint(names))

    def fits(self, node: str, contents: Contents) -> bool:
        """Whether contents are those of a node's layer in this model, values apart."""
        expected = [(name, self._kinds[name]) for name in self.layers.get(node, ())]
        return expected == [
            (entry.name, (torch.Size(entry.shape), DTYPES.get(entry.dtype))) for entry in contents.tensors
        ]

    def strip(self) -> None:
        """Forget all weights: computing with one that was not bound since fails."""
        self._versions = {}
        self._point({name: torch.empty(0, dtype=dtype) for name, (_, dtype) in self._kinds.items()})

    def bind(self, node: str, tensors: Sequence[Tensor]) -> None:
        """Compute with these as a node's layer from now on, whatever version is in force."""
        self._point(dict(zip(self.layers[node], tensors, strict=True)))

    def drop(self, version: int) -> None:
        """Forget a version; the first stays, and so does the one in force."""
        if version not in (0, self.active):
            self._versions.pop(version, None)


def _tensors(root: nn.Module, op: str, target: str) -> dict[str, Tensor]:
    if op == "get_attr":
        found = operator.attrgetter(target)(root)
        return {target: found} if isinstance(found, Tensor) else {}
    if op == "call_module":
        module: nn.Module = operator.attrgetter(target)(root)
        own = [*module.named_parameters(), *module.named_buffers()]
        return {f"{target}.{name}": tensor for name, tensor in own}
    return {}
