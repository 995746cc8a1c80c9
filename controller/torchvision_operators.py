"""torchvision's compiled operators, where they do not load: declared, and non-maximum suppression done in PyTorch.

torchvision 0.28 from PyPI needs CUDA libraries for its compiled operators, and without them its import fails because
two operator schemas are unknown ("operator torchvision::nms does not exist"). No classifier calls these; single-stage
detectors call one, ``nms``.
"""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from typing import Any

_DECLARED: list[Any] = []  # a declaration lives as long as its object does


def declare_operators() -> None:
    """Before torchvision is imported: load its operators as it will, or declare those that its import asks for."""
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if _DECLARED or spec is None or spec.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(str(Path(spec.origin).with_name("_C.so")))  # type: ignore[no-untyped-call]
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        library.define("_cuda_version() -> int")  # type: ignore[no-untyped-call]
        library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        for kernels in ("CPU", "CUDA"):
            library.impl("nms", nms, kernels)  # type: ignore[no-untyped-call]
        _DECLARED.append(library)


def vouch_for_nms() -> None:
    """Before torchvision's wrappers of its operators are imported: they ask whether the compiled ones are there."""
    extension = sys.modules.get("torchvision.extension")
    if _DECLARED and extension is not None:
        extension._has_ops = lambda: True  # type: ignore[attr-defined]


def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Indices of the boxes (n, 4: x1, y1, x2, y2) that no box of a higher score overlaps by more than the threshold
    (intersection over union), by falling score; of equal scores the first goes first, as in torchvision."""
    import torch

    order = torch.sort(scores, descending=True, stable=True).indices
    corners = boxes[order]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    suppressed = torch.zeros(len(order), dtype=torch.bool)
    kept: list[int] = []
    for index in range(len(order)):
        if suppressed[index]:
            continue
        kept.append(index)
        rest = corners[index + 1 :]
        sides = torch.minimum(corners[index, 2:], rest[:, 2:]) - torch.maximum(corners[index, :2], rest[:, :2])
        shared = sides.clamp_(min=0).prod(dim=1)
        overlaps = shared / (areas[index] + areas[index + 1 :] - shared) > iou_threshold
        suppressed[index + 1 :] |= overlaps.to(suppressed.device)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
