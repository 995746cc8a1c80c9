"""The tables of the documentation say what the committed data says."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.table import PAGE, figures_table, filled, slowdown_table, text_of, written


def test_the_page_is_what_its_data_says() -> None:
    assert PAGE.read_text() == written(), "run: python -m benchmarks.table"


def test_a_missed_target_is_bold_and_alternatives_are_named() -> None:
    data: dict[str, dict[str, Any]] = {
        "late": {"figures": [{"what": "error", "measured": 0.02, "unit": "ratio", "target": 0.01}]},
        "links": {
            "figures": [
                {"what": "change", "measured": 3e-6, "unit": "s", "target": 5e-5, "alternative": {"tc": 0.0024}},
                {"what": "UEs", "measured": 6, "unit": "count", "target": None},
            ]
        },
    }
    assert figures_table(data)[2:] == [
        "| change | 3 us | 50 us | tc: 2.4 ms | `links` |",
        "| UEs | 6 | – |  | `links` |",
        "| error | **2 %** | 1 % |  | `late` |",
    ]


def test_ours_and_plain_limits_stand_side_by_side() -> None:
    row = {"model": "m", "stage": "head", "speed": 0.5, "speeds": [0.5]}
    ours = {**row, "error_p50": 1e-7, "error_p90": 0.001, "overrun_ratio": 0.0}
    plain = {**row, "error_p50": 0.4, "error_p90": 1.5, "overrun_ratio": 0.7}
    assert slowdown_table({"netns": [ours], "plain": [plain]}) == [
        "| stage | netns | `docker run --cpus` |",
        "|---|---|---|",
        "| m head at 0.5 (alone) | < 0.001 % / 0.1 % / 0 % | 40 % / 1.5 x / 70 % |",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(1.25, "s", "1.2 s"), (0.25, "s", "250 ms"), (0.00012, "s", "120 us"), (4.2, "GB/s", "4.2 GB/s")],
)
def test_figures_in_the_unit_of_their_size(value: float, unit: str, text: str) -> None:
    assert text_of(value, unit) == text


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers"):
        filled("# Page\n", "figures", [])
