"""Random but plausible lab files, traces, arrival files and notations: one paragraph or a lab, never a traceback.

Wherever the files of a UE are off by a thousand, somebody says so.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from controller.policies import registry
from controller.simulator.result import SimulationResult
from controller.simulator.simulate import simulate as run_simulator
from testbed.cli.trace import command as trace
from testbed.cli.validate import command as validate
from testbed.errors import TestbedError
from testbed.lab.simulate import channel_states, require_bounded
from testbed.labfile.load import load
from testbed.labfile.resolve import resolve

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
PROFILE = str(TOPOLOGIES / "profiles" / "mobilenet_v2.json")
#: What one example costs is mostly the reading of files.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def outcome(command: Any, *arguments: str) -> tuple[int, str]:
    """Exit code and everything that was said. Fails where a traceback would have come."""
    result = CliRunner().invoke(command, list(arguments))
    error = result.exception
    if error is None or isinstance(error, SystemExit):
        return result.exit_code, result.output
    assert isinstance(error, TestbedError), f"{type(error).__name__}: {error} for {arguments}"
    assert "\n" not in str(error)
    return error.exit_code, str(error)


# ----------------------------------------------------------------------------------------------------------- lab files

NUMBERS = st.one_of(
    st.sampled_from(
        ["0", "1", "-1", "1e-3", "1E3", "0.5", ".5", "5.", "1e999", "1,5", "1_000", "010", "0x10", "nan", ".inf"]
    ),
    st.floats(-1e12, 1e12).map(repr),
    st.integers(-(10**20), 10**20).map(str),
)
_UNITS = " s|ms| us| Mbit/s|kbit/s| mbps| MHz| Hz| W| dBm| dBm/Hz| %|%| dB| m| km| /s| J| MB| min| |s s| µs"
UNITS = st.sampled_from(["", *_UNITS.split("|")])
TEXTS = st.one_of(
    st.builds(lambda number, unit: number + unit, NUMBERS, UNITS),
    st.sampled_from(["off", "on", "yes", "~", "", "[]", "{}", "[1", "{a: 1}", "'1'", "lab-", "../x", "&a [*a]"]),
    st.text(max_size=6),
)
_KEYS = """
    name seed slot model profile codec.boundary edge.cpus edge.memory edge.power radio.uplink radio.noise radio.access
    radio.subchannels radio.sic_residual radio.isolation task_timeout policy policy.V policy.cut ues ues.0 ues.0.name
    ues.0.count ues.0.speed ues.0.power ues.0.weight ues.0.energy_budget ues.0.arrivals ues.0.arrivals.rate
    ues.0.channel.distance ues.0.channel.doppler ues.0.channel.k_factor ues.0.channel.shadowing ues.0.channel.step
    ues.0.link ues.0.link.delay ues.0.link.jitter ues.0.link.loss ues.0.link.floor ues.0.link.gilbert_elliott retraining
    uploading x-mine host.cpusets monitoring.grafana ues.7.speed slot.x nowhere
