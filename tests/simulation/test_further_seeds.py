"""The other half of the worlds of `test_seeds.py`: workers of a run share its files, not its cases."""

import pytest
from simulation_process import LANES, require_no_breach


@pytest.mark.parametrize("lane", range(LANES // 2, LANES))
def test_no_further_seed_breaks_an_invariant(lane: int) -> None:
    """On a failure: the seed, the invariant, the last events, and the command that plays it again."""
    require_no_breach(lane)
