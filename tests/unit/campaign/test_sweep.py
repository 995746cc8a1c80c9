"""The command line of sweeps: values, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from campaigns import LAB
from testbed.cli.sweep import command, split_values
from testbed.errors import InputError


def test_values_are_split_outside_of_brackets() -> None:
    assert split_values("0.1, 0.3,1") == ["0.1", "0.3", "1"]
    assert split_values("[1 /s, 2 /s],[2 /s, 4 /s]") == ["[1 /s, 2 /s]", "[2 /s, 4 /s]"]


@pytest.mark.parametrize(("text", "says"), [("1,,2", "empty"), ("", "empty"), ("1,2,1", "twice")])
def test_values_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        split_values(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--slots", "5"], "--slots is for simulations"),
        (["--simulate", "--duration", "5s"], "--duration is for runs"),
        (["--simulate", "--set", "policy.nothing=1"], "nothing"),
        (["--seed", "3", "--seeds", "1..2"], "--seed and --seeds"),
    ],
)
def test_orders_that_are_refused(arguments: list[str], says: str, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    result = CliRunner().invoke(
        command, [str(LAB), "--key", "slot", "--values", "1s,2s", "--out", str(out), *arguments]
    )
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert not out.exists()
