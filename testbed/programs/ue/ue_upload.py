"""The program of a UE whose edge starts without the model. Threads as in :mod:`testbed.programs.ue.ue_agent`."""

from __future__ import annotations

import math

from controller.contract import UeDecision
from controller.model.uploading import edge_nodes
from controller.service import protocol
from testbed.inference import tensors
from testbed.mechanisms.uploading import upload_books
from testbed.mechanisms.uploading.upload_run import Run
from testbed.node.last_words import reason_of
from testbed.node.sight import Sight
from testbed.programs.ue.ue_agent import DataLink, UeAgent
from testbed.programs.ue.upload_link import UploadLink
from testbed.programs.ue.upload_stage import UploadStage


class UploadUeAgent(UeAgent):
    """The I/O thread. A task is one :class:`Run` at a time, from its start to its answer."""

    _stage: UploadStage

    def _prepare(self) -> None:
        split = self._backend.split
        values = {"input": split.model.probe}
        for node in split.graph.nodes[1:]:
            values[node.name] = split.run_node(node.name, values)

    def _make_stage(self, sight: Sight) -> UploadStage:
        return UploadStage(self._config, self._backend, self._decisions, self._deadlines, self._wake, sight)

    def _make_uplink(self) -> DataLink:
        config = self._config
        assert config.uploading is not None
        self._data = UploadLink(
            self._context,
            config.node,
            config.edge_endpoint,
            config.round_trip_seconds,
            self._backend.split,
            self._link.record,
            cold=config.uploading.cache == "per_query",
            silent_seconds=self._silences.seconds,
        )
        self._busy_before = 0.0
        return self._data

    def _check(self, own: UeDecision | None) -> None:
        super()._check(own)
        assert own is not None
        if own.stop_rule:
            raise ValueError("an edge that starts without the model has none for a stop_rule")
        names = tuple(node.name for node in self._backend.profile.nodes[1:])
        if own.sites and tuple(name for name, _ in own.sites) != names:
            raise ValueError(f"sites must name the {len(names)} nodes of the model in order")
        if len(edge_nodes(self._backend.profile, own)) < len(names) and not 0 < own.device_speed < math.inf:
            raise ValueError(f"nodes on a device of speed {own.device_speed}")

    def _collect(self) -> None:
        """Runs that begin, what they hand over, and their ends."""
        stage, data = self._stage, self._data
        while stage.ended:  # those that were too late to begin
            task = stage.ended.popleft()
            self._announce(task.arrival_seconds)
            self._lost(task, task.failure)
        self._conclude_if_over()
        while stage.runs:
            run = stage.runs.popleft()
            self._announce(run.task.arrival_seconds)  # a record never precedes the arrival's
            self._busy_before = data.busy_seconds
            data.begin(run)
        while stage.released:
            data.release(*stage.released.popleft())
        self._conclude_if_over()

    def _conclude_if_over(self) -> None:
        run = self._data.run
        if run is not None and (run.over or not math.isnan(run.end_seconds)):
            self._conclude(run)

    def _conclude(self, run: Run) -> None:
        data, task, sums = self._data, run.task, self._sums
        values, wire_bytes = data.values, data.run_wire_bytes
        data.end(run)
        draw = self._config.compute_watts * (task.speed / self._config.max_speed) ** 3
        segments = run.timeline.segments
        task.compute_joules = draw * sum(segment.end_seconds - segment.start_seconds for segment in segments)
        task.transmit_joules = task.transmit_watts * (data.busy_seconds - self._busy_before)
        sums.head_overruns += any(segment.overrun for segment in segments)
        sums.compute_joules += task.compute_joules
        sums.acked_bytes += sum(value.acknowledged_bytes for value in values.values())
        for record in upload_books.segment_records(run, self._config.node):
            self._link.record(record)
        if not run.failure:
            try:
                task.answer, task.answer_checksum = self._backend.answer_of(tensors.raw(run.values[run.flow.answer]))
            except Exception as error:  # noqa: BLE001 - of values that are no logits
                run.failure = reason_of("answer", error)
        if run.failure:
            self._lost(task, run.failure)
        else:
            sums.transmit_joules += task.transmit_joules
            self._completed(upload_books.completed(run, values, self._config.node, wire_bytes, data.result_wire_bytes))
        run.finish(run.failure)

    def _parts(self) -> protocol.UeParts:
        data = self._data
        report = protocol.UploadingReport(
            upload_progress_ratio=data.upload_progress_ratio,
            uploaded_bytes=data.uploaded_bytes,
            preemptions=data.preemptions,
            resumed_uploads=data.resumed,
            refused_layers=data.refused,
            corrupt_layers=data.corrupt,
        )
        return protocol.UeParts(uploading=report)
