"""One cluster of three machines for all tests that leave it as they found it; nothing is collected without ray."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "system"))  # a whole installation is the same there

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from ray_machines import Machines, running_cluster

    @pytest.fixture(scope="session")
    def cluster() -> Iterator[Machines]:
        with running_cluster(nodes=2) as machines:
            yield machines
