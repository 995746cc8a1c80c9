"""Whether the edge's container gets a GPU, and how it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import docker
from docker.types import DeviceRequest

from testbed.errors import HostError
from testbed.runtime.docker.client import connect
from testbed.runtime.host.gpu import GpuMode

#: CUDA compiles kernels that a wheel has not for its GPU, and the container's root is read-only.
CUDA_ENVIRONMENT: Mapping[str, str] = {"CUDA_CACHE_PATH": "/tmp/cuda"}


def device_request(information: Mapping[str, Any]) -> DeviceRequest | None:
    """The first GPU, by what the engine says of itself (``docker info``); None where it offers no NVIDIA device.

    An engine with NVIDIA's runtime (20.10 and newer) finds the device itself; one that only knows devices by CDI
    (28 and newer) has to be told its name.
    """
    if "nvidia" in (information.get("Runtimes") or {}):
        return DeviceRequest(count=1, capabilities=[["gpu", "compute", "utility"]])
    names = [str(device.get("ID", "")) for device in information.get("DiscoveredDevices") or []]
    gpus = sorted(name for name in names if name.startswith("nvidia.com/gpu=") and not name.endswith("=all"))
    return DeviceRequest(driver="cdi", device_ids=gpus[:1]) if gpus else None


def wanted_device(client: docker.DockerClient, mode: GpuMode) -> DeviceRequest | None:
    """Decide ``gpu: auto|required|off`` on this engine. Raises HostError when one is required and none is offered."""
    if mode == "off":
        return None
    request = device_request(client.info())
    if mode == "required" and request is None:
        raise HostError(
            "The lab's edge requires a GPU (`gpu: required`)",
            missing="a Docker Engine that offers NVIDIA devices",
            fix="Install NVIDIA's driver and container toolkit (`nvidia-ctk runtime configure`), or write `gpu: auto`.",
        )
    return request


def check_engine(mode: GpuMode) -> None:
    """Raises HostError when the lab requires a GPU that containers of this host's engine cannot have."""
    if mode == "required":
        client = connect()
        try:
            wanted_device(client, mode)
        finally:
            client.close()
