"""A control plane dies before and after each durable step: every deployment still ends as it should."""

import pytest
from simulation_process import run_module

SCENES = 8
POINTS_MIN = 300


@pytest.mark.parametrize("scene", range(SCENES))
def test_a_crash_at_any_durable_step_changes_no_end(scene: int) -> None:
    done = run_module("simulation.crashes", str(scene))
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_as_many_points_as_were_asked_for() -> None:
    told = run_module("simulation.crashes", "--count").stdout
    assert int(told) >= POINTS_MIN