"""
KEYS = st.sampled_from(_KEYS.split())


@PATIENT
@given(st.lists(st.tuples(KEYS, TEXTS), min_size=1, max_size=3))
def test_any_override_is_a_lab_or_one_paragraph(overrides: list[tuple[str, str]]) -> None:
    sets = [f"{key}={text}" for key, text in overrides]
    assume(not any("\0" in text for text in sets))
    code, _ = outcome(
        validate, str(TOPOLOGIES / "quickstart.yaml"), *(word for text in sets for word in ("--set", text))
    )
    assert code in (0, 2)


@PATIENT
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_any_damage_to_a_lab_file_is_a_lab_or_one_paragraph(tmp_path: Path, rng: random.Random, changes: int) -> None:
    lines = (TOPOLOGIES / rng.choice(["quickstart.yaml", "lymdo.yaml", "placement.yaml"])).read_text().splitlines()
    for _ in range(changes):
        at = rng.randrange(len(lines))
        line = lines[at]
        lines[at : at + 1] = rng.choice([
            [], [line, line], [line[: rng.randrange(len(line) + 1)]], [line.replace(":", "", 1)], ["\t" + line],
            ["  " + line], [line.replace(" ", "\u00a0")], [line + " &a"], [line + " *a"], ["- " + line], ["---", line],
            [line.replace("{", "[")], ["\ufeff" + line], [line + rng.choice("{}[]'\"%@`|>!")],
        ])  # fmt: skip
        lines = lines or [""]
    file = tmp_path / "lab.yaml"
    file.write_text("\n".join(lines).replace("profiles/", f"{TOPOLOGIES}/profiles/"), encoding="utf-8")
    code, _ = outcome(validate, str(file))
    assert code in (0, 2)


# -------------------------------------------------------------------------------------------------- units of a thousand


def _lab(folder: Path, **ue: object) -> str:
    given = {
        "name": "plausible",
        "slot": "0.5 s",
        "model": "torchvision:mobilenet_v2",
        "profile": PROFILE,
        "edge": {"cpus": 0.5, "gpu": "off"},
        "ues": [
            {
                "name": "ue",
                "arrivals": {"process": "periodic", "rate": "1 /s"},
                "channel": {"fading": "static", "distance": "100 m"},
                **ue,
            }
        ],
        "policy": "edge-only",
    }
    (folder / "lab.yaml").write_text(yaml.safe_dump(given))
    return str(folder / "lab.yaml")


@PATIENT
@given(
    st.lists(st.floats(5e5, 5e7), min_size=2, max_size=40),
    st.sampled_from([1.0, 1e3, 1e6]),
    st.sampled_from(["{:.0f}", "{:.6g}", "{:e}", "{!r}"]),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
    st.sampled_from(["", "\ufeff"]),
)
def test_rates_in_other_units_never_pass_in_silence(
    tmp_path: Path, rates: list[float], divisor: float, notation: str, end: str, mark: str
) -> None:
    rows = [f"{n},{notation.format(rate / divisor)},{notation.format(rate / divisor)}" for n, rate in enumerate(rates)]
    text = mark + end.join(["time_seconds,up,down", *rows]) + end
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    file = _lab(tmp_path, channel={"trace": "t.csv", "kind": "rate"})
    code, said = outcome(validate, file)
    if divisor == 1:
        assert code == 0
        assert "warning: ues.0.channel" not in said
    else:
        assert "outage floor" in said
        assert "multiply" in said or "nothing can ever pass" in said
    shown = outcome(trace, "show", str(tmp_path / "t.csv"), "--kind", "rate")
    assert ("outage floor" in shown[1]) == (divisor != 1)


@PATIENT
@given(
    st.lists(st.floats(0.05, 3.0), min_size=5, max_size=60),
    st.sampled_from([0.0, 1.7e9]),
    st.sampled_from([1.0, 1e3, 1e6]),
)
def test_arrivals_in_other_units_never_pass_in_silence(
    tmp_path: Path, gaps: list[float], origin: float, factor: float
) -> None:
    assume(np.mean(gaps) > 0.1)
    times = origin + np.cumsum(gaps)
    (tmp_path / "times.txt").write_text("".join(f"{time * factor:.6f}\n" for time in times))
    file = _lab(tmp_path, arrivals={"process": "file", "file": "times.txt"})
    code, said = outcome(validate, file)
    if factor == 1:
        assert code == 0
        assert ("since 1970" in said) == (origin > 0)
        assert "divide" not in said
        slots = int(np.ceil((times[-1] - origin) / 0.5)) + 1
        assert simulated(Path(file), slots).arrivals.sum() == times.size
    else:
        assert "divide" in said
        assert code == (2 if origin else 0)


@PATIENT
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=200).filter(any),
    st.sampled_from([1, 1000]),
    st.sampled_from(["t.up", "t.trace", "t.pps"]),
)
def test_mahimahi_files_are_simulated_or_refused(tmp_path: Path, gaps: list[int], factor: int, name: str) -> None:
    times = np.cumsum(gaps) * factor
    (tmp_path / name).write_text("".join(f"{time}\n" for time in times))
    file = _lab(tmp_path, channel={"trace": name, "kind": "rate"})
    code, said = outcome(validate, file)
    rate = times.size * 1504 * 8 / (times[-1] / 1e3)
    if code == 0 and rate < 50e3:
        assert "times in ms" in said
    if code == 0:
        result = simulated(Path(file))
        assert np.all(np.isfinite(result.rate_up_bits_per_second))
        assert result.rate_up_bits_per_second.max() <= 1504 * 8 * times.size / 1e-3


def simulated(file: Path, slots: int = 20) -> SimulationResult:
    """As `testbed simulate` does, in memory."""
    topology = load(file)
    duration = slots * topology.slot
    resolved = resolve(topology, str(file), file.parent, duration, lambda _text: None)
    require_bounded(topology, slots)
    return run_simulator(
        resolved.scenario,
        registry.create(topology.policy.name, topology.policy.options),
        slots,
        topology.seed,
        "event",
        channel_states(topology, resolved.traces, duration),
        arrival_files=resolved.arrival_times(),
    )


@PATIENT
@given(st.binary(max_size=60), st.sampled_from(["t.csv", "t.up", "t.log", "times.txt"]))
def test_no_file_is_a_traceback(tmp_path: Path, content: bytes, name: str) -> None:
    head = random.Random(content).choice([b"", b"time_seconds,up,down\n", b"1\n", b"0 1\n", b"# kind=rate\n"])
    (tmp_path / name).write_bytes(head + content)
    if name == "times.txt":
        file = _lab(tmp_path, arrivals={"process": "file", "file": name})
    else:
        file = _lab(tmp_path, channel={"trace": name, "kind": "rate"})
    assert outcome(validate, file)[0] in (0, 2)
    assert outcome(trace, "import", str(tmp_path / name), "--out", str(tmp_path / "out.csv"))[0] in (0, 2)


@pytest.mark.parametrize("loss", ["0", "1 %", "100 %"])
def test_ratios_that_are_written_out_are_taken(loss: str) -> None:
    code, said = outcome(validate, str(TOPOLOGIES / "quickstart.yaml"), "--set", f"ues.0.link.loss={loss}")
    assert code == 0, said
