"""Models that are loaded once per lab, in the process that the agents are forked from."""

from __future__ import annotations

from pathlib import Path

import torch

from testbed.inference.partition import SplitModel, load_split_model
from testbed.inference.weight_files import RANDOM_WEIGHTS, Weights

_loaded: dict[tuple[str, int, str, str], SplitModel] = {}


def split_model(model: str, seed: int, lab_folder: str, weights: Weights = RANDOM_WEIGHTS) -> SplitModel:
    """Traced, with ``weights`` or those of ``seed``; a user's factory runs in ``lab_folder`` (empty: the working
    directory).

    A forked process finds what its parent loaded, and shares its memory, wherever the file of weights lies.
    """
    key = (model, seed, lab_folder, weights.sha256)
    if key not in _loaded:
        _loaded[key] = load_split_model(model, seed, (Path(lab_folder),) if lab_folder else (), weights)
    return _loaded[key]


def preload(model: str, seed: int, lab_folder: str, weights_path: str, weights_sha256: str) -> None:
    """Load a model and build all its heads. Starts no thread: a child of a process with some hangs."""
    torch.set_num_threads(1)
    split = split_model(model, seed, lab_folder, Weights(weights_path, weights_sha256))
    for cut in split.graph.chain_cuts:
        _ = split.partition(cut).head_module
