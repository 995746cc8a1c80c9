"""docs/campaigns.md: its example runs, and it names every key, measure and kind of figure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from campaigns import ROOT, written
from testbed.campaign.measures import MEASURES
from testbed.campaign.schema import CampaignSpec
from testbed.cli.campaign import command

PAGE = (ROOT / "docs" / "campaigns.md").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_the_example(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found is not None
    (tmp_path / "topologies").symlink_to(ROOT / "topologies")
    out = tmp_path / "out"
    arguments = [str(written(tmp_path, found[1])), "--out", str(out)]
    plan = CliRunner().invoke(command, ["plan", *arguments], catch_exceptions=False).stdout
    assert "12 points; to be computed: 12 simulator" in plan
    assert not out.exists()
    table = CliRunner().invoke(command, ["run", *arguments], catch_exceptions=False).stdout
    assert "mean E2E delay [ms]" in table
    for folder, names in {
        "tables": {f"{name}.{kind}" for name in ("means", "differences") for kind in ("csv", "md", "tex")},
        "figures": {
            f"{name}.{kind}"
            for name in (
                "mean_delay_seconds-over-radio_uplink",
                "delay-cdf-radio_uplink-4_MHz",
                "delay-cdf-radio_uplink-8_MHz",
            )
            for kind in ("csv", "pdf", "png")
        },
    }.items():
        assert {path.name for path in (out / folder).iterdir()} == names
    plan = CliRunner().invoke(command, ["plan", *arguments], catch_exceptions=False).stdout
    assert "to be computed: nothing; about 0 s left" in plan
    again = CliRunner().invoke(command, ["figures", *arguments], catch_exceptions=False)
    assert again.stdout == table


def test_it_names_what_there_is() -> None:
    for key in CampaignSpec.model_fields:
        assert re.search(rf"^\| .*`{key}`.* \|", PAGE, flags=re.MULTILINE), key
    for name in MEASURES:
        assert name in PAGE.replace("`p50_…`", "p50_delay_seconds").replace("`p95_…`", "p95_delay_seconds"), name
