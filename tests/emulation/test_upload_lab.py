"""UEs that upload their model while they infer, and an edge that has none, as processes: faults, sharing, order."""

from __future__ import annotations

import functools
import signal
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import zmq

from controller.contract import CodecTimes, ModelProfile, ReferenceCore, Uploading
from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.profiles import write_profile
from testbed.mechanisms.uploading import upload_frames
from testbed.mechanisms.uploading.upload_layers import Layers
from testbed.node import ledger
from testbed.node import task_frames as wire
from testbed.node.backend import IMAGES, task_input
from testbed.protocol.records import SegmentRecord, TaskRecord, UploadRecord
from tests.emulation.agents_lab import SEED, AgentsLab
from tests.emulation.rough_wire import RoughWire

MODEL = "tests.emulation.labs.layered_model:make"
#: Of the model's large layers; everything else is small.
WIDE_BYTES = 4 * (3072 * 256 + 256)
SIDE_BYTES = 4 * (256 * 512 + 512)
DEEP_BYTES = 4 * (512 * 512 + 512)
MODEL_BYTES = WIDE_BYTES + 2 * SIDE_BYTES + DEEP_BYTES
KEEP = Uploading("keep", 20_000_000)
PER_QUERY = Uploading("per_query", 20_000_000)


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


@functools.cache
def split() -> SplitModel:
    return load_split_model(MODEL, SEED)


@functools.cache
def expected(ue_index: int, image: int) -> int:
    """Checksum of what the unsplit model answers."""
    with torch.inference_mode():
        answer = split().partition(()).head(task_input(split().model.signature, SEED, ue_index, image))[0]
    return zlib.crc32(answer.float().contiguous().view(-1).view(torch.uint8).numpy().data)


@pytest.fixture
def profile_path(tmp_path: Path) -> Path:
    """Every node takes 10 ms on the reference core: times are the books', not the host's."""
    graph = split().graph
    seconds = tuple(0.0 if node.name == "input" else 0.01 for node in graph.nodes)
    cuts = len(graph.chain_cuts)
    names = [node.name for node in graph.nodes]
    heads = tuple(sum(seconds[: names.index(cut[0]) + 1]) if cut else sum(seconds) for cut in graph.chain_cuts)
    free = CodecTimes((0.0,) * cuts, (0.0,) * cuts)
    profile = ModelProfile(
        version=1,
        model=MODEL,
        nodes=graph.nodes,
        chain_cuts=graph.chain_cuts,
        head_seconds=heads,
        tail_seconds=tuple(sum(seconds) - head for head in heads),
        node_seconds=seconds,
        codecs={"fp32": free, "fp16": free, "uint8": free},
        result_bytes=40,
        reference_core=ReferenceCore(0.5, "made up", str(torch.__version__)),
        holdout_error_ratio=0.0,
    )
    path = tmp_path / "profile.json"
    write_profile(profile, path)
    return path


@dataclass
class UploadLab(AgentsLab):
    """With a wire that can be slowed down and broken between ue0 and the edge, and what tasks leave behind."""

    bits_per_second: float = 200e6
    model: str = MODEL
    uploading: Uploading | None = KEEP

    def start_process(self, node: str) -> None:
        if not self.data_ports:
            self.wire = RoughWire(self.port, self.bits_per_second)
            self.data_ports["ue0"] = self.wire.port
        super().start_process(node)

    def __exit__(self, *failure: object) -> None:
        self.wire.close()
        super().__exit__(*failure)  # type: ignore[arg-type]

    def uploads(self, task: int, kind: str = "parameters", ue: str = "ue0") -> list[UploadRecord]:
        return [
            one
            for one in self.records
            if isinstance(one, UploadRecord) and (one.ue, one.task, one.kind) == (ue, task, kind)
        ]

    def segments(self, task: int, site: str, ue: str = "ue0") -> list[SegmentRecord]:
        return [
            one
            for one in self.records
            if isinstance(one, SegmentRecord) and (one.ue, one.task, one.site) == (ue, task, site)
        ]

    def ended(self, task: int, ue: str = "ue0", seconds: float = 20.0) -> TaskRecord:
        """The record of a task, waited for, that has the unsplit model's answer."""
        self.wait(lambda: any((one.ue, one.task) == (ue, task) for one in self.tasks), seconds)
        (record,) = (one for one in self.tasks if (one.ue, one.task) == (ue, task))
        assert (record.status, record.reason) == ("completed", "")
        assert record.answer_checksum == expected(self.names.index(ue), task % IMAGES)
        stages = ledger.stage_seconds(record)
        assert min(stages.values()) >= -1e-9, stages
        assert sum(stages.values()) == pytest.approx(record.result_received_seconds - record.arrival_seconds)
        return record

    def at_edge(self, nodes: Collection[str], **options: object) -> None:
        options = {"rate": self.bits_per_second, **options}
        self.apply(dict.fromkeys(self.names, ("input",)), edge_nodes=nodes, **options)  # type: ignore[arg-type]


