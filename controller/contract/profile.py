"""The profile of a model: its graph, and how long its parts take on the reference core."""

from __future__ import annotations

import msgspec

from controller.contract.base import Codec, Struct
from controller.contract.codec import code_bytes, is_lossless
from controller.contract.cut import ALL_ON_DEVICE, ALL_ON_EDGE, Cut


class GraphNode(Struct, frozen=True, omit_defaults=True):
    """One value of the traced graph and the operation that makes it."""

    name: str
    inputs: tuple[str, ...]  # names of the graph values that it reads; () only for "input"
    output_shape: tuple[int, ...]
    output_bytes: int  # as it is in memory
    macs: int
    parameter_bytes: int
    dtype: str = "f32"  # of the value: a name of testbed.inference.codec; not said of an "input" that is a uint8 image
    opaque: str = ""  # path of the module, or method, that is taken whole here: its code could not be followed
    varies: bool = False  # its size may differ from task to task; what is said here is the probe's

    def encoded_bytes(self, codec: Codec) -> int:
        """Bytes of the value on the wire, without headers and before any lossless stage. The raw input, and what a
        user's codec makes, count as they are: :meth:`ModelProfile.boundary_bytes` knows what was measured."""
        if self.name == "input":
            return self.output_bytes
        return code_bytes(self.dtype, codec, self.output_shape, self.output_bytes)


class CodecTimes(Struct, frozen=True):
    """Encode and decode times on the reference core, aligned with ``ModelProfile.chain_cuts``."""

    encode_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]


class CodecSizes(Struct, frozen=True):
    """Bytes of what a codec makes of the tensor of each chain cut, over the inputs that were tried: mean and quantiles.

    Of codecs whose size depends on the content. Aligned with ``ModelProfile.chain_cuts``; 0 at the local cut.
    """

    mean_bytes: tuple[float, ...]
    p10_bytes: tuple[float, ...]
    p50_bytes: tuple[float, ...]
    p90_bytes: tuple[float, ...]


class ReferenceCore(Struct, frozen=True):
    """What "speed 1.0" means: a stated fraction of the core that was measured (docs/architecture.md, "A slow UE")."""

    fraction: float  # of the measured host's core; times in the profile are host times / fraction
    host_cpu: str
    torch_version: str
    threads: int = 1
    kernel_seconds: float | None = None  # of the calibration kernel on the measured host's core; None: not measured
    kernel_version: int = 0  # of that kernel; times of two versions cannot be compared


class MeasuredCut(Struct, frozen=True):
    """A cut of several tensors that was timed by itself, and what the sum over its nodes had said. Without codecs."""

    cut: Cut
    head_seconds: float  # on the reference core
    tail_seconds: float
    estimated_head_seconds: float
    estimated_tail_seconds: float


