"""The simple policies' cuts with LyMDO's convex step: same virtual queues, speed, spectrum and share.

``NAME+convex`` differs from LyMDO in the cuts alone, so it shows what choosing the cuts is worth.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controller.contract import Observation, Scenario
from controller.policies.base import BasicPolicy
from controller.policies.drift import DriftPlusPenalty
from controller.policies.neurosurgeon import Neurosurgeon
from controller.policies.static import DeviceOnly, EdgeOnly, Fixed, Random
from controller.solvers.allocation.chain import CutArray, SlotState
from controller.solvers.allocation.problem import AllocationModel, Objective


class ConvexPolicy(DriftPlusPenalty):
    """Cuts of another policy. A cut that cannot be kept stable is projected to the nearest that can."""

    every_cut = True

    def chooser(self) -> BasicPolicy:
        """The policy that names the cuts."""
        raise NotImplementedError

    def reset(self, scenario: Scenario, seed: int) -> None:
        self._chooser = self.chooser()
        self._chooser.reset(scenario, seed)
        super().reset(scenario, seed)

    def propose(self, state: SlotState, observation: Observation) -> CutArray:
        cuts = self._chooser.cuts(observation)
        indices = []
        for index, cut in enumerate(cuts):
            if cut not in self.tables.cuts[index]:
                name = self.scenario.ues[index].name
                raise ValueError(f"{name}: cut {'+'.join(cut)!r} is not a single-tensor cut; +convex knows only those")
            indices.append(self.tables.index_of(index, cut))
        return np.array([indices], dtype=np.int64)


class DeviceOnlyConvex(ConvexPolicy):
    """Every task on its device, at the speed that the virtual queue allows."""

    def chooser(self) -> BasicPolicy:
        return DeviceOnly()


class EdgeOnlyConvex(ConvexPolicy):
    """Every task's raw input to the edge, while link and edge can carry it."""

    def chooser(self) -> BasicPolicy:
        return EdgeOnly()


class RandomConvex(ConvexPolicy):
    """A single-tensor cut drawn evenly, per slot and UE."""

    def chooser(self) -> BasicPolicy:
        return Random()


class NeurosurgeonConvex(ConvexPolicy):
    """The cut with the least predicted delay at full speed and equal shares."""

    def chooser(self) -> BasicPolicy:
        return Neurosurgeon()


class FixedConvex(ConvexPolicy):
    """One cut vector for the whole run.

    Options of :class:`DriftPlusPenalty`, and

    cut : a label, or a mapping from each UE's name to a label (as for ``fixed``).
    """

    def __init__(
        self,
        cut: str | Mapping[str, str] = "local",
        V: float = 0.3,
        delay_model: AllocationModel = "indep",
        initial_queue: float = 0.0,
        solver: str = "newton",
        edge_budget: float | None = None,
        objective: Objective = "tasks",
    ) -> None:
        super().__init__(V, delay_model, initial_queue, solver, edge_budget, objective)
        self._cut = cut

    def chooser(self) -> BasicPolicy:
        return Fixed(self._cut)
