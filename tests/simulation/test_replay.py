"""A seed is a world: the same log, byte for byte, in any process."""

import pytest
from simulation_process import simulate


@pytest.mark.parametrize("seed", [1, 37, 208])
def test_a_seed_gives_the_same_log_whatever_the_hash_seed(seed: int) -> None:
    first = simulate("--seed", str(seed), PYTHONHASHSEED="1")
    second = simulate("--seed", str(seed), PYTHONHASHSEED="2")
    assert "log " in first.stdout
    assert first.stdout == second.stdout
