"""A UE whose model attacks the lab from inside, in the netns runtime: what it says is bounded and believed of it alone.

What its process may do as the user who brought the lab up is not confined there: docs/security.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulation.conftest import Bench
from tests.emulation.hostile import attack, check_messages

pytestmark = pytest.mark.root


def test_a_hostile_ue_harms_nobody_by_what_it_says(bench: Bench, tmp_path: Path) -> None:
    check_messages(attack(bench, tmp_path))
