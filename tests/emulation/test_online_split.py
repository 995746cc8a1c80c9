"""Heads that stop by the channel that they see: the right cut, the right answer, the gain that was seen on the wire."""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from controller.contract import cut_label
from testbed.inference.partition import load_split_model
from testbed.node.backend import task_input
from testbed.node.sight import Follow, Look, Seen, SightServer, Tune, Tuned
from tests.emulation.agents_lab import MODEL, SEED, AgentsLab

EVENLY = [0.05 + 0.06 * number for number in range(1000)]


@pytest.fixture(autouse=True)
def _repository_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


def gain(task: int, column: int) -> float:
    """Each task's channel is good (1) at one column, that of its number, and bad (0.1) elsewhere."""
    return 1.0 if column == task % 5 else 0.1


@contextmanager
def channel(directory: Path) -> Iterator[list[Look | Tune]]:
    """Answers as the player does, from :func:`gain`; yields what was asked."""
    asked: list[Look | Tune] = []
    stopping = threading.Event()

    def serve() -> None:
        server = SightServer(str(directory), ["ue0"])
        while not stopping.is_set():
            if not select.select([server], [], [], 0.02)[0]:
                continue
            for identity, request in server.received():
                if isinstance(request, Follow):
                    continue
                asked.append(request)
                state = gain(request.task, request.column)
                if isinstance(request, Look):
                    server.answer(identity, Seen(request.task, request.column, state))
                else:
                    server.answer(identity, Tuned(request.task, 10e6))
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        stopping.set()
        thread.join()


def test_heads_stop_where_the_channel_is_good_and_answer_as_the_whole_model(tmp_path: Path) -> None:
    (tmp_path / "ipc").mkdir()
    with channel(tmp_path) as asked, AgentsLab(tmp_path, [EVENLY], channel_refresh="per_task_stage") as lab:
        chain = lab.profile.chain_cuts
        labels = [cut_label(cut) for cut in chain]
        points = tuple((label, 0.5) for label in labels[:3])
        lab.apply({"ue0": chain[4]}, stop_rule=points)
        lab.begin()
        lab.wait(lambda: len(lab.tasks) >= 25)
        lab.stop()
        assert [task.reason for task in lab.tasks if task.status != "completed"] == []
        split = load_split_model(MODEL, SEED)
        for task in lab.tasks:
            column = task.task % 5 if task.task % 5 < 3 else 4
            assert task.cut == labels[column]
            image = task_input(split.model.signature, SEED, 0, task.task)
            with torch.inference_mode():
                assert task.answer == int(split.partition(()).head(image)[0].argmax())
            looks = [one.column for one in asked if isinstance(one, Look) and one.task == task.task]
            assert looks == list(range(min(column, 2) + 1))
            if chain[column]:
                tuned = [one.column for one in asked if isinstance(one, Tune) and one.task == task.task]
                assert tuned == [column]
            reference = lab.profile.head_seconds[column]
            if column > 0:
                assert task.head_target_seconds >= reference / 0.5 - 1e-9


def test_a_player_that_does_not_answer_leaves_the_last_cut(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        chain = lab.profile.chain_cuts
        lab.apply({"ue0": chain[2]}, stop_rule=((cut_label(chain[1]), 0.0),))
        lab.begin()
        lab.wait(lambda: len(lab.tasks) >= 3)
        lab.wait(lambda: any(report.parts.stopping.blind_looks >= 3 for report in lab.ue_reports("ue0")))
        lab.stop()
        assert {task.cut for task in lab.tasks if task.status == "completed"} == {cut_label(chain[2])}


def test_a_rule_out_of_order_is_refused(tmp_path: Path) -> None:
    with AgentsLab(tmp_path, [EVENLY]) as lab:
        chain = lab.profile.chain_cuts
        lab.apply({"ue0": chain[1]}, stop_rule=((cut_label(chain[2]), math.inf),))
        lab.wait(lambda: bool(lab.events("decision-refused")))
        assert "chain order" in lab.events("decision-refused")[0].text


def test_segments_between_all_cuts_give_the_bits_of_the_head() -> None:
    split = load_split_model(MODEL, SEED)
    image = task_input(split.model.signature, SEED, 0, 1)
    cuts = split.graph.chain_cuts
    with torch.inference_mode():
        for first, at in enumerate(cuts[:-1]):
            values = split.partition(at).head(image) if first else (image,)
            for last in cuts[first + 1 :]:
                for ours, theirs in zip(
                    split.segment(at, last)(*values), split.partition(last).head(image), strict=True
                ):
                    assert torch.equal(ours, theirs)
