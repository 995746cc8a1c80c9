"""What tasks, decisions, energy and models that move show."""

from __future__ import annotations

import math

from controller.contract import STAGES, Scenario
from testbed.programs.exporter.metric import Memory, Metric, Samples, many, one
from testbed.protocol.records import EdgeHealth, ModelUpdate, SlotRecord, TaskArrived, TaskRecord, UploadRecord

#: 1 ms to 30 s, three per decade and a little denser around where delays of shipped labs are.
DELAY_BUCKETS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0),
    *(1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0),
)
SHORT_BUCKETS = (*(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),)


def stage_seconds(task: TaskRecord) -> dict[str, float]:
    """Durations of a completed task's stages, keys STAGES; they sum to its end-to-end delay."""
    stamps = (
        *(task.arrival_seconds, task.head_start_seconds, task.head_end_seconds, task.transfer_start_seconds),
        *(task.received_seconds, task.tail_start_seconds, task.tail_end_seconds, task.result_received_seconds),
    )
    return {stage: max(0.0, end - start) for stage, start, end in zip(STAGES, stamps[:-1], stamps[1:], strict=True)}


def head_ratio(task: TaskRecord) -> float | None:
    """Time of a completed task's head over its target; None without one."""
    if not is_completed(task) or task.head_target_seconds <= 0:
        return None
    return (task.head_end_seconds - task.head_start_seconds) / task.head_target_seconds


def is_completed(task: TaskRecord) -> bool:
    return task.status == "completed"


def _speed_achieved(task: TaskRecord) -> float | None:
    ratio = head_ratio(task)
    if ratio is None:
        return None
    return task.speed / ratio if ratio > 0 else math.nan


def _stages(task: TaskRecord, _: Memory) -> Samples:
    return (((stage,), seconds) for stage, seconds in stage_seconds(task).items()) if is_completed(task) else ()


def _by_cut(task: TaskRecord, memory: Memory) -> Samples:
    return [((task.ue, memory.cut_label(task.ue, task.cut)), 1)] if is_completed(task) else []


def _queues(slot: SlotRecord, _: Memory) -> Samples:
    yield (slot.ue, "device"), slot.device_queue_tasks
    yield (slot.ue, "tx"), slot.tx_queue_tasks
    yield (slot.ue, "edge"), slot.edge_queue_tasks
    yield (slot.ue, "in_flight"), slot.in_flight_tasks


def _cut_in_use(slot: SlotRecord, memory: Memory) -> Samples:
    last, cut = memory.cut_in_use.get(slot.ue), memory.cut_label(slot.ue, slot.cut)
    if last is not None and last != cut:
        yield (slot.ue, last), 0
    memory.cut_in_use[slot.ue] = cut
    yield (slot.ue, cut), 1


def _spectrum(slot: SlotRecord, _: Memory) -> Samples:
    yield (slot.ue, "up"), slot.spectrum_up_hz
    yield (slot.ue, "down"), slot.spectrum_down_hz


def _energy(slot: SlotRecord, _: Memory) -> Samples:
    yield (slot.ue, "compute"), max(0.0, slot.compute_joules)
    yield (slot.ue, "transmit"), max(0.0, slot.transmit_joules)


def _virtual_queue(slot: SlotRecord, memory: Memory) -> Samples:
    return (((ue,), value) for name, ue, value in _state(slot, memory) if name == "virtual_queue_joules")


def _drift(slot: SlotRecord, memory: Memory) -> Samples:
    return (((), value) for name, _, value in _state(slot, memory) if name == "drift_plus_penalty")


def _other_state(slot: SlotRecord, memory: Memory) -> Samples:
    own = ("virtual_queue_joules", "drift_plus_penalty")  # those have a metric of their own
    return (((name, ue), value) for name, ue, value in _state(slot, memory) if name not in own)


def _state(slot: SlotRecord, memory: Memory) -> list[tuple[str, str, float]]:
    """(name, UE or nothing, value)."""
    if not memory.begins_slot(slot):
        return []
    parts = ((*key.partition("."), value) for key, value in slot.policy_state.items())
    return [(name, ue, value) for name, _, ue, value in parts]


def _once_a_slot(slot: SlotRecord, memory: Memory) -> Samples:
    return [((), 1)] if memory.begins_slot(slot) else []


def _overruns(slot: SlotRecord, memory: Memory) -> Samples:
    return [((), int(slot.decide_late))] if memory.begins_slot(slot) else []


def _decision_seconds(slot: SlotRecord, memory: Memory) -> Samples:
    return [((), slot.decide_seconds)] if memory.begins_slot(slot) else []


