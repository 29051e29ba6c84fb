"""How many ranges are read at once: bounded, yielding to a throttling source, and settled where more does not pay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.ingest.pump.width import FIRST, HOLD_STEPS, Width, next_width

RATES = st.floats(0, 1e11, allow_nan=False)
STEPS = st.lists(st.tuples(RATES, st.integers(0, 3)), max_size=60)


@given(parts_max=st.integers(1, 64), steps=STEPS)
def test_the_width_stays_within_its_bounds_and_halves_under_throttling(
    parts_max: int, steps: list[tuple[float, int]]
) -> None:
    width = Width.first(parts_max)
    for rate, slowdowns in steps:
        before = width
        width = next_width(before, bytes_per_s=rate, slowdowns=slowdowns, parts_max=parts_max)
        assert 1 <= width.parts <= parts_max
        if slowdowns:
            assert width.parts == max(1, before.parts // 2)
        assert width.parts <= max(before.parts * 2, 1)


@given(parts_max=st.integers(1, 64), per_part=st.floats(1e6, 1e9), limit=st.floats(1e6, 1e10))
def test_it_comes_to_a_width_that_brings_what_the_limit_allows(
    parts_max: int, per_part: float, limit: float
) -> None:
    def brought(parts: int) -> float:
        return min(limit, parts * per_part)

    width = Width.first(parts_max)
    for _ in range(8):
        width = next_width(
            width, bytes_per_s=brought(width.parts), slowdowns=0, parts_max=parts_max
        )
    settled = width.tried_from or width.parts
    assert brought(settled) >= brought(parts_max) / 1.05 / 1.05


@pytest.mark.parametrize("parts_max", [1, 2, 16])
def test_a_source_that_always_throttles_is_read_one_range_at_a_time(parts_max: int) -> None:
    width = Width.first(parts_max)
    for _ in range(6):
        width = next_width(width, bytes_per_s=1e6, slowdowns=1, parts_max=parts_max)
    assert width.parts == 1


def test_after_throttling_it_holds_and_then_tries_more_again() -> None:
    width = next_width(Width.first(16), bytes_per_s=1e8, slowdowns=1, parts_max=16)
    assert width.parts == FIRST // 2
    for _ in range(HOLD_STEPS):
        width = next_width(width, bytes_per_s=1e8, slowdowns=0, parts_max=16)
        assert width.parts == FIRST // 2
    width = next_width(width, bytes_per_s=1e8, slowdowns=0, parts_max=16)
    assert width.parts == FIRST


@given(counts=st.lists(st.integers(1, 4_000_000), min_size=1, max_size=50))
def test_the_cap_holds_over_any_run_of_pieces(counts: list[int]) -> None:
    from weighbridge.ingest.pump.throttle import BURST_S, Throttle

    now = 0.0
    throttle = Throttle(1_000_000, lambda: now)
    for count in counts:
        now += throttle.wait_s(count)
    assert sum(counts) <= 1_000_000 * (now + BURST_S) + 1
    assert Throttle(0, lambda: now).wait_s(10**12) == 0.0
