"""All five methods of a policy: the cut with the least delay plus price of energy, bands where they are needed."""

import numpy as np

from controller import ALL_ON_DEVICE, Decision, UeDecision
from controller.model.decision import bootstrap_decision
from controller.model.delay import chain_work
from controller.model.energy import predict_task_joules
from controller.model.radio import rates


class Frugal:
    """Each UE pays for energy what its budget has been overdrawn by so far (a virtual queue)."""

    def __init__(self, seconds_per_joule: float = 1.0) -> None:
        self.seconds_per_joule = seconds_per_joule

    def reset(self, scenario, seed):
        self.scenario = scenario
        self.work = [chain_work(scenario, index) for index in range(len(scenario.ues))]
        self.overdrawn = np.zeros(len(scenario.ues))  # J

    def decide(self, observation):
        scenario = self.scenario
        equal = bootstrap_decision(scenario, observation.monotonic_seconds)  # equal shares, full speed
        gains = {str(ue.name): (ue.gain_up, ue.gain_down) for ue in observation.ues}
        links = rates(scenario, gains, equal)  # an outage is a rate of 0: its cuts take for ever
        chosen = []
        for index, ue in enumerate(scenario.ues):
            link = links[str(ue.name)]
            share = equal.ues[index].edge_share
            stages = self.work[index].stages(ue.max_speed, share, link.up_bits_per_second, link.down_bits_per_second)
            delay = sum(stages.values())
            joules = sum(predict_task_joules(scenario, index, None, ue.max_speed, link.up_bits_per_second))
            cost = delay + self.seconds_per_joule * self.overdrawn[index] * joules
            cost[~np.isfinite(cost)] = np.inf
            chosen.append(ue.profile.chain_cuts[int(np.argmin(cost))])
        busy = [cut != ALL_ON_DEVICE for cut in chosen]
        part = 1.0 / max(sum(busy), 1)  # who computes alone needs no band; `enforce` sees to older tasks
        radio = scenario.radio
        return Decision(
            sequence=0,
            slot=observation.slot,
            valid_from_seconds=observation.monotonic_seconds,
            ues=tuple(
                UeDecision(
                    name=ue.name,
                    cut=cut,
                    device_speed=ue.max_speed,
                    spectrum_up_hz=part * radio.uplink_hz if offloads else 0.0,
                    spectrum_down_hz=part * radio.downlink_hz if offloads else 0.0,
                    edge_share=part * scenario.edge.cpus if offloads else 0.0,
                )
                for ue, cut, offloads in zip(scenario.ues, chosen, busy, strict=True)
            ),
        )

    def feedback(self, outcome):
        spent = {ue.name: ue.energy_joules for ue in outcome.ues}
        for index, ue in enumerate(self.scenario.ues):
            self.overdrawn[index] = max(0.0, self.overdrawn[index] + spent[ue.name] - ue.energy_budget_joules)

    def state(self):
        return {
            f"overdrawn_joules.{ue.name}": x for ue, x in zip(self.scenario.ues, self.overdrawn.tolist(), strict=True)
        }

    def checkpoint_info(self):
        return {}
