"""One cluster of three machines for all tests that leave it as they found it; nothing is collected without ray."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "system"))  # a whole installation is the same there

LONGEST_FIRST = (
    "test_ray_site.py",
    "test_ray_faults.py",
    "test_ray_runtime.py",
    "test_ray_weights.py",
)
"""So that two workers, who take the next file when they have ended one, end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.path))


def _place(path: Path) -> int:
    """What is not of this folder stays where it was, before these."""
    if path.parent != Path(__file__).parent:
        return -1
    return LONGEST_FIRST.index(path.name) if path.name in LONGEST_FIRST else len(LONGEST_FIRST)


if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from ray_machines import Machines, running_cluster

    @pytest.fixture(scope="session")
    def cluster() -> Iterator[Machines]:
        with running_cluster(nodes=2) as machines:
            yield machines
