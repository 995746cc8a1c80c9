"""What the UEs of a lab are fed with, and what that costs their devices."""

from __future__ import annotations

from collections.abc import Mapping

from controller.contract import ModelProfile
from testbed.inputs.source import Inputs
from testbed.inputs.store import inputs_of
from testbed.labfile.scenario import profile_key
from testbed.labfile.schema import Topology


def inputs_by_ue(topology: Topology, profiles: Mapping[str, ModelProfile]) -> dict[str, Inputs]:
    """Decoded inputs of those UEs that have any but random ones. Raises InputError.

    ``profiles`` by :func:`profile_key`; images are decoded in colour for a model of which there is none yet.
    """
    found: dict[str, Inputs] = {}
    for ue in topology.expand():
        if ue.input is not None:
            profile = profiles.get(profile_key(ue))
            shape = () if profile is None else profile.nodes[0].output_shape
            channels = shape[1] if len(shape) == 4 else 3  # what takes no images is refused with its model
            found[ue.name] = inputs_of(ue.input.source, channels)
    return found


def with_resized_inputs(
    topology: Topology, profiles: Mapping[str, ModelProfile], inputs: Mapping[str, Inputs]
) -> dict[str, ModelProfile]:
    """The profiles as they are for devices that resize their inputs to what the model takes."""
    resized = dict(profiles)
    for ue in topology.expand():
        key = profile_key(ue)
        if ue.name in inputs and resized[key] is profiles[key]:
            _, channels, height, width = inputs[ue.name].shape
            target = profiles[key].nodes[0].output_shape
            if len(target) == 4 and (height, width) != (target[2], target[3]):
                from testbed.inference.resizing import resize_seconds, with_resizing  # imports torch

                seconds = resize_seconds(channels, (height, width), (target[2], target[3]))
                resized[key] = with_resizing(profiles[key], seconds)
    return resized