def all_nodes() -> list[str]:
    return [node.name for node in split().graph.nodes[1:]]


@pytest.mark.quiet
def test_sides_alternate_at_will_and_parameters_go_up_ahead_of_their_turn(tmp_path: Path, profile_path: Path) -> None:
    """Every plan has the unsplit answer, stages that make up its delay, and times that are the books'."""
    arrivals = [0.1 + 1.5 * number for number in range(6)]
    with UploadLab(tmp_path, [arrivals], profile_path=profile_path, uploading=PER_QUERY, bits_per_second=60e6) as lab:
        nodes = all_nodes()
        plans: list[tuple[list[str], str]] = [
            (["relu", "right", "deep", "answer"], "pipelined"),
            (["relu", "right", "deep", "answer"], "serial"),
            (nodes, "pipelined"),
            (["normalise", "flatten", "left", "relu_1"], "pipelined"),
            ([], "pipelined"),
        ]
        for number, (edge_nodes, order) in enumerate(plans):
            lab.at_edge(edge_nodes, upload_order=order, speed=0.2, share=0.5)
            if number == 0:
                lab.begin()
            record = lab.ended(number)
            device, edge = lab.segments(number, "device"), lab.segments(number, "edge")
            assert sum(one.target_seconds for one in device) == pytest.approx(0.05 * (len(nodes) - len(edge_nodes)))
            assert sum(one.target_seconds for one in edge) <= 0.02 * len(edge_nodes) + 1e-9
            for one in (*device, *edge):
                assert one.end_seconds - one.start_seconds >= one.target_seconds - 1e-9
            owners = {one.name for one in lab.uploads(number)}
            assert owners == set(edge_nodes) & set(split().weights.layers)
            assert all(one.status in ("held", "shared") for one in lab.uploads(number))
            for one in lab.uploads(number, "feature"):
                assert one.model_bytes_ahead <= one.model_chunk_bytes
                assert one.status == "received"
            assert record.wire_bytes >= record.boundary_bytes
        pipelined, serial = (task.result_received_seconds - task.arrival_seconds for task in lab.tasks[:2])
        assert pipelined < 0.9 * serial, "parameters of 1.6 MB did not go up while the device computed"
        deep = [next(one for one in lab.uploads(task) if one.name == "deep") for task in (0, 1)]
        starts = [next(one.start_seconds for one in lab.segments(task, "edge")) for task in (0, 1)]
        assert deep[0].first_sent_seconds < starts[0] - 0.01
        assert deep[1].first_sent_seconds > starts[1]


