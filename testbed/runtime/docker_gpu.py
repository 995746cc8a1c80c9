"""Whether the edge's container gets a GPU."""

from __future__ import annotations

from typing import Literal

import docker
from docker.types import DeviceRequest

from testbed.errors import HostError

GpuMode = Literal["auto", "required", "off"]


def offers_nvidia(client: docker.DockerClient) -> bool:
    """Whether the engine can hand an NVIDIA device to a container: a runtime of that name, or a CDI device."""
    information = client.info()
    devices = information.get("DiscoveredDevices") or []
    return "nvidia" in information.get("Runtimes", {}) or any(
        str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in devices
    )


def wants_gpu(client: docker.DockerClient, mode: GpuMode) -> bool:
    """Decide ``gpu: auto|required|off`` on this engine. Raises HostError when one is required and none is offered."""
    if mode == "off":
        return False
    offered = offers_nvidia(client)
    if mode == "required" and not offered:
        raise HostError(
            "The lab's edge requires a GPU (`gpu: required`)",
            missing="a Docker Engine that offers NVIDIA devices",
            fix="Install NVIDIA's driver and container toolkit (`nvidia-ctk runtime configure`), or write `gpu: auto`.",
        )
    return offered


def device_request() -> DeviceRequest:
    """One GPU, with the libraries that computing needs."""
    return DeviceRequest(count=1, capabilities=[["gpu", "compute", "utility"]])
