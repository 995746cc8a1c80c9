"""README's command lines on a lab that stays, in network namespaces."""

from __future__ import annotations

import pytest

from tests.emulation.conftest import Bench
from tests.emulation.readme_lab import go_through

pytestmark = pytest.mark.root


def test_readmes_lab_that_stays(bench: Bench) -> None:
    said = go_through(bench)
    assert "controller" in said["ps"]
    assert "10.77.0.0/31" in said["exec"]
    assert "policy edge-only decides from the next slot on" in said["policy"]
