from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from testbed.errors import InputError
from testbed.inference import calibration
from testbed.inference.calibration import Calibration, Spread

HERE = Path(__file__).parent


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def _measured(*models: str) -> Calibration:
    return calibration.measure(
        models,
        cpu="a cpu",
        cores=2,
        realtime=False,
        progress=lambda text, ratio: None,
        python_path=(HERE,),
        kernel_repetitions=5,
        model_repetitions=3,
    )


def test_it_times_kernel_and_models_and_survives_its_file(state: Path) -> None:
    found = _measured("branching:Branching")
    spreads = {"kernel": found.kernel, **found.models}
    assert {name: spread.n for name, spread in spreads.items()} == {"kernel": 5, "branching:Branching": 3}
    for spread in spreads.values():
        assert 0 < spread.p50_seconds <= spread.p90_seconds <= spread.p99_seconds
    path = calibration.calibration_path()
    assert path.is_relative_to(state)
    calibration.write_calibration(found, path)
    assert calibration.calibration_of("a cpu") == (found, "")


def test_the_kernel_does_the_multiply_accumulates_that_it_claims() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    run = calibration.make_kernel()
    with FlopCounterMode(display=False) as counter, pytest.MonkeyPatch.context() as patch:
        # the counter does not see operations in inference mode
        patch.setattr(torch, "inference_mode", torch.no_grad)
        run()
    assert counter.get_total_flops() == 2 * calibration.KERNEL_MACS


def test_a_host_without_one_says_what_to_do(state: Path) -> None:
    found, reason = calibration.calibration_of("a cpu")
    assert found is None
    assert "testbed doctor --calibrate" in reason


@pytest.mark.parametrize(
    ("change", "words"),
    [({"cpu": "another"}, "another"), ({"calibration_version": 99}, "another version"), ({"kernel": 3}, "calibration")],
)
def test_one_that_is_not_of_this_host_or_version_counts_as_none(
    state: Path, change: dict[str, object], words: str
) -> None:
    spread = Spread(300, 0.005, 0.0052, 0.006)
    good = Calibration(1, 1, 1, spread, {}, 0.5, True, 0.02, "a cpu", 2, "2.0", "2026-01-01T00:00:00+00:00")
    path = calibration.calibration_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(good) | change))
    found, reason = calibration.calibration_of("a cpu")
    assert found is None
    assert words in reason
    if "cpu" not in change:
        with pytest.raises(InputError, match=str(path.name)):
            calibration.read_calibration(path)
