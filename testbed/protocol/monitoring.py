"""What the monitoring programs of a lab are told."""

from __future__ import annotations

import msgspec

from testbed.protocol.configs import Config

EXPORTER, PROMETHEUS, GRAFANA = MONITORING_NODES = ("exporter", "prometheus", "grafana")


class ExporterConfig(Config, frozen=True):
    policy: str
    scenario_path: str  # controller.contract.Scenario as JSON: UE names, budgets, slot
    targets_path: str  # written once the exporter listens; Prometheus watches it (file_sd)
    port: int = 0  # on 127.0.0.1; 0: any free one


class CommandConfig(Config, frozen=True):
    """A foreign program (Prometheus, Grafana) that runs as a process of the lab."""

    arguments: tuple[str, ...]  # the program first
    folder: str  # where it runs, and what it may write to
    environment: dict[str, str] = msgspec.field(default_factory=dict)
