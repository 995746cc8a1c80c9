"""Become a foreign program: it is then started, found, logged and ended like every other process of the lab."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.configs import read_config
from testbed.monitoring.config import CommandConfig


def main(config_path: str | Path) -> None:
    config = read_config(Path(config_path), CommandConfig)
    os.nice(10)  # watching must not disturb what is watched
    os.environ.update(config.environment)
    os.execvp(config.arguments[0], config.arguments)