def _budgets(scenario: Scenario, _: Memory) -> Samples:
    return (((str(ue.name),), ue.energy_budget_joules) for ue in scenario.ues if math.isfinite(ue.energy_budget_joules))


UE = ("ue",)
TASK_METRICS = (
    Metric("tasks_arrived", "counter", "Tasks that arrived.", UE, (one(TaskArrived, lambda _: 1),), {}),
    Metric(
        "tasks_completed",
        "counter",
        "Tasks whose answer came back.",
        UE,
        (one(TaskRecord, lambda task: 1 if is_completed(task) else None),),
        {},
    ),
    Metric(
        "tasks_failed",
        "counter",
        "Tasks that failed.",
        UE,
        (one(TaskRecord, lambda task: 1 if task.status == "failed" else None),),
        {},
    ),
    Metric(
        "tasks_dropped",
        "counter",
        "Tasks that found their device busy, which never took them.",
        UE,
        (one(TaskRecord, lambda task: 1 if task.status == "dropped" else None),),
        {},
    ),
    Metric(
        "e2e_delay_seconds",
        "histogram",
        "Arrival to answer, completed tasks.",
        UE,
        (
            one(
                TaskRecord,
                lambda task: task.result_received_seconds - task.arrival_seconds if is_completed(task) else None,
            ),
        ),
        {},
        buckets=DELAY_BUCKETS,
    ),
    Metric(
        "stage_duration_seconds",
        "histogram",
        "Time in one stage of the way.",
        ("stage",),
        (many(TaskRecord, _stages),),
        {"stage": tuple(STAGES)},
        buckets=DELAY_BUCKETS,
    ),
    Metric(
        "tasks_by_cut",
        "counter",
        "Completed tasks by the cut that they took.",
        ("ue", "cut"),
        (many(TaskRecord, _by_cut),),
    ),
    Metric(
        "boundary_bytes",
        "counter",
        "Encoded tensors that crossed the wire.",
        UE,
        (one(TaskRecord, lambda task: task.boundary_bytes if is_completed(task) else None),),
        {},
    ),
    Metric(
        "wire_bytes",
        "counter",
        "Layer-2 bytes that tasks sent up.",
        UE,
        (one(TaskRecord, lambda task: task.wire_bytes if is_completed(task) else None),),
        {},
    ),
    Metric("queue_tasks", "gauge", "Tasks in a queue at slot start.", ("ue", "queue"), (many(SlotRecord, _queues),)),
    Metric(
        "tx_backlog_bytes",
        "gauge",
        "Bytes handed to the radio and not yet received.",
        UE,
        (one(SlotRecord, lambda slot: slot.tx_backlog_bytes),),
    ),
)
DECISION_METRICS = (
    Metric(
        "cut_in_use",
        "gauge",
        "1 for the cut that is decided, 0 for those that were.",
        ("ue", "cut"),
        (many(SlotRecord, _cut_in_use),),
    ),
    Metric(
        "speed_requested_cores",
        "gauge",
        "Decided device speed, reference cores.",
        UE,
        (one(SlotRecord, lambda slot: slot.speed),),
    ),
    Metric(
        "speed_achieved_cores",
        "gauge",
        "Speed that the last head ran at, reference cores.",
        UE,
        (one(TaskRecord, _speed_achieved),),
    ),
    Metric(
        "edge_share_cores",
        "gauge",
        "Decided edge share, reference cores.",
        UE,
        (one(SlotRecord, lambda slot: slot.edge_share),),
    ),
    Metric("spectrum_hertz", "gauge", "Decided spectrum.", ("ue", "direction"), (many(SlotRecord, _spectrum),)),
    Metric("slots", "counter", "Slots that ended.", of=(many(SlotRecord, _once_a_slot),)),
    Metric(
        "slot_overruns",
        "counter",
        "Slots whose decision missed its deadline.",
        of=(many(SlotRecord, _overruns),),
    ),
    Metric(
        "decision_duration_seconds",
        "histogram",
        "Time that the policy took.",
        of=(many(SlotRecord, _decision_seconds),),
        buckets=SHORT_BUCKETS,
    ),
    Metric(
        "report_age_seconds",
        "gauge",
        "Age of a UE's last report at slot start.",
        UE,
        (one(SlotRecord, lambda slot: slot.report_age_seconds),),
    ),
    Metric(
        "virtual_queue_joules",
        "gauge",
        "Virtual energy queue of a Lyapunov policy.",
        UE,
        (many(SlotRecord, _virtual_queue),),
    ),
    Metric(
        "drift_plus_penalty",
        "gauge",
        "Drift plus penalty of the last decision, as the policy states it.",
        of=(many(SlotRecord, _drift),),
    ),
    Metric(
        "policy_state",
        "gauge",
        "Other numbers of the policy's state.",
        ("name", "ue"),
        (many(SlotRecord, _other_state),),
        more="For `dds`: price, demand, sweeps, messages and more ([dds](dds.md)).",
    ),
    Metric(
        "energy_joules",
        "counter",
        "Energy charged.",
        ("ue", "kind"),
        (
            many(SlotRecord, _energy),
            many(ModelUpdate, lambda update, _: [((update.ue, "receive"), update.receive_joules)]),
        ),
        {"kind": ("compute", "transmit", "receive")},
        more="Kind `receive` is that of model downloads.",
    ),
    Metric(
        "energy_budget_joules_per_slot",
        "gauge",
        "Long-term budget; absent without one.",
        UE,
        (many(Scenario, _budgets),),
    ),
)
MODEL_METRICS = (
    Metric(
        "model_version",
        "gauge",
        "Model version that the device computes with.",
        UE,
        (one(ModelUpdate, lambda update: update.version if update.status == "placed" else None),),
        {},
    ),
    Metric(
        "model_placed_nodes",
        "gauge",
        "Graph nodes downloaded of that version; 0: the first model.",
        UE,
        (one(ModelUpdate, lambda update: update.placed_nodes if update.status == "placed" else None),),
        {},
    ),
    Metric(
        "model_download_bytes",
        "counter",
        "Layer-2 bytes of placed layers that came down.",
        UE,
        (one(ModelUpdate, lambda update: update.wire_bytes),),
        {},
    ),
    Metric(
        "model_downloads",
        "counter",
        "Downloads of placed layers that ended.",
        ("ue", "status"),
        (one(ModelUpdate, lambda _: 1),),
        {"status": ("placed", "discarded")},
        more="Status: `placed`, `discarded`.",
    ),
    Metric(
        "upload_bytes",
        "counter",
        "Layer-2 bytes of transfers to an edge without models.",
        ("ue", "kind"),
        (one(UploadRecord, lambda upload: upload.wire_bytes),),
        {"kind": ("parameters", "feature")},
        more="Kind: `parameters`, `feature`.",
    ),
    Metric(
        "uploads",
        "counter",
        "Transfers of parameters and of values that ended.",
        ("ue", "status"),
        (one(UploadRecord, lambda _: 1),),
        {"status": ("received", "held", "shared", "corrupt", "lost", "refused", "given-up")},
        more="See [upload](upload.md).",
    ),
    Metric(
        "upload_preemptions",
        "counter",
        "Values that went before parameters being sent.",
        UE,
        (one(UploadRecord, lambda upload: upload.kind == "feature" and upload.model_bytes_ahead > 0),),
        {},
    ),
    Metric(
        "uploads_resumed",
        "counter",
        "Transfers taken up again after a broken connection.",
        UE,
        (one(UploadRecord, lambda upload: upload.resumed),),
        {},
    ),
    Metric(
        "upload_progress_ratio",
        "gauge",
        "Of the parameters that the task's edge lacked: what is there.",
        UE,
        (one(SlotRecord, lambda slot: slot.upload_progress_ratio),),
        {},
    ),
    Metric(
        "edge_cached_nodes",
        "gauge",
        "Nodes of a UE's model whose parameters the edge holds.",
        UE,
        (one(SlotRecord, lambda slot: slot.cached_nodes),),
        {},
    ),
    Metric(
        "edge_cache_bytes",
        "gauge",
        "Parameters that the edge holds, of all UEs.",
        of=(one(EdgeHealth, lambda edge: edge.cache_bytes),),
    ),
    Metric(
        "edge_cache_limit_bytes",
        "gauge",
        "How many it may hold; 0: it has its models from the start.",
        of=(one(EdgeHealth, lambda edge: edge.cache_limit_bytes),),
    ),
    Metric(
        "edge_cache_evictions",
        "counter",
        "Parameters of a node that were evicted.",
        of=(one(EdgeHealth, lambda edge: edge.cache_evictions),),
        running_total=True,
    ),
    Metric(
        "edge_cache_refusals",
        "counter",
        "Parameters of a node for which there was no room.",
        of=(one(EdgeHealth, lambda edge: edge.cache_refusals),),
        running_total=True,
    ),
)
