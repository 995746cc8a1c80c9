"""The observation: what a policy sees as a slot begins."""

from __future__ import annotations

from controller.contract.base import Struct, UeName


class UeObservation(Struct, frozen=True):
    name: UeName  # of the UE
    #: Channel state at slot start: power gain, or bit/s at the whole spectrum for channel_kind "rate". One entry, which
    #: the scenario's ratios spread over the subchannels, or one per subchannel. Never this slot's future.
    gain_up: tuple[float, ...]
    gain_down: tuple[float, ...]  # the same for the downlink
    mean_gain_up: tuple[float, ...]  # mean over the last slot
    mean_gain_down: tuple[float, ...]  # mean over the last slot
    nominal_arrival_rate_per_second: float  # what is known of the rate: see Knowledge
    measured_arrival_rate_per_second: float  # in the last slot
    device_queue_tasks: int = 0  # arrived, head not started
    tx_queue_tasks: int = 0  # head ended, not received by the edge
    edge_queue_tasks: int = 0  # received, tail not started
    in_flight_tasks: int = 0  # arrived, not completed
    tx_backlog_bytes: int = 0  # not yet received by the edge
    edge_backlog_seconds: float = 0.0  # at the present share
    decision_sequence: int = -1  # of the decision in force
    report_age_seconds: float = 0.0  # 0: fresh; grows when a report is late or lost
    last_energy_joules: float = 0.0  # of the last slot, computing and sending
    placed_nodes: int = 0  # that the edge holds of a model that moves (retraining)
    model_version: int = 0  # on the device
    cached_nodes: tuple[str, ...] = ()  # whose parameters the edge holds, of this UE's version and content
    upload_progress_ratio: float = 0.0  # bytes of the present task's uploads that the edge has, of all of them


class Observation(Struct, frozen=True):
    slot: int  # that begins
    monotonic_seconds: float  # when it begins
    ues: tuple[UeObservation, ...]  # in the scenario's order
