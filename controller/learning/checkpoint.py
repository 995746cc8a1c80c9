"""Trained actors on disk: arrays and a JSON header in one .npz, no code, checked against the lab that uses it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from controller.contract import Scenario, Struct, cut_label
from controller.learning.network import shapes
from controller.solvers.chain import ChainTables

FORMAT = 1
_HEADER = "header"


class CheckpointMismatchError(ValueError):
    """The file is no checkpoint of ours, or it was trained for another lab: what, found, wanted, what to do."""


class Header(Struct, frozen=True):
    """What a checkpoint was trained for."""

    format: int
    learner: str
    models: tuple[str, ...]  # of the profiles, sorted, without repetition
    cuts: tuple[str, ...]  # labels of the candidates, in the order of the actor's outputs
    ues: int  # in the training lab
    fewest_ues: int  # a lab with fewer or more is refused
    most_ues: int
    v: float
    slot_seconds: float
    scenario: str
    scenario_hash: str
    seed: int
    steps: int  # environment slots seen in training
    queue_over_budget: tuple[float, ...]  # mean virtual queue at the end of training, per UE of the training lab
    levels: int = 0  # of speed and of each share, which the actor chooses too; 0: it chooses cuts

    @property
    def outputs(self) -> int:
        """Of the actor, per UE: a logit per cut, then per level of speed, spectrum and edge share."""
        return len(self.cuts) + 3 * self.levels


def scenario_hash(scenario: Scenario) -> str:
    """SHA-256 (first 16 hex digits) of everything that the policy may know of a lab."""
    return hashlib.sha256(msgspec.json.encode(scenario)).hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    header: Header
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
    path: str
    sha256: str

    def require_fit(self, scenario: Scenario, v: float, levels: int = 0) -> None:
        """Raises CheckpointMismatchError unless the lab's models, cuts and number of UEs are those of the training, and
        the actor chooses what the policy wants: cuts, or with ``levels`` speed and shares as well."""
        header = self.header
        if levels != header.levels:
            raise CheckpointMismatchError(
                f"{self.path}: this actor chooses {_chooses(header.levels)}, the policy wants one that chooses "
                f"{_chooses(levels)}. Train one with `testbed train POLICY`, POLICY being the policy that is to use it."
            )
        models = tuple(sorted({ue.profile.model for ue in scenario.ues}))
        if models != header.models:
            self._refuse("model", header.models, models)
        labels = candidate_labels(ChainTables.of(scenario))
        if labels != header.cuts:
            self._refuse("cuts", header.cuts, labels)
        count = len(scenario.ues)
        if not header.fewest_ues <= count <= header.most_ues:
            allowed = str(header.ues) if header.fewest_ues == header.most_ues else f"{header.fewest_ues}-{header.most_ues}"  # fmt: skip  # noqa: E501
            self._refuse("number of UEs", allowed, count)
        if not np.isclose(v, header.v):
            self._refuse("V", header.v, v)

    def _refuse(self, what: str, trained: object, wanted: object) -> None:
        raise CheckpointMismatchError(
            f"{self.path}: checkpoint does not fit this lab: trained for {what} {trained}, the lab has {wanted}. "
            "Train one for this lab with `testbed train`, or leave the option checkpoint out."
        )

    def queue_over_budget(self, ues: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Where to start the virtual queues: UE by UE if their number is that of the training, else the mean."""
        stored = np.array(self.header.queue_over_budget)
        return stored if stored.size == ues else np.full(ues, stored.mean())

    def info(self) -> dict[str, Any]:
        """For manifests: path, hash, and what it was trained for."""
        return {"path": self.path, "sha256": self.sha256, **msgspec.to_builtins(self.header)}


def _chooses(levels: int) -> str:
    return f"cut, speed and shares, {levels} levels each" if levels else "cuts only"


def candidate_labels(tables: ChainTables) -> tuple[str, ...]:
    """Labels of the candidate cuts that all UEs share. Raises CheckpointMismatchError if the UEs' candidates differ."""
    first = tables.cuts[0]
    if any(cuts != first for cuts in tables.cuts):
        raise CheckpointMismatchError("one actor serves UEs of one model: this lab's UEs have different candidate cuts")
    return tuple(cut_label(cut) for cut in first)


def save_checkpoint(path: Path, header: Header, weights: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write the arrays of the actor (float32) and the header. Training state beyond the actor is not kept."""
    arrays = {name: np.ascontiguousarray(weights[name], dtype=np.float32) for name in shapes(header.outputs)}
    text = np.frombuffer(msgspec.json.encode(header), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **{_HEADER: text}, **arrays)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises CheckpointMismatchError for a file that is missing, not a checkpoint, or of another shape or format."""
    try:
        raw = path.read_bytes()
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            header = msgspec.json.decode(file[_HEADER].tobytes(), type=Header)
            wanted = shapes(header.outputs)
            weights = {name: np.asarray(file[name], dtype=np.float32) for name in wanted}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise CheckpointMismatchError(f"{path}: not a readable checkpoint: {error}") from error
    if header.format != FORMAT:
        raise CheckpointMismatchError(f"{path}: checkpoint format {header.format}; this version reads {FORMAT}")
    for name, shape in wanted.items():
        if weights[name].shape != shape or not np.all(np.isfinite(weights[name])):
            raise CheckpointMismatchError(f"{path}: array {name} is {weights[name].shape} or not finite, not {shape}")
    return Checkpoint(header, weights, str(path), hashlib.sha256(raw).hexdigest())
