"""Panels and dashboards as data, and Grafana's JSON of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "testbed-prometheus"}
#: Fills every query: the run (and through it lab and policy) is a variable of the dashboard.
SELECT = 'run=~"$run"'
COLUMNS = 24
HEIGHT = 8


@dataclass(frozen=True)
class Query:
    expression: str  # with {S} where the selector goes
    legend: str


@dataclass(frozen=True)
class Panel:
    """A time series over several queries, or (``kind`` "stat") its last values."""

    title: str
    unit: str  # Grafana's id
    queries: tuple[Query, ...]
    text: str = ""
    width: int = 12
    kind: str = "timeseries"
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    panels: tuple[Panel, ...]


def quantile_query(quantile: float, metric: str, by: str = "") -> str:
    labels = ", ".join(part for part in ("run", by, "le") if part)
    return f"histogram_quantile({quantile:.2f}, sum by ({labels}) (rate({metric}_bucket{{S}}[30s])))"


def to_json(dashboard: Dashboard) -> dict[str, Any]:
    """Grafana's dashboard model (schema 39)."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["testbed"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "1s",
        "time": {"from": "now-5m", "to": "now"},
        "timepicker": {"refresh_intervals": ["1s", "5s", "30s"]},
        "links": [{"type": "dashboards", "tags": ["testbed"], "title": "", "keepTime": True, "includeVars": True}],
        "templating": {"list": [_run_variable()]},
        "annotations": {"list": [_alerts()]},
        "panels": _lay_out(dashboard.panels),
    }


def _run_variable() -> dict[str, Any]:
    query = "label_values(testbed_build_info, run)"
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": "run"},
        "definition": query,
        "refresh": 2,
        "sort": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'ALERTS{{alertstate="firing",{SELECT}}}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{ue}}",
    }


def _lay_out(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    placed = []
    x = y = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > COLUMNS:
            x, y = 0, y + HEIGHT
        placed.append(_panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": HEIGHT}))
        x += panel.width
    return placed


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    if panel.stacked:
        custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40}
    is_stat = panel.kind == "stat"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {} if is_stat else custom}, "overrides": []},
        "options": {"textMode": "value_and_name"} if is_stat else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": _with_selector(query.expression),
                "legendFormat": query.legend,
                "range": not is_stat,
                "instant": is_stat,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _with_selector(expression: str) -> str:
    return expression.replace("{{S}", "{" + SELECT).replace("{S}", "{" + SELECT + "}")
