from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from testbed.inference.partition import SplitModel, load_split_model

HERE = Path(__file__).parent


@cache
def _load(name: str) -> SplitModel:
    return load_split_model(name, 7, (HERE,))


@pytest.fixture(scope="session")
def load() -> Callable[[str], SplitModel]:
    """Loads each model once per test run."""
    return _load
