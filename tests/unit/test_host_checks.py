"""What a calibrated host refuses and warns of. The tests write the calibrations, so that this host does not matter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from testbed.cli.validate import command as validate
from testbed.errors import HostError
from testbed.inference.calibration import Calibration, Spread, calibration_path, write_calibration
from testbed.inference.profiles import read_profile
from testbed.lab import checks
from testbed.lab.prepare import RunOrder, prepare
from testbed.labfile.load import load
from testbed.labfile.schema import Topology
from testbed.runtime.host.facts import facts

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
MODEL = "torchvision:mobilenet_v2"
PROFILE = read_profile(TOPOLOGIES / "profiles" / "mobilenet_v2.json")
#: what the profiled host took for the whole model
WHOLE_SECONDS = PROFILE.head_seconds[-1] * PROFILE.reference_core.fraction

Calibrate = Callable[..., None]


@pytest.fixture
def calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calibrate:
    """Give this host a calibration: the model so many times as slow as profiled, with that p99 / p50."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def write(slower: float, spread: float = 1.1, model: str = MODEL) -> None:
        def figures(p50: float) -> Spread:
            return Spread(300, p50, p50 * (1 + spread) / 2, p50 * spread)

        models = {model: figures(WHOLE_SECONDS * slower)} if model else {}
        calibration = Calibration(
            1, 1, 1, figures(0.005), models, 0.5, True, 0.02, facts().cpu, facts().cores, "2.0", "2026-01-01T00:00:00"
        )
        write_calibration(calibration, calibration_path())

    return write


def _lab(*overrides: str, name: str = "quickstart") -> Topology:
    return load(TOPOLOGIES / f"{name}.yaml", overrides)


@pytest.mark.parametrize(
    ("slower", "spread", "speed", "refused"),
    [
        # with half a core the margin at speed s is 2 / s, and 1.25 x spread x slowness has to fit in it
        (1.0, 1.1, 1.0, False),
        (1.0, 1.59, 1.0, False),
        (1.0, 1.61, 1.0, True),
        (1.59, 1.0, 1.0, False),
        (1.61, 1.0, 1.0, True),
        (4.0, 1.0, 0.25, False),
        (7.0, 1.0, 0.25, True),
    ],
)
def test_a_lab_is_refused_when_its_slowest_stage_does_not_fit(
    calibrate: Calibrate, slower: float, spread: float, speed: float, refused: bool
) -> None:
    calibrate(slower, spread)
    lab = _lab(f"ues.0.speed={speed}")
    if not refused:
        checks.require_host(lab, "lab.yaml")
        return
    with pytest.raises(
        HostError, match=r"lab\.yaml: this host is too slow.*'ue1'.*Lower that UE's 'speed' to"
    ) as error:
        checks.require_host(lab, "lab.yaml")
    assert error.value.exit_code == 3
    possible = float(str(error.value).split("'speed' to ")[1].split(" ")[0])
    checks.require_host(_lab(f"ues.0.speed={possible}"), "lab.yaml")


def test_a_refused_lab_is_refused_before_anything_is_made(calibrate: Calibrate, tmp_path: Path) -> None:
    calibrate(20.0)
    out = tmp_path / "run"
    with pytest.raises(HostError, match="too slow"):
        prepare(RunOrder(_lab(), "lab.yaml", TOPOLOGIES, "netns", out, 5.0), lambda text: None)
    assert not out.exists()


def test_validate_warns_of_what_run_refuses_once_for_equal_ues(calibrate: Calibrate) -> None:
    calibrate(20.0)
    answer = CliRunner().invoke(validate, [str(TOPOLOGIES / "quickstart.yaml"), "--json"], catch_exceptions=False)
    refusals = [text for text in json.loads(answer.stdout)["warnings"] if "`run` refuses" in text]
    assert len(refusals) == 1
    assert answer.exit_code == 0
    calibrate(1.0)
    answer = CliRunner().invoke(validate, [str(TOPOLOGIES / "quickstart.yaml"), "--json"], catch_exceptions=False)
    assert not any("refuses" in text for text in json.loads(answer.stdout)["warnings"])