def test_a_broken_connection_and_a_wrong_byte_cost_no_task(tmp_path: Path, profile_path: Path) -> None:
    with UploadLab(
        tmp_path, [[0.1, 0.2, 0.3]], profile_path=profile_path, uploading=PER_QUERY, bits_per_second=40e6
    ) as lab:
        wire = lab.wire
        lab.at_edge(all_nodes())
        lab.begin()
        lab.wait(lambda: wire.up_bytes > WIDE_BYTES // 2)
        wire.cut()
        lab.ended(0)
        (cut,) = (one for one in lab.uploads(0) if one.resumed)
        assert (cut.name, cut.status, cut.checksum_ok) == ("wide", "held", True)
        assert wire.up_bytes < 1.2 * MODEL_BYTES, "the upload began anew"

        lab.wait(lambda: wire.up_bytes > MODEL_BYTES + WIDE_BYTES // 4)
        wire.damage_after = wire.up_bytes
        lab.ended(1)
        assert wire.damage_after is None
        wide = [one for one in lab.uploads(1) if one.name == "wide"]
        assert [(one.status, one.checksum_ok) for one in wide] == [("corrupt", False), ("held", True)]
        assert "another checksum" in lab.events("layer-corrupt")[0].text
        lab.ended(2)
        assert lab.ue_reports("ue0")[-1].parts.uploading.corrupt_layers == 1


def test_what_does_not_fit_is_refused_and_a_task_without_an_edge_says_so(tmp_path: Path, profile_path: Path) -> None:
    limit = WIDE_BYTES - 1
    with UploadLab(
        tmp_path,
        [[0.1, 0.2, 4.0]],
        profile_path=profile_path,
        uploading=Uploading("keep", limit),
        task_timeout_seconds=1.5,
    ) as lab:
        lab.at_edge(all_nodes())
        lab.begin()
        for task in (0, 1):
            lab.ended(task)
            (refused,) = (one for one in lab.uploads(task) if one.name == "wide")
            assert refused.status == "refused"
            assert str(limit) in refused.reason
            assert [(one.first, one.last) for one in lab.segments(task, "device")] == [("wide", "wide")]
        assert len(lab.events("layer-refused")) == 2
        lab.wait(lambda: bool(lab.edge_reports()) and bool(lab.edge_reports()[-1].ues[0].cached_nodes))
        lab.wait(lambda: lab.ue_reports("ue0")[-1].parts.uploading.refused_layers == 2)
        lab.kill("edge", signal.SIGKILL)
        lab.wait(lambda: len(lab.tasks) == 3)
        assert lab.tasks[2].status == "failed"
        assert lab.tasks[2].reason == "timeout: 1.5 s passed without an answer; the edge is not connected"


def test_what_is_no_part_of_the_conversation_is_answered_and_survived(tmp_path: Path, profile_path: Path) -> None:
    """Spoken to directly, as a UE of another model would."""
    with UploadLab(tmp_path, [[]], profile_path=profile_path) as lab:
        lab.processes["ue0"].kill()
        lab.processes["ue0"].join()
        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.set(zmq.IDENTITY, b"ue0")
        dealer.connect(f"tcp://127.0.0.1:{lab.port}")

        def answer(*frames: bytes) -> object:
            dealer.send_multipart(frames)
            assert dealer.poll(5000)
            return upload_frames.decode_down(dealer.recv_multipart()[0])

        begin = upload_frames.encode(upload_frames.Begin(0, ("wide",), False))
        layers = Layers(split())
        assert answer(b"\xc1garbage") == upload_frames.Broken()
        foreign = upload_frames.Model((upload_frames.Layer("wide", layers.blocks["deep"][0]),), 0)
        dealer.send_multipart([upload_frames.encode(foreign)])
        assert answer(begin) == upload_frames.Failed(0, "edge: the model of ue0 is another than the edge's: wide")
        dealer.send_multipart([upload_frames.encode(layers.manifest())])
        assert answer(begin) == upload_frames.Ready(0, True, (), (), ())
        assert answer(upload_frames.encode(upload_frames.Begin(1, ("nothing",), False))) == upload_frames.Broken()
        start = upload_frames.encode(upload_frames.LayerStart(0, "wide", 100))
        dealer.send_multipart([wire.encode(wire.Chunk(1, 0)), start, b"x" * 1000])
        lost = upload_frames.decode_down(dealer.recv_multipart()[0])
        assert isinstance(lost, upload_frames.Verdict)
        assert (lost.status, lost.reason) == ("lost", "they go on at 100, and 0 bytes are here")
        assert lab.processes["edge"].is_alive()
        dealer.close(linger=0)


def test_an_edge_or_ue_that_dies_in_mid_upload_does_not_stop_the_lab(tmp_path: Path, profile_path: Path) -> None:
    arrivals = [0.1 + 0.4 * number for number in range(200)]
    with UploadLab(tmp_path, [arrivals], profile_path=profile_path, bits_per_second=20e6) as lab:
        wire = lab.wire
        lab.at_edge(all_nodes())
        lab.begin()
        lab.wait(lambda: wire.up_bytes > WIDE_BYTES // 2)
        lab.kill("edge", signal.SIGKILL)
        lab.processes["edge"].join()
        lab.start_process("edge")
        lab.wait(lambda: "edge" in lab.hellos, 60)
        lab.wait(lambda: wire.up_bytes > WIDE_BYTES + WIDE_BYTES // 4)  # the new edge has nothing: it goes up again
        lab.kill("ue0", signal.SIGKILL)
        lab.processes["ue0"].join()
        assert not lab.tasks
        lab.start_process("ue0")
        lab.wait(lambda: "ue0" in lab.hellos, 60)
        lab.at_edge(all_nodes())
        lab.begin()
        lab.wait(lambda: len(lab.tasks) > 2, 30)
        first = lab.ended(lab.tasks[0].task)
        held = {one.name: one for one in lab.uploads(first.task)}
        assert held["wide"].status == "held"
        assert held["wide"].wire_bytes < 0.9 * WIDE_BYTES, "what the dead UE had sent was thrown away"
        assert not lab.uploads(lab.tasks[1].task), "the second task found everything"
        assert lab.processes["edge"].is_alive()


def test_ues_of_equal_weights_share_what_one_of_them_uploaded(tmp_path: Path, profile_path: Path) -> None:
    with UploadLab(tmp_path, [[0.1, 1.0], [4.0, 4.1]], profile_path=profile_path, model=MODEL, uploading=KEEP) as lab:
        lab.at_edge(all_nodes(), rate=200e6)
        lab.begin()
        for ue, task in (("ue0", 0), ("ue0", 1), ("ue1", 0), ("ue1", 1)):
            lab.ended(task, ue)
        sent = {one.name for one in lab.uploads(0)}
        assert sent == set(split().weights.layers)
        assert not [one for one in lab.records if isinstance(one, UploadRecord) and one.kind == "parameters"][
            len(sent) :
        ]
        lab.wait(lambda: len(lab.edge_reports()[-1].ues[1].cached_nodes) == len(sent))
