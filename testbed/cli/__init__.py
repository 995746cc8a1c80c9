"""The command line: one file per verb, flags in, text or JSON out, no logic."""

from __future__ import annotations

from testbed.cli.main import main

__all__ = ["main"]
