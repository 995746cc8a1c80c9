"""A lab file as the simulator takes it: scenario and channel law, without starting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controller.contract import Scenario
from controller.model.channel import Channel, mean_gain
from controller.simulator.channels import ChannelStates
from testbed.inference.profiles import read_profile
from testbed.labfile.channels import channel_of
from testbed.labfile.load import load
from testbed.labfile.scenario import profile_key, scenario_of

SHIPPED = ("lymdo", "lymdo-resnet18", "lymdo-mobilenet_v2")  # that a 2-core host carries
LABS = (*SHIPPED, "lymdo-30ues")
ROOT = Path(__file__).resolve().parents[2] / "topologies"


@dataclass(frozen=True)
class SimulatedLab:
    scenario: Scenario
    channels: tuple[Channel, ...]
    v: float
    checkpoint: str | None

    def channel(self, slots: int, seed: int) -> ChannelStates:
        """One state per slot, drawn as the testbed's traces are."""
        slot = self.scenario.slot_seconds
        return ChannelStates.from_law(self.channels, slots * slot, slot, seed)


def simulated_lab(name: str, overrides: Sequence[str] = ()) -> SimulatedLab:
    """The lab ``topologies/NAME.yaml`` with overrides (``key.sub=value``)."""
    topology = load(ROOT / f"{name}.yaml", overrides)
    ues = topology.expand()
    channels = tuple(channel_of(ue, topology.slot) for ue in ues)
    profiles = {profile_key(ue): read_profile(Path(str(ue.profile))) for ue in ues}
    means = {ue.name: mean_gain(channel) for ue, channel in zip(ues, channels, strict=True)}
    options = topology.policy.options
    checkpoint = options.get("checkpoint")
    return SimulatedLab(
        scenario_of(topology, profiles, means),
        channels,
        float(options.get("V", 0.3)),
        None if checkpoint is None else str(checkpoint),
    )
