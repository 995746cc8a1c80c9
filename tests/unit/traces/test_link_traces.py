"""Traces of a link's delay and losses: read before anything is started, kept with the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from testbed.errors import InputError
from testbed.labfile.channels import make_link_traces, write_link_traces
from testbed.labfile.load import load
from testbed.traces import read_trace

LAB = Path(__file__).parents[2] / "golden" / "base.yaml"


def lab(tmp_path: Path, delays: str, losses: str = "# kind=loss\ntime_seconds,up,down\n0,0,0.5\n") -> Path:
    (tmp_path / "delays.csv").write_text(delays)
    (tmp_path / "losses.csv").write_text(losses)
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.read_text())
    return file


SET = ("ues.0.link.delay_trace=delays.csv", "ues.0.link.loss_trace=losses.csv")


def test_they_are_copied_into_the_run_with_both_directions(tmp_path: Path) -> None:
    file = lab(tmp_path, "# kind=delay\ntime_seconds,up,down\n0,0.01,0.02\n1,0.03,0.04\n")
    paths = write_link_traces(make_link_traces(load(file, SET)), tmp_path / "traces")
    assert set(paths["delay"]) == {"ue1", "ue2"}
    delay, loss = paths["delay"]["ue2"], paths["loss"]["ue2"]
    assert delay.parent == tmp_path / "traces" / "delay"
    played = read_trace(delay, "delay")
    np.testing.assert_array_equal(played.up, [0.01, 0.03])
    np.testing.assert_array_equal(played.down, [0.02, 0.04])
    assert (read_trace(loss, "loss").up[0], read_trace(loss, "loss").down[0]) == (0.0, 0.5)


def test_a_bad_one_is_bad_input_with_file_and_line(tmp_path: Path) -> None:
    file = lab(tmp_path, "# kind=delay\ntime_seconds,up,down\n0,0.01,-1\n")
    with pytest.raises(InputError, match=r"delays.csv, line 3: down is not a value"):
        make_link_traces(load(file, SET))


def test_one_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = lab(tmp_path, "# kind=rate\ntime_seconds,up,down\n0,1e6,1e6\n")
    with pytest.raises(InputError, match="of another kind"):
        make_link_traces(load(file, SET))
