from pathlib import Path

import pytest
from synthetic_run import Lab, make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three UEs over 20 s. Tests read it; who writes, copies it first."""
    return make_run(tmp_path_factory.mktemp("r"), Lab(duration=20))
