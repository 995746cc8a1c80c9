"""What computes in a node. One class per kind of device; this one is a CPU core."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from controller.contract import ALL_ON_EDGE, PLAIN_CODECS, Codec, Cut, GraphNode, ModelProfile
from controller.contract.codec import has_fixed_size, is_codec_of, is_own
from testbed.inference import bundles, tensors
from testbed.inference.codec import DTYPE_NAMES, raw
from testbed.inference.coders import load_own
from testbed.inference.graph import INPUT
from testbed.inference.partition import SplitModel
from testbed.inference.pytrees import Slot, leaves
from testbed.inference.signature import Signature
from testbed.inference.weight_files import RANDOM_WEIGHTS, Weights
from testbed.inputs.source import IMAGES
from testbed.node.preload import split_model

#: On the host. A tail gives way to one with an earlier target at the end of each segment.
SEGMENT_SECONDS = 2e-3
#: Of a value whose size differs from task to task, over what the profile says of it.
MOST_VARIATION = 4


def task_input(signature: Signature, seed: int, ue_index: int, task: int) -> Tensor:
    """The input of a task, as one value: the same in every run with the same seed."""
    return signature.random(seed, ue_index, task % IMAGES)


class Tail:
    """A tail under way, segment by segment."""

    def __init__(self, steps: Sequence[Callable[[], None]], answer: Callable[[], Tensor]) -> None:
        self._steps = steps
        self._answer = answer
        self._next = 0

    @property
    def finished(self) -> bool:
        return self._next == len(self._steps)

    def step(self) -> None:
        self._steps[self._next]()
        self._next += 1

    def logits(self) -> memoryview:
        """Bytes of the answer, in the model's own type."""
        return raw(self._answer())


class CpuBackend:
    """One model on one core of the host. Heads and tails are built when first asked for, or by :meth:`prepare`."""

    def __init__(
        self,
        model: str,
        seed: int,
        profile: ModelProfile,
        lab_folder: str = "",
        weights: Weights = RANDOM_WEIGHTS,
    ) -> None:
        self.split: SplitModel = split_model(model, seed, lab_folder, weights)
        self.profile = profile
        for codec in profile.codecs:
            if is_own(codec):
                load_own(codec, seed, (Path(lab_folder),) if lab_folder else ())
        self._nodes: dict[str, GraphNode] | None = None
        self._segment_seconds = SEGMENT_SECONDS / profile.reference_core.fraction
        if tuple(node.name for node in self.split.graph.nodes) != tuple(node.name for node in profile.nodes):
            raise ValueError(f"the profile of {profile.model} is not of the graph of {model}: measure it again")

    def check(self, cut: Cut) -> None:
        """Raises ValueError for a cut that is not canonical."""
        self.split.partition(cut)

    def check_codec(self, cut: Cut, header: tensors.FrameHeader) -> None:
        """Raises ValueError for a codec that this lab does not have there, and for a size that is not the codec's."""
        codec = header.codec
        fits = codec in PLAIN_CODECS or is_codec_of(codec, raw_input=cut == ALL_ON_EDGE)
        if codec not in self.profile.codecs or not fits:
            raise ValueError(f"codec {codec!r} is not for cut {header.cut}")
        if header.raw_bytes > MOST_VARIATION * self.profile.boundary_bytes(cut, "fp32"):
            raise ValueError(f"cut {header.cut} with {header.raw_bytes} bytes before encoding")
        if has_fixed_size(codec):  # others are bounded by their headers
            expected = self.profile.boundary_bytes(cut, codec)
            if header.payload_bytes != expected:
                raise ValueError(f"cut {header.cut} has {expected} bytes, not {header.payload_bytes}")

    def check_tensors(self, cut: Cut, headers: Sequence[tensors.TensorHeader]) -> None:
        """Raises ValueError where what comes is not of the values of ``cut``: another shape, another type."""
        if self._nodes is None:
            self._nodes = {node.name: node for node in self.split.graph.nodes}
        for name, header in zip(cut, headers, strict=True):
            node = self._nodes[name]
            shape = header.plain_shape
            dtype = DTYPE_NAMES[self.split.model.probe.dtype] if name == INPUT else node.dtype
            fits = len(shape) == len(node.output_shape) if node.varies else shape == node.output_shape
            if not fits or header.dtype != dtype:
                raise ValueError(f"{name} is {dtype} of shape {node.output_shape}, not {header.dtype[:16]} of {shape}")

    def prepare_heads(self, cuts: Sequence[Cut]) -> None:
        """Build now, and run once: a first use costs 3-30 ms more than the next."""
        image = self.split.model.probe
        for cut in cuts:
            if cut != ("input",):
                _ = self.split.partition(cut).head_module
        self.head(0, (), "fp32", image)

    def prepare_tails(self, cuts: Sequence[Cut]) -> None:
        for cut in cuts:
            if cut:
                self.split.partition(cut).tail_segments(self._segment_seconds, self.profile.node_seconds)
        header, buffers = self.head(0, ("input",), "fp32", self.split.model.probe)
        tail = self.tail(tensors.decode_header(header), buffers)
        while not tail.finished:
            tail.step()

    def head(self, task: int, cut: Cut, codec: Codec, image: Tensor) -> tuple[bytes, list[memoryview]]:
        """Header and buffers that cross the wire; for ``()`` the logits' bytes are the one buffer."""
        return self.pack(task, cut, (image,) if cut == ("input",) else self.split.partition(cut).head(image), codec)

    def pack(self, task: int, cut: Cut, values: Sequence[Tensor], codec: Codec) -> tuple[bytes, list[memoryview]]:
        """The tensors of a cut, encoded."""
        with torch.inference_mode():
            return tensors.pack(task, cut, values, codec if cut else "fp32", self.split.weights.active)

    def answer_of(self, answer: memoryview) -> tuple[int, int]:
        """(class, checksum) of an answer's bytes; the class of what is no classifier's is -1.

        Raises ValueError for bytes that are no answer of this model.
        """
        model = self.split.model
        if model.bundled:
            parts = bundles.parts_of(torch.frombuffer(answer, dtype=torch.uint8) if answer else torch.empty(0))
            if len(parts) != len(leaves(model.answers, Slot)):
                raise ValueError(f"the answer has {len(parts)} parts")
        elif len(answer) != model.answer.numel() * model.answer.element_size():
            raise ValueError(f"the answer has {len(answer)} bytes")
        return tensors.largest(answer, model.answer.dtype) if model.classes else -1, zlib.crc32(answer)

    def tail(self, header: tensors.FrameHeader, buffers: Sequence[memoryview]) -> Tail:
        """Decode, and what remains to be done. Raises MalformedFrame."""
        with torch.inference_mode():
            frame = tensors.unpack(header, buffers)
        partition = self.split.partition(frame.cut)
        state = partition.start(frame.tensors)
        segments = partition.tail_segments(self._segment_seconds, self.profile.node_seconds)
        answer = self.split.graph.answer
        return Tail([functools.partial(segment, state) for segment in segments], lambda: state[answer])