class ModelProfile(Struct, frozen=True):
    """Measured times of a model: the contract between measurement and every policy (JSON file)."""

    version: int
    model: str
    nodes: tuple[GraphNode, ...]  # topological order; nodes[0].name == "input", nodes[-1] makes the answer
    chain_cuts: tuple[Cut, ...]  # single-tensor cuts from ("input",) to (), in order of growing device set
    head_seconds: tuple[float, ...]  # device time of the head of each chain cut, on the reference core
    tail_seconds: tuple[float, ...]  # edge time of the tail of each chain cut, on the reference core
    node_seconds: tuple[float, ...]  # aligned with nodes; prefix sums scaled to equal the head times
    codecs: dict[Codec, CodecTimes]
    result_bytes: int
    reference_core: ReferenceCore
    holdout_error_ratio: float  # MAPE of the prediction on cuts and repetitions that were held out
    p99_over_median_ratio: float = 1.0  # open-loop spread of the whole model's time on the measured host
    #: the device's own, where the device is not the reference core; (): it is, and ``node_seconds`` holds for both
    device_node_seconds: tuple[float, ...] = ()
    measured_cuts: tuple[MeasuredCut, ...] = ()  # of several tensors, where somebody asked for them
    #: of codecs whose size depends on the content, where they were measured
    sizes: dict[Codec, CodecSizes] = msgspec.field(default_factory=dict)
    #: by codec and chain cut: share of the inputs tried on which the split model answers as the unsplit fp32 model
    agreement: dict[Codec, tuple[float, ...]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        cuts = len(self.chain_cuts)
        if len(self.head_seconds) != cuts or len(self.tail_seconds) != cuts:
            raise ValueError("head_seconds and tail_seconds need one entry per chain cut")
        if len(self.node_seconds) != len(self.nodes):
            raise ValueError("node_seconds needs one entry per node")
        if len(self.device_node_seconds) not in (0, len(self.nodes)):
            raise ValueError("device_node_seconds needs one entry per node, or none")
        if self.chain_cuts[0] != ALL_ON_EDGE or self.chain_cuts[-1] != ALL_ON_DEVICE:
            raise ValueError('chain_cuts must start with ("input",) and end with ()')
        columns = [*self.agreement.values(), *(sizes.mean_bytes for sizes in self.sizes.values())]
        if any(len(column) != cuts for column in columns):
            raise ValueError("sizes and agreement need one entry per chain cut")

    @property
    def known_cuts(self) -> tuple[Cut, ...]:
        """Those that were measured: of a single tensor, and of several where somebody asked."""
        return (*self.chain_cuts, *(found.cut for found in self.measured_cuts))

    def chain_index(self, cut: Cut) -> int:
        """Index of a single-tensor cut in ``chain_cuts``. Raises ValueError for any other cut."""
        return self.chain_cuts.index(cut)

    def boundary_bytes(self, cut: Cut, codec: Codec) -> int:
        """Bytes of the tensors of ``cut`` once encoded, without headers: the mean where the content makes a difference.

        A tensor that was not measured by itself shrinks as the measured ones do in the mean.
        """
        sizes = self.sizes.get(codec)
        if sizes is not None and cut in self.chain_cuts:
            return round(sizes.mean_bytes[self.chain_index(cut)])
        nodes = {node.name: node for node in self.nodes}
        code = sum(nodes[name].encoded_bytes(codec) for name in cut)
        return code if sizes is None else round(code * self._shrinkage(sizes, codec))

    def agreement_of(self, cut: Cut, codec: Codec) -> float | None:
        """Share of inputs on which the model split there by that codec answers as the unsplit one; None: not known.

        1 on the device, and where nothing is lost. A cut of several tensors is not known.
        """
        if cut == ALL_ON_DEVICE or is_lossless(codec, raw_input=cut == ALL_ON_EDGE):
            return 1.0
        measured = self.agreement.get(codec)
        return None if measured is None or cut not in self.chain_cuts else measured[self.chain_index(cut)]

    def value_bytes(self, codec: Codec) -> tuple[int, ...]:
        """:meth:`boundary_bytes` of each node's value by itself, aligned with ``nodes``."""
        sizes = self.sizes.get(codec)
        if sizes is None:
            return tuple(node.encoded_bytes(codec) for node in self.nodes)
        shrinkage = self._shrinkage(sizes, codec)
        measured = dict(zip(self.chain_cuts, sizes.mean_bytes, strict=True))
        return tuple(round(measured.get((node.name,), node.encoded_bytes(codec) * shrinkage)) for node in self.nodes)

    def _shrinkage(self, sizes: CodecSizes, codec: Codec) -> float:
        """What is left of a value, in the mean over the chain cuts between nodes."""
        between = {cut[0]: mean for cut, mean in zip(self.chain_cuts[1:-1], sizes.mean_bytes[1:-1], strict=True)}
        code = sum(node.encoded_bytes(codec) for node in self.nodes if node.name in between)
        return sum(between.values()) / code if code else 1.0
