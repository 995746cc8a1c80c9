"""What nobody can have is refused where the link is, whoever sends it: the kernel would clamp it in silence."""

from __future__ import annotations

import math

import pytest

from controller.service.protocol import SetLink
from testbed.errors import TestbedError
from testbed.programs.player.playback import _require_possible


@pytest.mark.parametrize("loss", [5.0, 1.01, -0.1, math.nan, math.inf])
def test_a_loss_is_a_ratio(loss: float) -> None:
    with pytest.raises(TestbedError, match="0 to 1"):
        _require_possible(SetLink(node="ue1", loss_ratio=loss))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_rates_and_delays_are_not_negative_and_finite(value: float) -> None:
    for request in (SetLink("ue1", value), SetLink("ue1", None, value), SetLink("ue1", delay_seconds=value)):
        with pytest.raises(TestbedError, match="0 or more"):
            _require_possible(request)


def test_the_ends_of_the_range_are_possible() -> None:
    _require_possible(SetLink("ue1", 0.0, 1e9, 0.0, 0.0, 1.0))
    _require_possible(SetLink("ue1", loss_ratio=0.0))