def test_tails_are_warned_of_and_not_refused(calibrate: Calibrate) -> None:
    calibrate(1.5)
    lab = _lab("edge.cpus=1.2", "ues.0.speed=0.2")
    checks.require_host(lab, "lab.yaml")
    assert any("tails may overrun" in text for text in checks.host_warnings(lab))


def test_a_host_that_is_not_calibrated_claims_nothing(calibrate: Calibrate) -> None:
    lab = _lab("ues.0.speed=2.0")
    checks.require_host(lab, "lab.yaml")
    record = checks.host_record(lab)
    assert record.calibration == "not_measured"
    assert "doctor --calibrate" in record.calibration_reason
    assert record.tightest == []


def test_a_profile_that_nothing_relates_to_this_host_is_not_judged_and_said_to_be_so(calibrate: Calibrate) -> None:
    calibrate(1.0, model="")
    lab = _lab("ues.0.speed=2.0")
    known = PROFILE.reference_core.host_cpu == facts().cpu
    assert bool(checks.tight_stages(lab, checks.calibration_of(facts().cpu)[0])) == known
    assert any("nothing relates" in text for text in checks.host_warnings(lab)) != known


def test_the_kernel_relates_two_hosts_where_both_have_timed_it(calibrate: Calibrate) -> None:
    import msgspec

    calibrate(1.0, spread=1.2, model="")
    calibration, _ = checks.calibration_of(facts().cpu)
    core = msgspec.structs.replace(PROFILE.reference_core, kernel_seconds=0.004, kernel_version=1)
    scale = checks.host_scale(msgspec.structs.replace(PROFILE, reference_core=core), calibration)
    assert scale is not None
    assert (scale.source, scale.factor, scale.p99_over_p50) == ("kernel", pytest.approx(1.25), pytest.approx(1.2))
    other = msgspec.structs.replace(core, kernel_version=99, host_cpu="another")
    assert checks.host_scale(msgspec.structs.replace(PROFILE, reference_core=other), calibration) is None


def test_the_sum_of_speeds_is_in_cores_of_this_host(calibrate: Calibrate) -> None:
    lab = _lab("edge.cpus=0.8", "ues.0.speed=0.4")
    alone = checks.host_load(lab, None)
    assert alone == pytest.approx((0.8 + 3 * 0.4) * 0.5 / facts().cores)
    calibrate(3.0)
    calibration, _ = checks.calibration_of(facts().cpu)
    assert checks.host_load(lab, calibration) == pytest.approx(3 * alone)
    assert checks.host_record(lab).load_ratio == pytest.approx(3 * alone)
    heavy = _lab(f"edge.cpus={2.0 * facts().cores}")
    assert any("of what this host's" in text for text in checks.warnings(heavy))


def test_a_slow_board_at_speed_1_takes_little_of_the_host(calibrate: Calibrate) -> None:
    lab = _lab(name="odroid-xu4")
    assert lab.ues[0].speed == 1.0
    own, board = (read_profile(TOPOLOGIES / "profiles" / f"{name}.json") for name in ("alexnet", "odroid-xu4-alexnet"))
    for ue in lab.expand():
        busy = checks.busy_reference_cores(ue)
        assert own.head_seconds[-1] / board.head_seconds[-1] <= busy < 0.3
    # the board's target is judged, not the reference core's
    calibrate(1.0, model="torchvision:alexnet")
    stages = checks.tight_stages(lab, checks.calibration_of(facts().cpu)[0])
    heads = [stage for stage in stages if stage.stage == "head"]
    assert all(stage.target_seconds in board.head_seconds for stage in heads)
    assert not any(stage.too_slow for stage in heads)
