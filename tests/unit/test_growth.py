"""The straight line that the scale benchmark lays through its sizes."""

import pytest
from benchmarks.scale.growth import fit


def test_a_straight_line_is_found_and_nothing_lies_beside_it() -> None:
    line = fit({125: 10 + 0.5 * 125, 250: 10 + 0.5 * 250, 500: 10 + 0.5 * 500})
    assert line.base == pytest.approx(10)
    assert line.per_endpoint == pytest.approx(0.5)
    assert line.deviation_percent == pytest.approx(0, abs=1e-9)


def test_what_grows_with_the_square_lies_far_from_any_line() -> None:
    line = fit({size: size**2 for size in (125, 250, 500, 1000)})
    assert line.deviation_percent > 50
