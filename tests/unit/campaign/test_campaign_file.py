"""Campaign files: what varies, what is refused and in which words, and which points come of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from campaigns import LAB, ROOT, SMALL, written
from testbed.campaign.load import load_campaign
from testbed.campaign.points import overrides_of, points_of
from testbed.campaign.prepare import prepare
from testbed.campaign.schema import label_of
from testbed.campaign.store import Store
from testbed.cli.campaign import command
from testbed.errors import InputError


@pytest.mark.parametrize("path", sorted((ROOT / "campaigns").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_campaigns_are_valid(path: Path) -> None:
    campaign = load_campaign(path)
    assert campaign.spec.name == path.stem
    assert all(point.file.is_file() for point in points_of(campaign))


def test_points_are_all_combinations(tmp_path: Path) -> None:
    points = points_of(load_campaign(written(tmp_path)))
    assert len(points) == 8
    assert points[0].settings == {"policy": "edge-only", "radio.uplink": "8 MHz", "seed": "1"}
    assert points[0].overrides == ('policy="edge-only"', 'radio.uplink="8 MHz"', "seed=1")
    assert points[-1].settings == {"policy": "device-only", "radio.uplink": "16 MHz", "seed": "2"}


def test_zipped_values_go_together(tmp_path: Path) -> None:
    text = SMALL.replace(
        "  seed: 1..2", "  radio.downlink: [1 MHz, 3 MHz]\n  seed: 1..2\nzip: [radio.uplink, radio.downlink]"
    )
    points = points_of(load_campaign(written(tmp_path, text)))
    pairs = {(point.settings["radio.uplink"], point.settings["radio.downlink"]) for point in points}
    assert len(points) == 8
    assert pairs == {("8 MHz", "1 MHz"), ("16 MHz", "3 MHz")}


def test_both_places_and_several_labs(tmp_path: Path) -> None:
    text = SMALL.replace(f"lab: {LAB}", f"lab: [{LAB}, other.yaml]\nwhere: both")
    points = points_of(load_campaign(written(tmp_path, text)))
    assert len(points) == 32
    assert {(point.where, point.lab) for point in points} == {
        (where, lab) for where in ("lab", "simulator") for lab in (str(LAB), "other.yaml")
    }


def test_policies_come_first_and_with_their_options() -> None:
    assert overrides_of({"slot": "1 s", "policy": {"name": "lymdo", "V": 2}}) == (
        'policy="lymdo"',
        "policy.V=2",
        'slot="1 s"',
    )
    assert label_of({"name": "lymdo", "V": 2}) == "lymdo (V=2)"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("slots: 5", "slotz: 5", ["unknown key 'slotz'", "Did you mean 'slots'?"]),
        ("slots: 5", "", ["either 'slots' or 'duration'"]),
        ("slots: 5", "slots: 0", ["key 'slots'", "got 0"]),
        ("slots: 5", "slots: 5\nduration: 5 s", ["either 'slots' or 'duration'"]),
        ("slots: 5", "slots: 5\nwhere: cloud", ["key 'where'", "'cloud'", "'simulator'"]),
        ("slots: 5", "slots: 5\nzip: [seed, slot]", ["'zip' names 'slot'", "radio.uplink"]),
        ("slots: 5", "slots: 5\nzip: [seed]", ["two keys or more"]),
        ("slots: 5", "slots: 5\npair: day", ["'pair' names 'day'"]),
        ("slots: 5", "slots: 5\nbaseline: lymdo", ["'lymdo' is none of the policies: edge-only, device-only"]),
        ("slots: 5", "slots: 5\nset: {seed: 3}", ["'seed' is in 'vary' and in 'set'"]),
        ("seed: 1..2", "seed: 2..1", ["2..1", "no value"]),
        ("seed: 1..2", "seed: []", ["'seed' has no value"]),
        ("seed: 1..2", "seed: [1, 1]", ["'seed' has the value '1' twice"]),
        ("[lines, cdf]", "[pie]", ["key 'figures.0.kind'", "'pie'", "'lines'"]),
        ("[lines, cdf]", "[{kind: lines, of: luck}]", ["no measure 'luck'", "mean_delay_seconds"]),
        ("[lines, cdf]", "[{kind: lines, over: slot}]", ["over 'slot'", "radio.uplink"]),
        ("seed: 1..2", "seed: 1..2\n  slot: [1 s, 2 s]", ["needs 'over', one of: radio.uplink, slot"]),
        ("slots: 5", "slots: 5\ntrain: sometimes", ["key 'train'"]),
        ("vary:", "vary: 3\nx-old:", ["key 'vary'"]),
    ],
)
def test_what_is_refused(tmp_path: Path, old: str, new: str, says: list[str]) -> None:
    path = written(tmp_path, SMALL.replace(old, new))
    with pytest.raises(InputError) as caught:
        load_campaign(path)
    for words in (str(path), *says):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("8 MHz,", "8 MHzz,", ["radio.uplink=8 MHzz", "8 MHzz", "units:"]),
        ("edge-only,", "edge-onyl,", ["policy=edge-onyl", "unknown policy"]),
        ("radio.uplink:", "radio.uplnk:", ["unknown key 'radio.uplnk'", "radio.uplnk=8 MHz"]),
        (str(LAB), "nowhere.yaml", ["no such lab file"]),
        ("slots: 5", "slots: 5\ntrain: each value", ["no policy of this campaign learns"]),
    ],
)
def test_a_lab_that_is_refused_names_its_point_and_nothing_starts(
    tmp_path: Path, old: str, new: str, says: list[str]
) -> None:
    path = written(tmp_path, SMALL.replace(old, new))
    out = tmp_path / "out"
    result = CliRunner().invoke(command, ["run", str(path), "--out", str(out)])
    assert isinstance(result.exception, InputError)
    for words in (str(path), *says):
        assert words in str(result.exception)
    assert not out.exists()


def test_a_policy_is_trained_once_per_value(tmp_path: Path) -> None:
    text = SMALL.replace("[edge-only, device-only]", "[edge-only, lymdo]") + "train: {updates: 10}\n"
    campaign = load_campaign(written(tmp_path, text))
    tasks = prepare(campaign, Store(tmp_path / "out"), lambda _text: None, measure=False)
    trained = [task for task in tasks if task.training is not None]
    assert [task.point.settings["policy"] for task in trained] == ["lymdo"] * 4
    assert len({task.training.key for task in trained if task.training}) == 2  # of two spectra, for both seeds
    assert all("checkpoint.npz" in task.job.overrides[-1] for task in trained)
