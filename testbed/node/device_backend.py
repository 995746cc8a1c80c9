"""An edge's backend on an accelerator: tails live there, tensors are copied to it and answers back, all counted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from controller.contract import ALL_ON_EDGE, PLAIN_CODECS, Cut, ModelProfile, cut_from_label
from controller.contract.codec import is_codec_of
from testbed.inference import tensors
from testbed.inference.codec import VALUE_DTYPES
from testbed.inference.graph import INPUT
from testbed.inference.partition import Segment, SplitModel, State
from testbed.inference.weight_files import RANDOM_WEIGHTS, Weights
from testbed.node.backend import CpuBackend, Tail
from testbed.node.devices import Mark, Stream

#: Largest difference between the device's answer and the CPU's, of the largest logit. Both compute in fp32, but add in
#: another order; seen 2e-6 between CPU libraries, and TF32 (which is off) would be 1e-3.
ANSWER_TOLERANCE = 1e-3


class UnfitDeviceError(RuntimeError):
    """The device answers something else than the CPU."""


@dataclass(slots=True)
class DeviceUsage:
    """What tails took of a device since the start. Seconds are the device's own, between marks of its stream."""

    tails: int = 0
    tail_seconds: float = 0.0  # decoding included, copies not
    upload_seconds: float = 0.0
    download_seconds: float = 0.0
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0

    def __add__(self, other: DeviceUsage) -> DeviceUsage:
        return DeviceUsage(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


class DeviceBackend(CpuBackend):
    """Heads as the CPU's; tails on the device of a stream, where their parameters are moved once.

    One thread calls :meth:`tail` and the steps of what it returns. Each step ends when the device has done it, so that
    a tail with an earlier target can go next.
    """

    def __init__(
        self,
        model: str,
        seed: int,
        profile: ModelProfile,
        stream: Stream,
        lab_folder: str = "",
        weights: Weights = RANDOM_WEIGHTS,
    ) -> None:
        super().__init__(model, seed, profile, lab_folder, weights)
        self._stream = stream
        self._moved = SplitModel(self.split.graph.on(str(stream.device)))
        self.usage = DeviceUsage()
        self._staging = stream.host_buffer(0)
        self._answers = stream.host_buffer(self.split.model.answer.numel() * self.split.model.answer.element_size())
        self._staged: Mark | None = None  # until then the device may still read the staging buffer

    def prepare_tails(self, cuts: Sequence[Cut]) -> None:
        """Build now, and run once with every codec: a GPU loads each kernel at its first use.

        Raises UnfitDeviceError when the answer is not the CPU's, RuntimeError for what the device refuses.
        """
        probe = self.split.model.probe
        answer = self._run(ALL_ON_EDGE, (probe,))
        if self.split.model.bundled:
            self._compare_before_the_answer(probe)
        else:
            _compare(torch.frombuffer(bytearray(answer), dtype=self.split.model.answer.dtype), self.split.model.answer)
        for cut in cuts:
            if cut:
                self._run(cut, self.split.partition(cut).head(probe))
        self.usage = DeviceUsage()

    def _run(self, cut: Cut, values: tuple[Tensor, ...]) -> memoryview:
        """The answer, without a loss from coding: the last of the codecs is fp32."""
        answer = memoryview(b"")
        more = [codec for codec in self.profile.codecs if is_codec_of(codec, raw_input=cut == ALL_ON_EDGE)]
        for codec in (*(codec for codec in more if codec not in PLAIN_CODECS), *reversed(PLAIN_CODECS)):
            header, buffers = self.pack(0, cut, values, codec)
            tail = self.tail(tensors.decode_header(header), buffers)
            while not tail.finished:
                tail.step()
            answer = tail.logits()
        return answer

    def _compare_before_the_answer(self, probe: Tensor) -> None:
        """What an answer of several tensors is made of, as far back as sizes vary: which boxes survive may hang on the
        last bit of a score."""
        nodes = {node.name: node for node in self.split.graph.nodes}
        wanted, compared = [self.split.graph.answer], dict[str, None]()
        for name in wanted:  # grows while it is walked
            node = nodes[name]
            if node.varies or name == self.split.graph.answer:
                wanted += [read for read in node.inputs if read not in wanted]
            elif torch.empty(0, dtype=VALUE_DTYPES[node.dtype]).is_floating_point() and node.inputs:
                compared[name] = None
        names = tuple(compared)
        with torch.inference_mode():
            expected = self.split.graph.compile("Compared", (INPUT,), names)(probe)
            found = self._moved.graph.compile("Compared", (INPUT,), names)(probe.to(self._stream.device))
        for ours, theirs in zip(found, expected, strict=True):
            _compare(ours.cpu(), theirs)

    def tail(self, header: tensors.FrameHeader, buffers: Sequence[memoryview]) -> Tail:
        """Copy to the device, decode there, and what remains to be done. Raises MalformedFrame."""
        stream = self._stream
        if self._staged is not None:
            stream.wait(self._staged)
        partition = self._moved.partition(cut_from_label(header.cut))
        spans = _Spans(stream)
        with stream.issue(), torch.inference_mode():
            arrival = _Arrival(self._room(header.decoded_bytes), spans)
            frame = tensors.unpack(header, buffers, arrival.move)
            self._staged = arrival.decoded()
            state = partition.start(frame.tensors)
        segments = partition.tail_segments(self._segment_seconds, self.profile.node_seconds)
        run = [functools.partial(self._segment, segment, state, spans) for segment in segments]
        logits: list[Tensor] = []
        fetch = functools.partial(self._fetch, state, spans, arrival.moved_bytes, logits)
        return Tail([*run, fetch], lambda: logits[0])

    def _room(self, size_bytes: int) -> Tensor:
        if self._staging.numel() < size_bytes:
            self._staging = self._stream.host_buffer(size_bytes)
        return self._staging

    def _segment(self, segment: Segment, state: State, spans: _Spans) -> None:
        with self._stream.issue():
            start = self._stream.mark()
            segment(state)
            end = self._stream.mark()
        self._stream.wait(end)
        spans.computing.append((start, end))

    def _fetch(self, state: State, spans: _Spans, uploaded_bytes: int, logits: list[Tensor]) -> None:
        """The last step: the answer comes back, and the books are closed."""
        stream = self._stream
        with stream.issue(), torch.inference_mode():
            value = state[self.split.graph.answer]
            answer = value.contiguous().view(-1).view(torch.uint8)
            if self._answers.numel() < answer.numel():  # its size may differ from task to task
                self._answers = stream.host_buffer(2 * answer.numel())
            room = self._answers[: answer.numel()]
            start = stream.mark()
            room.copy_(answer, non_blocking=True)
            end = stream.mark()
            stream.wait(end)
            logits.append(room.clone().view(value.dtype))  # the next tail writes over the room
        usage = self.usage
        usage.tails += 1
        usage.tail_seconds += spans.seconds(spans.computing)
        usage.upload_seconds += spans.seconds(spans.uploads)
        usage.download_seconds += stream.seconds(start, end)
        usage.uploaded_bytes += uploaded_bytes
        usage.downloaded_bytes += answer.numel()


def _compare(found: Tensor, expected: Tensor) -> None:
    """Raises UnfitDeviceError for a value that is not the CPU's."""
    found, expected = found.float().reshape(-1), expected.float().reshape(-1)
    if not expected.numel():
        return
    allowed = ANSWER_TOLERANCE * float(expected.abs().max())
    difference = float((found - expected).abs().max())
    if not difference <= allowed:  # also for nan
        raise UnfitDeviceError(f"its answer differs from the CPU's by {difference:.3g}, {allowed:.3g} is allowed")


class _Spans:
    """What one tail did, between marks: they are read when all has passed."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.uploads: list[tuple[Mark, Mark]] = []
        self.computing: list[tuple[Mark, Mark]] = []

    def seconds(self, spans: Sequence[tuple[Mark, Mark]]) -> float:
        return sum(self.stream.seconds(start, end) for start, end in spans)


class _Arrival:
    """The tensors of one task on their way to the device, still coded: 8 bits cost a quarter of 32."""

    def __init__(self, staging: Tensor, spans: _Spans) -> None:
        self._staging = staging
        self._spans = spans
        self.moved_bytes = 0
        self._decoding: Mark | None = None

    def move(self, coded: Tensor) -> Tensor:
        """The same tensor on the device; the copy is under way."""
        self.decoded()
        stream = self._spans.stream
        flat = coded.reshape(-1).view(torch.uint8)
        room = self._staging[self.moved_bytes : self.moved_bytes + flat.numel()]
        self.moved_bytes += flat.numel()
        room.copy_(flat)
        moved = torch.empty(flat.numel(), dtype=torch.uint8, device=stream.device)
        start = stream.mark()
        moved.copy_(room, non_blocking=True)
        end = self._decoding = stream.mark()
        self._spans.uploads.append((start, end))
        return moved.view(coded.dtype).view(coded.shape)

    def decoded(self) -> Mark:
        """The moment when what was moved last has been decoded, too."""
        now = self._spans.stream.mark()
        if self._decoding is not None:
            self._spans.computing.append((self._decoding, now))
            self._decoding = None
        return now
