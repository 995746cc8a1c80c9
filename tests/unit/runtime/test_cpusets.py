from __future__ import annotations

import pytest

from testbed.runtime.host.cpusets import Mode, assign, kernel_list


@pytest.mark.parametrize(
    ("cores", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5], "0-2,5"), ([7, 0, 2, 1], "0-2,7"), ([0, 2], "0,2")]
)
def test_lists_as_the_kernel_writes_them(cores: list[int], text: str) -> None:
    assert kernel_list(cores) == text


@pytest.mark.parametrize(
    ("mode", "cores", "expected"),
    [
        ("auto", range(4), ("0", "1", "2-3")),
        ("auto", [2, 3, 6, 7, 9], ("2", "3", "6-7,9")),
        ("split", range(8), ("0", "1", "2-7")),
        ("split", range(2), ("0", "0", "1")),
        ("split", range(3), ("0", "0", "1-2")),
        ("auto", range(3), ("", "", "")),
        ("off", range(64), ("", "", "")),
    ],
)
def test_ues_get_what_steering_and_edge_leave(mode: Mode, cores: range, expected: tuple[str, str, str]) -> None:
    sets = assign(mode, list(cores), possible=True)
    assert (sets.steering, sets.edge, sets.ues) == expected
    assert bool(sets.shared_because) == (expected == ("", "", ""))
    assert sets.of("controller") == sets.of("player") == sets.of("recorder") == sets.steering
    assert (sets.of("edge"), sets.of("ue"), sets.of("radio")) == (sets.edge, sets.ues, "")


def test_where_no_cpuset_is_to_be_had_cores_are_shared_and_it_says_why() -> None:
    assert "no cpuset" in assign("auto", range(8), possible=False).shared_because
    assert assign("auto", range(8), possible=False).ues == ""


def test_one_core_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="one"):
        assign("split", [0], possible=True)
