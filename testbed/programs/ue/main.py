"""The program of a UE: which agent a lab asks for."""

from __future__ import annotations

from pathlib import Path

from testbed.node.process import serve
from testbed.programs.ue.ue_agent import UeAgent
from testbed.programs.ue.ue_upload import UploadUeAgent
from testbed.protocol.configs import UeConfig, read_config


def main(config_path: str | Path) -> None:
    """Serve until Stop or SIGTERM. Raises what a missing or malformed config or profile raises."""
    config = read_config(Path(config_path), UeConfig)
    serve(config, lambda: make(config))


def make(config: UeConfig) -> UeAgent:
    """The agent of a lab whose edge starts with or without the models."""
    return UeAgent(config) if config.uploading is None else UploadUeAgent(config)
