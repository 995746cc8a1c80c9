"""Points with their labs read, checked and keyed: all of them before the first is computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed.campaign.jobs import LabRun, Simulation, Training, checkpoint_in
from testbed.campaign.keys import key_of
from testbed.campaign.points import Campaign, Point, overrides_of, points_of
from testbed.campaign.schema import TrainSpec
from testbed.campaign.store import Store
from testbed.errors import InputError
from testbed.lab.choice import LabChoice
from testbed.labfile.resolve import resolve
from testbed.labfile.schema import Topology

_NO_CHECKPOINT = overrides_of({"policy.checkpoint": None})


@dataclass(frozen=True)
class Task:
    """A point, the job that computes it, and the training that has to come first."""

    point: Point
    job: Simulation | LabRun
    training: Training | None = None

    @property
    def key(self) -> str:
        return self.job.key


def prepare(campaign: Campaign, store: Store, warn: Callable[[str], None], *, measure: bool) -> tuple[Task, ...]:
    """``measure``: profile models on this host for which no lab names a profile, as any run of them would.

    Raises InputError for a point whose lab is refused, naming the point.
    """
    labs = _Labs(warn)
    profiled: set[str] = set()
    tasks = []
    for point in points_of(campaign):
        try:
            tasks.append(_task(campaign, point, store, labs, profiled if measure else None))
        except InputError as error:
            raise InputError(
                error.what,
                where=f"{campaign.where}: point {point.title}: {error.where}",
                value=error.value,
                allowed=error.allowed,
                fix=error.fix,
            ) from None
    if campaign.spec.train is not None and all(task.training is None for task in tasks):
        raise InputError("no policy of this campaign learns", where=f"{campaign.where}: train", fix="Drop 'train'.")
    return tuple(tasks)


class _Labs:
    """Labs as they are read and checked; points that differ in their seed have one check."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._told: set[str] = set()
        self._read: dict[tuple[Path, tuple[str, ...], bool], Topology] = {}

    def warn(self, text: str) -> None:
        """Once each: points are alike."""
        if text not in self._told:
            self._told.add(text)
            self._warn(text)

    def read(self, file: Path, overrides: tuple[str, ...], *, traced: bool = False) -> Topology:
        """Raises InputError."""
        seeds = [text for text in overrides if re.fullmatch(r"seed=\d{1,9}", text)]
        others = tuple(text for text in overrides if text not in seeds)
        key = (file, others, traced)
        if len(seeds) != 1 or key not in self._read:
            self._read[key] = LabChoice(file, overrides, warn=self.warn).read(traced=traced)
        topology = self._read[key]
        return topology.model_copy(update={"seed": int(seeds[0].removeprefix("seed="))}) if seeds else topology


def _task(campaign: Campaign, point: Point, store: Store, labs: _Labs, profiled: set[str] | None) -> Task:
    spec = campaign.spec
    overrides, training = point.overrides, None
    folder = point.file.parent.absolute()
    topology = labs.read(point.file, overrides, traced=point.where == "lab")
    if spec.train is not None and _learns(topology.policy.name):
        training = _training(spec.train, campaign, point, store, labs)
        topology = labs.read(point.file, (*overrides, *_NO_CHECKPOINT))
    if profiled is not None:
        _measure_profiles(topology, point.file, labs.warn, profiled)
    order: dict[str, object] = {"where": point.where, "training": None if training is None else training.key}
    if point.where == "simulator":
        order["slots"] = slots_of(campaign, topology)
    else:
        order |= {"seconds": seconds_of(campaign, topology), "runtime": spec.runtime}
    key = key_of(topology, folder, order)
    if training is not None:
        overrides = (*point.overrides, *overrides_of({"policy.checkpoint": str(checkpoint_in(training.directory))}))
    directory = str(store.directory(key))
    job: Simulation | LabRun
    if point.where == "simulator":
        job = Simulation(key, str(point.file), overrides, directory, slots_of(campaign, topology))
    else:
        job = LabRun(key, str(point.file), overrides, directory, seconds_of(campaign, topology), spec.runtime)
    return Task(point, job, training)


def slots_of(campaign: Campaign, topology: Topology) -> int:
    """Length of a simulation."""
    if campaign.spec.slots is not None:
        return campaign.spec.slots
    assert campaign.spec.duration is not None
    return max(1, round(campaign.spec.duration / topology.slot))


def seconds_of(campaign: Campaign, topology: Topology) -> float:
    """For how long tasks arrive in a lab."""
    if campaign.spec.duration is not None:
        return campaign.spec.duration
    assert campaign.spec.slots is not None
    return campaign.spec.slots * topology.slot


def _learns(policy: str) -> bool:
    from testbed.lab.train import TRAINABLE  # imports torch

    return policy in TRAINABLE


def _training(spec: TrainSpec, campaign: Campaign, point: Point, store: Store, labs: _Labs) -> Training:
    """Of a point whose policy learns; the same for all points that differ in what they are paired by."""
    from testbed.lab.train import defaults_of

    own = f"{campaign.spec.pair}="
    shared = (*(text for text in point.overrides if not text.startswith(own)), *_NO_CHECKPOINT)
    topology = labs.read(point.file, shared)
    learner, updates = defaults_of(topology.policy.name, spec.learner, spec.updates)
    order = {"learner": learner, "updates": updates, "seed": spec.seed}
    key = key_of(topology, point.file.parent.absolute(), order)
    return Training(key, str(point.file), shared, str(store.trained(key)), learner, updates, spec.seed)


def _measure_profiles(topology: Topology, file: Path, notify: Callable[[str], None], done: set[str]) -> None:
    """They are part of the key, so they are measured before it is made."""
    models = {ue.model for ue in topology.expand() if ue.profile is None} - done
    if models:
        resolve(topology, str(file), file.parent, topology.slot, notify)
        done |= models
