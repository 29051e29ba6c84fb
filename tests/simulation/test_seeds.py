"""Worlds from as many seeds: no invariant is ever broken, and each world comes to rest."""

import pytest
from simulation_process import LANES, require_no_breach


@pytest.mark.parametrize("lane", range(LANES // 2))
def test_no_seed_breaks_an_invariant(lane: int) -> None:
    """On a failure: the seed, the invariant, the last events, and the command that plays it again."""
    require_no_breach(lane)
