"""The program of the edge: which service and parts a lab asks for."""

from __future__ import annotations

from pathlib import Path

from testbed.mechanisms.retraining.edge_part import Retraining
from testbed.mechanisms.uploading.edge_service import UploadService, load_models
from testbed.node.edge_node import EdgeNode, EdgePart
from testbed.node.process import serve
from testbed.programs.edge.edge_agent import EdgeAgent
from testbed.programs.edge.edge_backends import load_backends
from testbed.programs.edge.edge_tails import TailService
from testbed.protocol.configs import EdgeConfig, read_config


def main(config_path: str | Path) -> None:
    """Serve until Stop or SIGTERM. Raises what a missing or malformed config or profile raises."""
    config = read_config(Path(config_path), EdgeConfig)
    serve(config, lambda: make(config))


def make(config: EdgeConfig) -> EdgeAgent:
    """The agent of a lab that starts with or without the models."""
    if config.uploading is not None:
        models = load_models(config)
        node = EdgeNode(config, largest_result_bytes=0)
        return EdgeAgent(node, UploadService(node, config.uploading, models), ())
    backends, device = load_backends(config)
    node = EdgeNode(config, max((one.profile.result_bytes for one in backends.values()), default=0))
    parts: list[EdgePart] = []
    if config.retraining_interval_seconds:
        parts.append(Retraining(node, {ue: one.split for ue, one in backends.items()}))
    return EdgeAgent(node, TailService(node, backends, device), parts)
