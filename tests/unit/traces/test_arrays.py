"""Arrays of channel simulators: the gain of one link over time, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat

from testbed.cli.trace import command
from testbed.errors import InputError
from testbed.traces import Trace, load_trace, read_trace

RNG = np.random.default_rng(0)


def coefficients(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.complex128]]:
    return 1e-6 * (RNG.normal(size=shape) + 1j * RNG.normal(size=shape))


def imported(source: Path, *options: str) -> Trace:
    out = source.with_name("out.csv")
    result = CliRunner().invoke(command, ["import", str(source), *options, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return read_trace(out)


def test_sionnas_impulse_responses(tmp_path: Path) -> None:
    """(receivers, antennas, transmitters, antennas, paths, times): sum over paths, mean over antenna pairs."""
    a = coefficients(2, 2, 1, 3, 5, 7)
    np.save(tmp_path / "a.npy", a)
    with pytest.raises(InputError, match=r"several links.*--index"):
        imported(tmp_path / "a.npy", "--step", "10 ms")
    trace = imported(tmp_path / "a.npy", "--step", "10 ms", "--index", "1")
    np.testing.assert_allclose(trace.up, (np.abs(a[1, :, 0]) ** 2).sum(axis=2).mean(axis=(0, 1)), rtol=1e-8)
    np.testing.assert_array_equal(trace.up, trace.down)
    np.testing.assert_allclose(trace.times_seconds, 0.01 * np.arange(7), atol=1e-12)
    with pytest.raises(InputError, match=r"--index: no such index; got 2; allowed: 0 to 1"):
        imported(tmp_path / "a.npy", "--step", "10 ms", "--index", "2")


def test_sionnas_frequency_responses(tmp_path: Path) -> None:
    h = coefficients(1, 2, 1, 2, 6, 8)
    np.savez(tmp_path / "h.npz", h=h, time=0.5 * np.arange(6))
    trace = imported(tmp_path / "h.npz", "--axes", "time,subcarriers")
    np.testing.assert_allclose(trace.up, (np.abs(h) ** 2).mean(axis=(0, 1, 2, 3, 5)), rtol=1e-8)
    np.testing.assert_allclose(trace.times_seconds, 0.5 * np.arange(6))


def test_quadrigas_coefficients(tmp_path: Path) -> None:
    """(antennas, antennas, paths, snapshots) in a MAT file."""
    coeff = coefficients(2, 2, 4, 6)
    savemat(tmp_path / "channel.mat", {"coeff": coeff})
    trace = imported(tmp_path / "channel.mat", "--step", "0.1 s")
    np.testing.assert_allclose(trace.up, (np.abs(coeff) ** 2).sum(axis=2).mean(axis=(0, 1)), rtol=1e-8)


def test_real_arrays_are_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([[5.0, 80, 90], [6.0, 81, 91], [7.0, 82, 92], [8.0, 83, 93]]))
    trace = imported(tmp_path / "c.npy", "--unit", "dB")
    np.testing.assert_allclose(trace.times_seconds, [0, 1, 2, 3])
    np.testing.assert_allclose(trace.down, [1e-9, 10**-9.1, 10**-9.2, 10**-9.3], rtol=1e-8)
    np.savez(tmp_path / "n.npz", t_ms=np.array([0, 500]), rate=np.array([1.0, 2.0]))
    trace = imported(tmp_path / "n.npz", "--time", "t_ms", "--up", "rate", "--unit", "Mbit/s")
    np.testing.assert_allclose((trace.times_seconds[1], trace.up[1]), (0.5, 2e6))


@pytest.mark.parametrize(
    ("name", "value", "options", "says"),
    [
        ("v.npy", np.ones(4), (), "unit|time"),
        ("v.npy", coefficients(3, 4), (), r"says nothing of time; got '4 steps'.*--step"),
        ("v.npy", np.array([{}], dtype=object), (), "no file of numeric arrays.*np.save"),
        ("v.npy", coefficients(3, 4), ("--step", "1 s", "--axes", "space"), "no axis of time"),
        ("v.npy", 1e6 * coefficients(3, 4), ("--step", "1 s"), "nothing amplifies"),
        ("v.npy", np.ones((2, 3, 4)), ("--step", "1 s", "--unit", "dB"), "3 axes"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, value: np.ndarray, options: tuple[str, ...], says: str) -> None:  # type: ignore[type-arg]
    np.save(tmp_path / name, value, allow_pickle=True)
    with pytest.raises(InputError, match=says):
        imported(tmp_path / name, *options)


@pytest.mark.parametrize("head", [b"\x93NUMPY", b"PK\x03\x04", b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"])
def test_broken_files_are_one_paragraph(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "broken"
    for rest in (b"", b"\0" * 200, bytes(range(256))):
        path.write_bytes(head + rest)
        with pytest.raises(InputError) as caught:
            imported(path, "--step", "1 s")
        assert "\n" not in str(caught.value)


def test_a_lab_that_names_one_is_told_the_command(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", coefficients(3, 4))
    with pytest.raises(InputError, match=r"looks like an array of NumPy: testbed trace import .*a.npy --step STEP"):
        load_trace(tmp_path / "a.npy", "gain")
