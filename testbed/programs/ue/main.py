"""The program of a UE: which device, link and parts a lab asks for."""

from __future__ import annotations

from pathlib import Path

from testbed.mechanisms.delegation.ue_part import Delegation
from testbed.mechanisms.retraining.ue_part import Retraining
from testbed.mechanisms.stopping.ue_part import Stopping, TunedRate
from testbed.mechanisms.uploading.ue_device import UploadDevice, Uploads
from testbed.mechanisms.uploading.ue_link import UploadLink
from testbed.node.process import serve
from testbed.node.ue_node import UeNode
from testbed.programs.ue.head_device import HeadDevice
from testbed.programs.ue.ue_agent import UeAgent
from testbed.programs.ue.ue_uplink import DecidedRate, Uplink
from testbed.protocol.configs import UeConfig, read_config


def main(config_path: str | Path) -> None:
    """Serve until Stop or SIGTERM. Raises what a missing or malformed config or profile raises."""
    config = read_config(Path(config_path), UeConfig)
    serve(config, lambda: make(config))


def make(config: UeConfig) -> UeAgent:
    """The agent of a lab whose edge starts with or without the models."""
    node = UeNode(config)
    if config.uploading is not None:
        link = UploadLink(node, config.uploading)
        parts = [Delegation(node), DecidedRate(node, link.sender.rate), Uploads(link)]
        return UeAgent(node, UploadDevice(node, link), link, parts)
    node.backend.prepare_heads(node.backend.profile.known_cuts)
    uplink = Uplink(
        node.context,
        config.node,
        config.edge_endpoint,
        config.round_trip_seconds,
        config.task_timeout_seconds,
        node.books,
        node.backend.answer_of,
    )
    uplink.silent_seconds = node.silences.seconds
    parts = [Delegation(node), Stopping(node)]
    if config.updates_endpoint:
        parts.append(Retraining(node))
    if config.channel_refresh == "per_task_stage":
        tuned = TunedRate(node, uplink.sender.rate)
        uplink.admit = tuned.admit
        parts.append(tuned)
    else:
        parts.append(DecidedRate(node, uplink.sender.rate))
    device = HeadDevice(
        config, node.backend, node.deadlines, lambda task: node.inbox.post(lambda: uplink.add(task)), parts
    )
    return UeAgent(node, device, uplink, parts)
