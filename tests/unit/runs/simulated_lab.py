"""Simulations of a shipped lab, for tests."""

from __future__ import annotations

from pathlib import Path

from controller.simulator.result import Mode
from testbed.lab.simulate import SimulationOrder, simulate_lab
from testbed.labfile.load import load
from testbed.report.summary import Summary

LAB = Path(__file__).resolve().parents[3] / "topologies" / "lymdo.yaml"


def simulated(folder: Path, *overrides: str, slots: int = 20, mode: Mode = "event") -> Summary:
    """``topologies/lymdo.yaml`` with policy edge-only unless an override names another."""
    topology = load(LAB, ["policy=edge-only", *overrides])
    return simulate_lab(SimulationOrder(topology, str(LAB), LAB.parent, folder, slots, mode), lambda _text: None)
