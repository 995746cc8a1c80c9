"""The decision: what each UE does in a slot, and what it is given."""

from __future__ import annotations

from controller.contract.base import Codec, Struct, UeName
from controller.contract.cut import Cut


class UploadPlan(Struct, frozen=True):
    """Which nodes run at an edge that starts without the model, and how their parameters get there."""

    edge_nodes: tuple[str, ...]  # in the graph's order; the device runs all others
    #: nodes whose parameters go up first, in order; those of other nodes at the edge follow in the graph's order
    uploads: tuple[str, ...] = ()
    serial: bool = False  # a node's parameters are sent when its inputs are at the edge, nothing in advance


class UeDecision(Struct, frozen=True):
    name: UeName  # of the UE
    cut: Cut  # tensors that cross the wire; () is all on the device
    device_speed: float  # reference cores
    spectrum_up_hz: float  # of its own, in ``subchannels_up`` if it names some; 0 with subchannels: superposed on them
    spectrum_down_hz: float  # the same for the downlink
    edge_share: float  # reference cores
    transmit_watts: float | None = None  # None: the UE's nominal power
    downlink_watts: float | None = None  # of the base station for this UE; None: its part of the station's power
    codec: Codec | None = None  # None: the lab's boundary codec
    subchannels_up: tuple[int, ...] = ()  # that it sends on; () is all, with a band of its own
    subchannels_down: tuple[int, ...] = ()  # that it receives on
    uploading: UploadPlan | None = None  # where the edge starts without models; None: the cut says who runs what
    #: online splitting: (cut label, gain threshold) in chain order, all before ``cut``; a task stops at the first whose
    #: threshold the channel state then meets, and at ``cut`` anyway
    stop_rule: tuple[tuple[str, float], ...] = ()
    valuation: float | None = None  # in a best response: what its latency costs the UE, in the unit of the prices


class Decision(Struct, frozen=True):
    """What is in force from ``valid_from_seconds`` on.

    A task takes its cut and speed at head start and its edge share at tail start; the link's rate changes at once.
    """

    sequence: int  # set when it takes force: one more than its predecessor's
    slot: int  # in which it was made
    valid_from_seconds: float  # set when it takes force
    ues: tuple[UeDecision, ...]  # one per UE of the scenario
