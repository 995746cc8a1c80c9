"""The profile of a model: its graph, and how long its parts take on the reference core."""

from __future__ import annotations

from controller.contract.base import Codec, Struct
from controller.contract.cut import ALL_ON_DEVICE, ALL_ON_EDGE, Cut

#: Bytes of an element of the types that a lossy codec makes smaller; all others cross as they are.
LOSSY_TYPES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2}


_CODE_BYTES: dict[str, int] = {"fp16": 2, "uint8": 1}


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
        """Bytes of the value on the wire, without headers. The raw input always crosses as it is."""
        element, code = LOSSY_TYPES.get(self.dtype, 0), _CODE_BYTES.get(codec, 8)
        if self.name == "input" or code >= element:
            return self.output_bytes
        return self.output_bytes // element * code


class CodecTimes(Struct, frozen=True):
    """Encode and decode times on the reference core, aligned with ``ModelProfile.chain_cuts``."""

    encode_seconds: tuple[float, ...]
    decode_seconds: tuple[float, ...]


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

    @property
    def known_cuts(self) -> tuple[Cut, ...]:
        """Those that were measured: of a single tensor, and of several where somebody asked."""
        return (*self.chain_cuts, *(found.cut for found in self.measured_cuts))

    def chain_index(self, cut: Cut) -> int:
        """Index of a single-tensor cut in ``chain_cuts``. Raises ValueError for any other cut."""
        return self.chain_cuts.index(cut)

    def boundary_bytes(self, cut: Cut, codec: Codec) -> int:
        """Bytes of the tensors of ``cut`` once encoded, without headers. The raw input is always uint8."""
        nodes = {node.name: node for node in self.nodes}
        return sum(nodes[name].encoded_bytes(codec) for name in cut)
