"""Models that move under load: no task fails or mixes versions, and a UE that dies in mid-download starts over."""

from __future__ import annotations

import functools
import signal
import zlib
from pathlib import Path

import pytest
import torch
import zmq

from controller.contract import cut_label
from controller.model.cuts import device_set
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.weights import pack
from testbed.node.backend import IMAGES, task_input
from testbed.node.ue_sockets import MOST_PARTS
from testbed.protocol.records import ModelUpdate, TaskRecord
from tests.emulation.agents_lab import MODEL, SEED, AgentsLab
from tests.emulation.rough_wire import RoughWire

EVENLY = [0.05 + 0.03 * number for number in range(2000)]
PERTURBATION = 0.3  # of the harness's edge


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


@functools.cache
def trained(version: int) -> SplitModel:
    split = load_split_model(MODEL, SEED)
    for number in range(1, version + 1):
        split.weights.train(number, SEED, PERTURBATION)
    split.weights.use(version)
    return split


@functools.cache
def expected(version: int, ue_index: int, image: int) -> int:
    """Checksum of what the unsplit model of a version answers."""
    split = trained(version)
    with torch.inference_mode():
        answer = split.partition(()).head(task_input(split.model.signature, SEED, ue_index, image))[0]
    return zlib.crc32(answer.float().contiguous().view(-1).view(torch.uint8).numpy().data)


def check(lab: AgentsLab, tasks: list[TaskRecord]) -> None:
    for task in tasks:
        index = lab.names.index(task.ue)
        assert task.answer_checksum == expected(task.model_version, index, task.task % IMAGES), (
            f"{task.ue} {task.task} of version {task.model_version} cut at {task.cut} answers something else"
        )


def updates(lab: AgentsLab, ue: str) -> list[ModelUpdate]:
    return [record for record in lab.records if isinstance(record, ModelUpdate) and record.ue == ue]


def test_new_versions_under_load_fail_no_task_and_mix_no_versions(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY, EVENLY], retraining_interval_seconds=0.5) as lab:
        chain = lab.profile.chain_cuts
        lab.apply(dict.fromkeys(lab.names, chain[2]))
        lab.begin()
        lab.wait(lambda: all(len(updates(lab, ue)) >= 2 for ue in lab.names))
        for cut in (chain[-1], chain[0], chain[1]):  # what is placed grows, shrinks, grows
            before = {ue: len(updates(lab, ue)) for ue in lab.names}
            lab.apply(dict.fromkeys(lab.names, cut))
            lab.wait(lambda before=before: all(len(updates(lab, ue)) >= before[ue] + 2 for ue in lab.names))  # type: ignore[misc]
        lab.stop()
        assert [task.reason for task in lab.tasks if task.status != "completed"] == []
        check(lab, lab.tasks)
        assert len({task.model_version for task in lab.tasks}) >= 6
        assert len({task.cut for task in lab.tasks}) >= 3
        for record in updates(lab, "ue0"):
            assert record.status == "placed"
            assert record.started_seconds <= record.received_seconds <= record.swapped_seconds
            assert record.receive_joules == pytest.approx(0.1 * (record.received_seconds - record.started_seconds))
        versions = [record.version for record in updates(lab, "ue0")]
        assert versions == sorted(versions)


class SlowDownloads(AgentsLab):
    """Models come down to ue0 over a wire of 40 kbit/s, so that one takes seconds."""

    def start_process(self, node: str) -> None:
        if not self.updates_ports:
            self.wire = RoughWire(self.port + 1, 1e9, 40e3)
            self.updates_ports["ue0"] = self.wire.port
        super().start_process(node)

    def __exit__(self, *failure: object) -> None:
        self.wire.close()
        super().__exit__(*failure)  # type: ignore[arg-type]


def test_a_ue_killed_in_mid_download_starts_with_the_first_version_and_recovers(tmp_path: Path) -> None:
    cut_index = 4
    split = load_split_model(MODEL, SEED)
    placed = device_set(split.graph.nodes, split.graph.chain_cuts[cut_index])
    block_bytes = pack(split.weights.tensors(0, placed))[0].total_bytes
    with SlowDownloads(tmp_path, [EVENLY], retraining_interval_seconds=0.3) as lab:
        cut = lab.profile.chain_cuts[cut_index]
        lab.apply({"ue0": cut})
        lab.begin()
        lab.wait(lambda: len(updates(lab, "ue0")) == 1)
        before = lab.wire.down_bytes
        lab.wait(lambda: lab.wire.down_bytes - before > 0.75 * block_bytes)
        lab.kill("ue0", signal.SIGKILL)
        assert lab.wire.down_bytes - before < block_bytes
        assert len(updates(lab, "ue0")) == 1  # it died with a part of its second download
        done = len(lab.tasks)
        newest = max(task.model_version for task in lab.tasks) + 2
        assert newest > 2
        lab.wire.down_bits_per_second = 1e9
        lab.start_process("ue0")
        lab.wait(lambda: "ue0" in lab.hellos, 60)
        lab.apply({"ue0": cut})
        lab.begin()
        lab.wait(lambda: any(task.model_version >= newest for task in lab.tasks[done:]))
        lab.stop()
        again = lab.tasks[done:]
        assert [task.reason for task in again if task.status != "completed"] == []
        check(lab, again)
        assert again[0].cut == cut_label(cut)
        first = updates(lab, "ue0")[1]
        assert first.status == "placed"
        assert first.payload_bytes == block_bytes  # all of it, not the rest


def test_who_is_cut_off_from_the_models_is_counted_and_told(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [[]], retraining_interval_seconds=60.0) as lab:
        lab.begin()
        with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
            stranger.set(zmq.LINGER, 0)
            stranger.connect(f"tcp://{lab.address('ue0')}:{lab.port + 1}")
            stranger.send(b"nothing that anybody can read")
            lab.wait(lambda: lab.edge_reports()[-1:] and lab.edge_reports()[-1].malformed_frames == 1)
            stranger.send_multipart([b"x"] * (MOST_PARTS + 2))
            lab.wait(lambda: bool(lab.events("cut-off")))
            assert lab.events("cut-off")[0].text.startswith("ue0 was cut off")
            lab.wait(lambda: lab.edge_reports()[-1].malformed_frames == 2)
