"""Models that are loaded once per lab, in the process that the agents are forked from."""

from __future__ import annotations

import functools

import torch

from testbed.inference.partition import SplitModel, load_split_model


@functools.cache
def split_model(model: str, seed: int) -> SplitModel:
    """Traced, with the weights of ``seed``. A forked process finds what its parent loaded, and shares its memory."""
    return load_split_model(model, seed)


def preload(model: str, seed: int) -> None:
    """Load a model and build all its heads. Starts no thread: a child of a process with some hangs."""
    torch.set_num_threads(1)
    split = split_model(model, seed)
    for cut in split.graph.chain_cuts:
        _ = split.partition(cut).head_module
