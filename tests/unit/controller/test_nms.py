"""Non-maximum suppression where torchvision's does not load: against the definition, box by box."""

from __future__ import annotations

import torch
from torch import Tensor

from controller.torchvision_operators import nms


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def by_definition(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    rows = boxes.tolist()
    kept: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: (-float(scores[i]), i)):
        if all(overlap(rows[index], rows[one]) <= threshold for one in kept):
            kept.append(index)
    return kept


def test_as_defined() -> None:
    torch.manual_seed(3)
    for count in (0, 1, 2, 60):
        for threshold in (0.0, 0.3, 0.7, 1.0):
            corners = torch.rand(count, 2) * 10
            boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2) * 5], 1)
            scores = (torch.rand(count) * 8).round() / 8  # with ties
            found = nms(boxes, scores, threshold)
            assert found.dtype == torch.int64
            assert found.tolist() == by_definition(boxes.double(), scores, threshold)


def test_torchvision_takes_it() -> None:
    from controller.user_code import prepare_torchvision

    prepare_torchvision()
    from torchvision.ops import batched_nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [0, 0, 10, 10]])
    assert batched_nms(boxes, torch.tensor([0.5, 0.9, 0.8]), torch.tensor([0, 0, 1]), 0.5).tolist() == [1, 2]
