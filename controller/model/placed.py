"""What a device that holds some of a model's layers makes of a decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from controller.contract import ALL_ON_EDGE, Cut, UeDecision, cut_from_label


def within_placed(
    own: UeDecision, placed: frozenset[str], chain_cuts: Sequence[Cut], device_set: Callable[[Cut], frozenset[str]]
) -> UeDecision:
    """The decision with its cut no deeper than the ``placed`` nodes; ``device_set`` gives those that a cut needs."""
    if own.cut == ALL_ON_EDGE or device_set(own.cut) <= placed:
        return own
    fitting = [cut for cut in chain_cuts if cut == ALL_ON_EDGE or device_set(cut) <= placed]
    deepest = fitting[-1]
    at = chain_cuts.index(deepest)
    rule = tuple(point for point in own.stop_rule if chain_cuts.index(cut_from_label(point[0])) < at)
    return msgspec.structs.replace(own, cut=deepest, stop_rule=rule)
