"""The program of the edge: which agent a lab asks for."""

from __future__ import annotations

from pathlib import Path

from testbed.node.process import serve
from testbed.programs.edge.edge_agent import EdgeAgent
from testbed.programs.edge.edge_upload import UploadEdgeAgent
from testbed.protocol.configs import EdgeConfig, read_config


def main(config_path: str | Path) -> None:
    """Serve until Stop or SIGTERM. Raises what a missing or malformed config or profile raises."""
    config = read_config(Path(config_path), EdgeConfig)
    serve(config, lambda: make(config))


def make(config: EdgeConfig) -> EdgeAgent:
    """The agent of a lab that starts with or without the models."""
    return EdgeAgent(config) if config.uploading is None else UploadEdgeAgent(config)
