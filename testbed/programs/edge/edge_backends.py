"""The backends of an edge: one for all UEs of a model and profile, on the device that the lab asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from testbed.errors import first_line
from testbed.inference.profiles import read_profile
from testbed.node.backend import CpuBackend
from testbed.node.device_backend import DeviceBackend, DeviceUsage
from testbed.node.devices import Choice, CudaStream, Stream, choose, fall_back
from testbed.protocol.configs import EdgeConfig, EdgeUe

logger = logging.getLogger("testbed.edge")


def load_backends(
    config: EdgeConfig, open_stream: Callable[[], Stream] = CudaStream
) -> tuple[dict[str, CpuBackend], Choice]:
    """(backend by UE, what they compute on), ready to serve.

    With ``gpu: auto`` a device that one of the models does not run on, or answers differently on, is left alone.
    Raises HostError when ``gpu: required`` cannot be had.
    """
    choice = choose(config.gpu, open_stream)
    if choice.stream is not None:
        try:
            return _load(config, choice.stream), choice
        except RuntimeError as error:  # torch's for what the device refuses, and UnfitDeviceError
            choice = fall_back(config.gpu, f"{choice.device} does not do: {first_line(error)}")
    if config.gpu != "off":
        logger.warning("the edge computes on the CPU: %s", choice.reason)
    return _load(config, None), choice


def _load(config: EdgeConfig, stream: Stream | None) -> dict[str, CpuBackend]:
    made: dict[tuple[str, str, str], CpuBackend] = {}
    for ue in config.ues:
        key = _key(ue)
        if key not in made:
            profile = read_profile(Path(ue.profile_path))
            if stream is None:
                made[key] = CpuBackend(ue.model, config.seed, profile, config.lab_folder, ue.weights)
            else:
                made[key] = DeviceBackend(ue.model, config.seed, profile, stream, config.lab_folder, ue.weights)
            made[key].prepare_tails(profile.known_cuts)
    return {ue.name: made[_key(ue)] for ue in config.ues}


def _key(ue: EdgeUe) -> tuple[str, str, str]:
    return ue.model, ue.profile_path, ue.weights.sha256


def usage_of(backends: Mapping[str, CpuBackend]) -> DeviceUsage:
    """What all tails together took of the device; zeros on the CPU."""
    total = DeviceUsage()
    for backend in {id(backend): backend for backend in backends.values()}.values():
        if isinstance(backend, DeviceBackend):
            total += backend.usage
    return total
