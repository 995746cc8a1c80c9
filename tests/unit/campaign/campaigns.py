"""Campaigns of a shipped lab, for tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LAB = ROOT / "topologies" / "lymdo.yaml"

SMALL = f"""
lab: {LAB}
slots: 5
vary:
  policy: [edge-only, device-only]
  radio.uplink: [8 MHz, 16 MHz]
  seed: 1..2
figures: [lines, cdf]
"""


def written(folder: Path, text: str = SMALL, name: str = "small.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
