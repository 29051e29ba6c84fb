"""The data directory of a gateway."""

from pathlib import Path

import pytest

from weighbridge.settings import DataDir


@pytest.fixture
def paths(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path)
    made.run.mkdir()
    return made
