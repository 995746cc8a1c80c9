"""Become a foreign program: it is then started, found, logged and ended like every other process of the lab."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.protocol.configs import read_config
from testbed.protocol.monitoring import CommandConfig
from testbed.runtime.processes.identity import CONTAINER_UID


def main(config_path: str | Path) -> None:
    config = read_config(Path(config_path), CommandConfig)
    os.nice(10)  # watching must not disturb what is watched
    os.environ.update(config.environment)
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # before: the folders above may be closed to that user
    if os.geteuid() == 0:
        _drop_root(folder)
    os.execvp(config.arguments[0], config.arguments)


def _drop_root(folder: Path) -> None:
    """Go on as a user who owns nothing but the program's own folder: these programs answer to the network."""
    for path in (folder, *folder.rglob("*")):  # what an earlier run of it left may be root's
        os.chown(path, CONTAINER_UID, CONTAINER_UID, follow_symlinks=False)
    os.setgroups([])
    os.setgid(CONTAINER_UID)
    os.setuid(CONTAINER_UID)
    os.environ["HOME"] = "/"
