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
from controller.learning import cut_network, network
from controller.learning.lab_range import Ranges, outside
from controller.solvers.allocation.chain import ChainTables

FORMAT = 2
#: The learner whose actor serves a range of labs; the others' serves one.
IMITATION = "imitation"
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
    v: float  # of the training lab
    slot_seconds: float
    scenario: str
    scenario_hash: str
    seed: int
    steps: int  # environment slots seen in training
    ranges: Ranges  # of the labs that were seen in training: see controller.learning.lab_range
    queue_over_budget: tuple[float, ...]  # mean virtual queue at the end of training, per UE; (): of a range of labs
    levels: int = 0  # of speed and of each share, which the actor chooses too; 0: it chooses cuts

    @property
    def general(self) -> bool:
        """Trained over a range of labs: number of UEs, V and cuts are the lab's own."""
        return self.learner == IMITATION

    @property
    def outputs(self) -> int:
        """Of an actor for one lab, per UE: a logit per cut, then per level of speed, spectrum and edge share."""
        return len(self.cuts) + 3 * self.levels

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the actor's arrays."""
        return cut_network.shapes() if self.general else network.shapes(self.outputs)


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
        """Raises CheckpointMismatchError unless the lab's model is that of the training - and, for an actor of one lab,
        cuts, number of UEs and V - and the actor chooses what the policy wants: cuts, or with ``levels`` speed and
        shares as well. What else differs, :meth:`outside` says."""
        header = self.header
        if levels != header.levels:
            raise CheckpointMismatchError(
                f"{self.path}: this actor chooses {_chooses(header.levels)}, the policy wants one that chooses "
                f"{_chooses(levels)}. Train one with `testbed train POLICY`, POLICY being the policy that is to use it."
            )
        models = tuple(sorted({ue.profile.model for ue in scenario.ues}))
        if models != header.models:
            self._refuse("model", header.models, models)
        if header.general:
            return
        labels = candidate_labels(ChainTables.of(scenario))
        if labels != header.cuts:
            self._refuse("cuts", header.cuts, labels)
        if header.ues != len(scenario.ues):
            self._refuse("number of UEs", header.ues, len(scenario.ues))
        if not np.isclose(v, header.v):
            self._refuse("V", header.v, v)

    def outside(self, scenario: Scenario) -> list[str]:
        """What of a lab that fits lies outside of what the actor was trained on, in words."""
        found = outside(self.header.ranges, scenario)
        labels = {label for cuts in ChainTables.of(scenario).cuts for label in map(cut_label, cuts)}
        if not labels <= set(self.header.cuts):
            new = ", ".join(sorted(labels - set(self.header.cuts)))
            found.append(f"cuts {new} (trained on {', '.join(self.header.cuts)})")
        return found

    def _refuse(self, what: str, trained: object, wanted: object) -> None:
        raise CheckpointMismatchError(
            f"{self.path}: checkpoint does not fit this lab: trained for {what} {trained}, the lab has {wanted}. "
            "Train one for this lab with `testbed train`, or leave the option checkpoint out."
        )

    def queue_over_budget(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Where to start the virtual queues, UE by UE, of an actor for one lab."""
        return np.array(self.header.queue_over_budget)

    def info(self, scenario: Scenario) -> dict[str, Any]:
        """For manifests: path, hash, what it was trained for, and what of the lab lies ``outside`` of that."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            **msgspec.to_builtins(self.header),
            "outside": self.outside(scenario),
        }


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
    arrays = {name: np.ascontiguousarray(weights[name], dtype=np.float32) for name in header.shapes}
    text = np.frombuffer(msgspec.json.encode(header), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **{_HEADER: text}, **arrays)  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises CheckpointMismatchError for a file that is missing, not a checkpoint, or of another shape or format."""
    try:
        raw = path.read_bytes()
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            _require_format(path, file[_HEADER].tobytes())
            header = msgspec.json.decode(file[_HEADER].tobytes(), type=Header)
            wanted = header.shapes
            weights = {name: np.asarray(file[name], dtype=np.float32) for name in wanted}
    except CheckpointMismatchError:
        raise
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
        raise CheckpointMismatchError(f"{path}: not a readable checkpoint: {error}") from error
    for name, shape in wanted.items():
        if weights[name].shape != shape or not np.all(np.isfinite(weights[name])):
            raise CheckpointMismatchError(f"{path}: array {name} is {weights[name].shape} or not finite, not {shape}")
    return Checkpoint(header, weights, str(path), hashlib.sha256(raw).hexdigest())


def _require_format(path: Path, header: bytes) -> None:
    found = msgspec.json.decode(header)
    if isinstance(found, dict) and found.get("format") != FORMAT:
        raise CheckpointMismatchError(
            f"{path}: checkpoint format {found.get('format')}; this version reads {FORMAT}. Train it again with "
            "`testbed train`."
        )
