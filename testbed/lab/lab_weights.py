"""Files of weights of a lab: known before anything is started, and copied to where every node reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from testbed.folders import open_to_others
from testbed.inference.published_weights import weights_of
from testbed.inference.weight_files import Weights
from testbed.labfile.schema import Topology
from testbed.runtime.base import SHARED


def weights_by_ue(topology: Topology, folder: Path) -> dict[str, Weights]:
    """``folder``: the lab file's. Raises InputError for a file that cannot be read, or cannot be fetched."""
    ues = topology.expand()
    found = {named: weights_of(*named, folder) for named in {(ue.model, ue.weights) for ue in ues}}
    return {ue.name: found[ue.model, ue.weights] for ue in ues}


def shared(weights: Weights, lab_directory: Path) -> Weights:
    """The same as nodes read them. Containers load models as soon as they exist: the copy is there before them, and
    open to their user."""
    if not weights.path:
        return weights
    path = Path(weights.path)
    target = lab_directory / SHARED / f"weights-{weights.sha256[:16]}{path.suffix}"
    if not target.exists():
        lab_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(".partial")
        shutil.copyfile(path, partial)
        partial.rename(target)
        open_to_others(target.parent)
    return msgspec.structs.replace(weights, path=str(target))
