"""The inputs of a UE's tasks, as its application would hand them to the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from testbed.errors import TestbedError
from testbed.inference.resizing import resize
from testbed.inference.signature import Signature
from testbed.inputs.source import Inputs, order_of
from testbed.node.backend import task_input


class Feed:
    """``index(task)``, and ``input(task)``: the device's work on an image is resizing to what the model takes."""

    def __init__(self, inputs: Inputs | None, signature: Signature, seed: int, ue_index: int) -> None:
        """Raises TestbedError for an array that is not the lab's, and for a model that takes no images."""
        self._order = order_of(inputs, seed, ue_index)
        self._drawn = [task_input(signature, seed, ue_index, number) for number in self._order] if not inputs else []
        if inputs is None:
            return
        if not signature.takes_frames:
            raise TestbedError("the model takes no images, and its inputs are some")
        self._height, self._width = signature.examples[0].shape[2:]
        array = np.load(Path(inputs.path), mmap_mode="c", allow_pickle=False)  # torch wants to be able to write
        if array.shape != inputs.shape or array.dtype != np.uint8:
            raise TestbedError(f"{inputs.path} has changed: it holds {array.dtype} of shape {array.shape}")
        self._images = torch.from_numpy(array)

    def index(self, task: int) -> int:
        """Which of the inputs a task has: the same in every run with the same seed."""
        return int(self._order[task % len(self._order)])

    def input(self, task: int) -> Tensor:
        """One value, as the model takes it: of an image uint8 (1, C, H, W), at the model's size."""
        if self._drawn:
            return self._drawn[self.index(task)]
        return resize(self._images[self.index(task)][None], self._height, self._width)
