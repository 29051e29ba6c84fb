"""Three control planes on one PostgreSQL under kill -9 and freezes: a short run of what `make soak-control` plays."""

from collections.abc import Callable
from pathlib import Path

import pytest
from plane_kills import play

pytestmark = pytest.mark.system

LASTS_S = 20.0


def test_control_planes_that_die_and_freeze_at_random_lose_nothing_and_cost_no_stream(
    make_public_directory: Callable[[], Path],
):
    root, postgres = make_public_directory(), make_public_directory() / "postgres"
    report = play(root, postgres, lasts_s=LASTS_S, seed=1)
    assert report.breaches == []
    assert report.kills > 0
    assert report.deployments.keys() == {"done"}
    assert report.receipts == report.deployments.total()
    assert report.versions["done"] > 0
