"""Worlds from as many seeds: no invariant is ever broken, and each world comes to rest."""

import pytest

from simulation_process import simulate

SEEDS = 800
LANES = 8
"""Test cases, so that they spread over the workers of a run."""


@pytest.mark.parametrize("lane", range(LANES))
def test_no_seed_breaks_an_invariant(lane: int) -> None:
    """On a failure: the seed, the invariant, the last events, and the command that plays it again."""
    each = SEEDS // LANES
    done = simulate("--first", str(lane * each), "--seeds", str(each), "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
