"""Where the time of a task went that alternates between device and edge: its seven stages, and its record.

Several things happen at a time, and the stages of a task sum to its delay all the same: from the answer back, each
instant goes to what the task was waiting for then. While a node ran whose value the answer needed, that is ``head`` (on
the device) or ``tail``; a value on its way is ``uplink`` or ``downlink``, before the link came to it ``tx_queue``; so
is the time in which the edge lacked nothing but parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.contract import STAGES
from testbed.inference.codec import raw
from testbed.mechanisms.uploading.upload_frames import Segment
from testbed.mechanisms.uploading.upload_run import Run
from testbed.mechanisms.uploading.upload_sender import Transfer
from testbed.node import ledger
from testbed.node.last_words import reason_of
from testbed.node.task_frames import Result
from testbed.node.ue_node import UeNode, compute_watts
from testbed.protocol import records

_ROUNDING_SECONDS = 1e-9


@dataclass
class Account:
    """Seconds of a task by stage, and of head and tail what was asked and really computed."""

    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    targets: dict[str, float] = field(default_factory=lambda: {"head": 0.0, "tail": 0.0})
    computing: dict[str, float] = field(default_factory=lambda: {"head": 0.0, "tail": 0.0})

    def ran(self, stage: str, segment: Segment, until_seconds: float) -> None:
        """A segment up to the value that mattered: all of it, or its first part."""
        spent = until_seconds - segment.start_seconds
        whole = segment.end_seconds - segment.start_seconds
        part = min(spent / whole, 1.0) if whole > 0 else 1.0
        self.stages[stage] += spent
        self.targets[stage] += segment.target_seconds * part
        self.computing[stage] += segment.compute_seconds * part


def account(run: Run, values: Mapping[str, Transfer]) -> Account:
    """Of a run whose answer is there. ``values``: those that went up."""
    found = Account()
    start, now = run.task.head_start_seconds, run.end_seconds
    found.stages["ue_queue"] = start - run.task.arrival_seconds
    segments = {
        "head": list(run.timeline.segments),
        "tail": [run.edge_segments[number] for number in sorted(run.edge_segments)],
    }
    side = "head"
    if (arrival := run.arrivals.get(run.flow.answer)) is not None:
        found.stages["downlink"] += now - arrival.released_seconds
        side, now = "tail", arrival.released_seconds
    while now > start + _ROUNDING_SECONDS:
        segment = _take_before(segments[side], now)
        if segment is None:
            break
        found.ran(side, segment, now)
        now = segment.start_seconds
        if segment.layer_seconds >= now - _ROUNDING_SECONDS:
            else_ready = max(segment.free_seconds, segment.value_seconds, start)
            found.stages["tx_queue"] += now - else_ready
            now = else_ready
        if segment.value_seconds < now - _ROUNDING_SECONDS:
            continue  # it followed what this side ran before
        if side == "head":
            came = run.arrivals[segment.value]
            found.stages["downlink"] += now - came.released_seconds
            side, now = "tail", came.released_seconds
        else:
            went = values[segment.value]
            carried = min(max(went.wire_start_seconds, went.released_seconds), now)
            found.stages["uplink"] += now - carried
            found.stages["tx_queue"] += carried - went.released_seconds
            side, now = "head", went.released_seconds
    found.stages["tx_queue"] += now - start  # before the edge knew of the task
    return found


def _take_before(segments: list[Segment], now_seconds: float) -> Segment | None:
    """The segment that ended then or was running. It and those after it have had their turn."""
    while segments:
        segment = segments.pop()
        if segment.start_seconds <= now_seconds + _ROUNDING_SECONDS:
            return segment
    return None


def completed(
    run: Run, values: Mapping[str, Transfer], ue: str, wire_bytes: int, result_wire_bytes: int
) -> records.TaskRecord:
    """The record of a run whose answer is there. Its stamps add up the stages; the true ones are in segments and
    uploads."""
    task = run.task
    found = account(run, values)
    stamps = [task.arrival_seconds]
    for stage in STAGES[:-1]:
        stamps.append(stamps[-1] + found.stages[stage])
    _, _, task.head_end_seconds, task.transfer_start_seconds, task.received_seconds, tail_start, tail_end = stamps
    task.head_target_seconds = found.targets["head"]
    task.head_compute_seconds = found.computing["head"]
    task.boundary_bytes = sum(value.total_bytes for value in values.values())
    task.wire_bytes = wire_bytes
    shares = [segment.share for segment in run.edge_segments.values()]
    result = Result(
        task.number,
        task.received_seconds,
        tail_start,
        tail_end,
        found.targets["tail"],
        found.computing["tail"],
        shares[-1] if shares else 0.0,
    )
    return ledger.completed(task, ue, result, run.end_seconds, result_wire_bytes)


def settle(node: UeNode, run: Run, values: Mapping[str, Transfer], wire_bytes: int, result_wire_bytes: int) -> None:
    """Record a run that is over, with its segments, and count it. ``values``: those that went up."""
    task, books, segments = run.task, node.books, run.timeline.segments
    seconds = sum(segment.end_seconds - segment.start_seconds for segment in segments)
    task.compute_joules = compute_watts(node.config, task.speed) * seconds
    books.computed(task.compute_joules, overrun=any(segment.overrun for segment in segments))
    for record in segment_records(run, node.config.node):
        node.control.record(record)
    if not run.failure:
        try:
            task.answer, task.answer_checksum = node.backend.answer_of(raw(run.values[run.flow.answer]))
        except Exception as error:  # noqa: BLE001 - of values that are no logits
            run.failure = reason_of("answer", error)
    acked_bytes = sum(value.acknowledged_bytes for value in values.values())
    if run.failure:
        books.received(0.0, acked_bytes)
        books.lost(task, run.failure)
    else:
        books.received(task.transmit_joules, acked_bytes)
        books.completed(completed(run, values, node.config.node, wire_bytes, result_wire_bytes))


def segment_records(run: Run, ue: str) -> list[records.SegmentRecord]:
    """Of both sides, as far as the UE was told."""
    return [
        records.SegmentRecord(
            ue=ue,
            task=run.task.number,
            number=segment.number,
            site=site,
            first=segment.first,
            last=segment.last,
            ready_seconds=segment.ready_seconds if segment.value or segment.layer else math.nan,
            start_seconds=segment.start_seconds,
            end_seconds=segment.end_seconds,
            target_seconds=segment.target_seconds,
            compute_seconds=segment.compute_seconds,
            share=segment.share,
            overrun=segment.overrun,
        )
        for site, segments in (("device", run.timeline.segments), ("edge", list(run.edge_segments.values())))
        for segment in segments
    ]


def upload_record(
    transfer: Transfer, ue: str, version: int, status: str, reason: str = "", *, checksum_ok: bool = True
) -> records.UploadRecord:
    return records.UploadRecord(
        ue=ue,
        task=transfer.task,
        name=transfer.name,
        kind=transfer.kind,
        status=status,
        reason=reason,
        bytes=transfer.total_bytes,
        wire_bytes=transfer.wire_bytes,
        version=version,
        checksum_ok=checksum_ok,
        resumed=transfer.resumed,
        queued_seconds=transfer.queued_seconds,
        first_sent_seconds=transfer.first_sent_seconds,
        wire_start_seconds=transfer.wire_start_seconds,
        received_seconds=transfer.received_seconds,
        model_bytes_ahead=transfer.model_bytes_ahead,
        model_chunk_bytes=transfer.model_chunk_bytes,
    )
