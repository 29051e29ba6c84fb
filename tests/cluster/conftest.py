"""One cluster of three machines for all tests that leave it as they found it; nothing is collected without ray."""

import importlib.util
from collections.abc import Iterator

import pytest

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from ray_machines import Machines, running_cluster

    @pytest.fixture(scope="session")
    def cluster() -> Iterator[Machines]:
        with running_cluster(nodes=2) as machines:
            yield machines
