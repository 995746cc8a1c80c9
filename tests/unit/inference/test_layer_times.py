from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from controller.contract import ModelProfile
from controller.model.delay import stage_work
from testbed.cli.profile import command
from testbed.errors import InputError
from testbed.inference.layer_times import read_layer_times
from testbed.inference.profiles import read_profile, with_device

PROFILES = Path(__file__).parents[3] / "topologies" / "profiles"
TABLE = PROFILES / "odroid-xu4-alexnet.csv"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    out = tmp_path_factory.mktemp("board") / "board.json"
    arguments = ["torchvision:alexnet", "--layer-times", str(TABLE), "--out", str(out), "--json"]
    CliRunner().invoke(command, arguments, catch_exceptions=False)
    return read_profile(out)


def test_the_shipped_board_is_what_its_table_gives(board: ModelProfile) -> None:
    assert board == read_profile(PROFILES / "odroid-xu4-alexnet.json")
    assert board.head_seconds[-1] == pytest.approx(0.8217)


def test_heads_are_prefix_sums_and_tails_what_is_left(board: ModelProfile) -> None:
    names = [node.name for node in board.nodes]
    for cut, head, tail in zip(board.chain_cuts, board.head_seconds, board.tail_seconds, strict=True):
        before = board.node_seconds[: names.index(cut[0]) + 1] if cut else board.node_seconds
        assert head == pytest.approx(sum(before), abs=1e-9)
        assert head + tail == pytest.approx(0.8217, abs=1e-9)
    assert dict(zip(names, board.node_seconds, strict=True))["features_2"] == pytest.approx(0.0405)  # norm1 + pool1


def test_a_device_lends_its_heads_and_nothing_else(board: ModelProfile) -> None:
    own = read_profile(PROFILES / "alexnet.json")
    lab = with_device(own, board)
    assert lab.head_seconds == board.head_seconds
    assert lab.tail_seconds == own.tail_seconds
    assert lab.reference_core == own.reference_core
    head, tail = stage_work(lab, ("features_2",), "uint8")
    assert head == pytest.approx(0.1138)  # encoding is free on the device
    assert tail == pytest.approx(stage_work(own, ("features_2",), "uint8")[1])


def test_a_device_of_another_graph_is_refused(board: ModelProfile) -> None:
    nodes = (*board.nodes[:-1], msgspec.structs.replace(board.nodes[-1], name="classifier_7"))
    other = msgspec.structs.replace(board, nodes=nodes)
    with pytest.raises(InputError, match="another graph"):
        with_device(other, board)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# source: s\nnode,milliseconds\ninput,1\n", "no device"),
        ("# device: d\nnode,milliseconds\ninput,1\n", "no source"),
        ("# device: d\n# source: s\ninput,1\n", "names the columns"),
        ("# device: d\n# source: s\n", "names the columns"),
        ("# device: d\n# source: s\nnode,milliseconds\ninput,fast\n", "line 4: not a time"),
        ("# device: d\n# source: s\nnode,milliseconds\ninput,-1\n", "line 4: not a time"),
        ("# device: d\n# source: s\nnode,milliseconds\ninput\n", "line 4: not a time"),
        ("# device: d\n# source: s\nnode,milliseconds\ninput,1\ninput,2\n", "line 5: a node stands twice"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_layer_times(path)


def test_a_node_that_the_model_has_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text("# device: d\n# source: s\nnode,milliseconds\nfeatures_99,1\n")
    arguments = ["torchvision:alexnet", "--layer-times", str(path), "--out", str(tmp_path / "out.json")]
    with pytest.raises(InputError, match=r"features_99.*classifier_6"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert not (tmp_path / "out.json").exists()
    answer = CliRunner().invoke(command, arguments[:3])
    assert "--out" in answer.output
