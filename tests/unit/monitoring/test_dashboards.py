"""Every panel of every dashboard, asked of a real Prometheus."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from testbed.monitoring.dashboards import DASHBOARDS
from testbed.monitoring.panels import to_json
from testbed.programs.exporter.metrics import METRICS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "grafana" / "dashboards"


def queries() -> list[tuple[str, str]]:
    """(where, query) of all targets in the committed files, variables filled."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                where = f"{path.stem}: {panel['title']} {target['refId']}"
                found.append((where, target["expr"].replace("$run", "run-1")))
    return found


def exported_names(text: str) -> set[str]:
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    return {family for family in families if not family.endswith("_created")}


@pytest.fixture(scope="session")
def exposition(watched: Any) -> str:
    with urllib.request.urlopen(watched.exporter_url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.thorough
@pytest.mark.parametrize(("where", "query"), queries(), ids=[where for where, _ in queries()])
def test_every_panel_shows_data(watched: Any, where: str, query: str) -> None:
    assert watched.await_data(query), f"{where} is empty: {query}"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_committed_dashboards_are_the_generated_ones(name: str) -> None:
    assert json.loads((FOLDER / name).read_text()) == to_json(DASHBOARDS[name]), (
        "run: python -m testbed.monitoring.dashboards grafana/dashboards"
    )


def test_every_panel_has_an_own_place_and_number() -> None:
    for dashboard in DASHBOARDS.values():
        panels = to_json(dashboard)["panels"]
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert len({panel["id"] for panel in panels}) == len(panels)


def test_panels_name_only_the_provisioned_datasource() -> None:
    provisioned = (ROOT / "grafana/provisioning/datasources/testbed.yml").read_text()
    for path in FOLDER.glob("*.json"):
        uids = set(re.findall(r'"uid": "(testbed-prometheus[^"]*)"', path.read_text()))
        assert uids == {"testbed-prometheus"}
    assert "uid: testbed-prometheus" in provisioned


def test_every_metric_that_a_panel_or_a_rule_names_is_declared() -> None:
    rules = (ROOT / "grafana/rules.yml").read_text()
    named = set(re.findall(r"\btestbed_[a-z0-9_]+", " ".join(query for _, query in queries()) + rules))
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    known = {metric.series + end for metric in METRICS for end in parts.get(metric.kind, ("",))}
    assert named
    assert named - known == set()


@pytest.mark.thorough
def test_what_is_exported_is_what_is_declared(exposition: str) -> None:
    """The table of docs/monitoring.md follows from the same rows."""
    assert exported_names(exposition) == {metric.series for metric in METRICS}


@pytest.mark.thorough
def test_targets_carry_lab_run_and_policy(watched: Any) -> None:
    (series,) = watched.await_data("testbed_slot_seconds")
    assert {key: series["metric"][key] for key in ("lab", "run", "policy")} == {
        "lab": "mon-test",
        "run": "run-1",
        "policy": "lymdo",
    }
