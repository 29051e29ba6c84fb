"""The rate of a sync: of late, of the fetching alone, and never of what was set back."""

from weighbridge.ingest.watch import RATE_WINDOW_S, Rate


def rate_of(*moments: tuple[float, str, int]) -> float | None:
    rate = Rate()
    for moment in moments:
        rate.note(*moment)
    return rate.bytes_per_s


def test_one_moment_tells_no_rate() -> None:
    assert rate_of((0.0, "fetch", 0)) is None


def test_the_rate_is_that_of_the_last_seconds() -> None:
    slow = [(float(second), "fetch", second * 10) for second in range(60)]
    fast = [
        (60.0 + second, "fetch", 600 + second * 100) for second in range(int(RATE_WINDOW_S) + 1)
    ]
    assert rate_of(*slow, *fast) == 100.0


def test_bytes_that_were_there_already_do_not_count() -> None:
    assert rate_of((0.0, "check", 0), (1.0, "check", 10**9), (2.0, "fetch", 10**9)) is None


def test_a_stalled_source_has_a_rate_of_zero() -> None:
    assert rate_of(*((float(second), "fetch", 5) for second in range(20))) == 0.0


def test_an_attempt_that_was_set_back_counts_anew() -> None:
    assert rate_of((0.0, "fetch", 500), (1.0, "fetch", 100), (2.0, "fetch", 150)) == 50.0
