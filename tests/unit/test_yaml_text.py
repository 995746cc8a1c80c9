"""Lab files as people write them: numbers, keys that stand twice, anchors, nesting without end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from testbed.cli.link import command as link
from testbed.cli.policy import command as policy
from testbed.errors import InputError
from testbed.labfile.load import load
from testbed.labfile.yaml_text import MAX_DEPTH, parse_yaml

BASE = Path(__file__).parents[1] / "golden" / "base.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0", 0),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("1e-3 s", "1e-3 s"),
        ("'1e-3'", "1e-3"),
        ("off", False),
        ("~", None),
        ("", None),
        ("[1e-3, 1e2]", [1e-3, 100.0]),
        ("7_1", 71),
        ("_0_1", "_0_1"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    read = parse_yaml(text, "here")
    assert read == value
    assert type(read) is type(value)


@given(st.floats(-1e300, 1e300), st.sampled_from(["{:e}", "{:g}", "{!r}", "{:.3E}"]))
def test_a_number_in_any_notation_is_a_number(value: float, notation: str) -> None:
    text = notation.format(value)
    read = parse_yaml(text, "here")
    assert isinstance(read, int | float)
    assert read == float(text)


@pytest.mark.parametrize(
    "text", [".inf", "-.Inf", ".nan", "1e999", "!!int abc", "!!float x", "!!bool maybe", "!!null x"]
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(InputError, match="here: not valid YAML"):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    "text",
    ["[" * 3000 + "]" * 3000, "{a: " * 3000 + "}" * 3000, "\n".join(" " * n + "a:" for n in range(3000)), "- " * 3000],
)
def test_nesting_has_an_end(text: str) -> None:
    with pytest.raises(InputError, match=f"deeper than {MAX_DEPTH} levels"):
        parse_yaml(text, "here")


def test_a_bomb_of_aliases_does_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(InputError, match="values, aliases written out"):
        parse_yaml("\n".join(lines), "here")


def test_a_merge_may_repeat_keys_and_a_mapping_may_not() -> None:
    text = "x-base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: {<<: *base}\n"
    assert parse_yaml(text, "here") == {"x-base": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "two": {"a": 1, "b": 2}}
    with pytest.raises(InputError, match=r"key 'one.b' stands twice; got 'lines 2 and 3'"):
        parse_yaml("one:\n  b: 1\n  'b': 2\n", "here")


def test_keys_for_anchors_are_allowed_at_the_top_only(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    text = BASE.read_text()
    lab.write_text(f"x-floor: &floor {{floor: 50 kbit/s}}\n{text}")
    topology = load(lab, ["ues.0.name=u", "x-more=[1, 2]"])
    assert topology.ues[0].name == "u"
    with pytest.raises(InputError, match=r"unknown key 'radio.x-floor'"):
        load(lab, ["radio.x-floor=1"])


def test_a_number_of_the_command_line_is_a_number(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text(BASE.read_text())
    topology = load(lab, ["policy={name: lymdo, V: 1e-3}"])
    assert topology.policy.options["V"] == 1e-3
    assert load(lab, ["policy=lymdo", "policy.V=1e-2"]).policy.options["V"] == 1e-2
    assert load(lab, ["seed=010"]).seed == 10


@pytest.mark.parametrize("override", ["slot=[1", "slot={", "slot='", "policy.V=\t- a: b: c", "slot=" + "[" * 3000])
def test_an_override_that_is_no_yaml(tmp_path: Path, override: str) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text(BASE.read_text())
    with pytest.raises(InputError, match=r"--set (slot|policy\.V): not a value"):
        load(lab, [override])


def test_an_override_that_goes_down_for_ever(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text(BASE.read_text())
    with pytest.raises(InputError, match="too deep"):
        load(lab, ["policy." + "a." * 5000 + "b=1"])


@pytest.mark.parametrize("content", [b"\xff\xfe\x00name", b"name: \x00", b"\xe9"])
def test_a_lab_file_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_bytes(content)
    with pytest.raises(InputError, match=r"lab.yaml: not a text file"):
        load(lab)


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_bytes(b"\xef\xbb\xbf" + BASE.read_bytes())
    assert load(lab).name == load(BASE).name


def test_policy_options_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.cli.policy.Lab.find", lambda _name: None)
    result = CliRunner().invoke(policy, ["set", "lymdo", "V=[1"])
    assert isinstance(result.exception, InputError)
    assert "policy set, option V: not a value" in str(result.exception)


@pytest.mark.parametrize(("value", "says"), [("5", "no unit"), ("1", "no unit"), ("500 %", "at most 100 %")])
def test_link_set_refuses_a_loss_that_cannot_be(value: str, says: str) -> None:
    result = CliRunner().invoke(link, ["set", "ue1", "--loss", value])
    assert result.exit_code == 2
    assert says in result.output


def test_no_infinity_in_a_lab(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text(BASE.read_text())
    for override in ("edge.cpus=.inf", "ues.0.speed='inf'", "ues.0.weight=1e300"):
        with pytest.raises(InputError):
            load(lab, [override])
    assert math.isfinite(load(lab).edge.cpus)
