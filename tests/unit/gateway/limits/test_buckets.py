"""Buckets as arithmetic: what passes, how long to wait, and what the headers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.gateway.limits.buckets import WINDOWS, Bucket, Told
from weighbridge.gateway.limits.estimate import COMPLETION_TOKENS_GUESS, estimate_tokens
from weighbridge.routing.limits import (
    LIMIT_NAMES,
    UsageLimits,
    limits_document,
    read_limits,
    with_defaults,
)

windows = st.sampled_from(WINDOWS)
limits = st.integers(1, 10**9)
LIMITS = st.builds(UsageLimits, **{name: st.none() | limits for name in LIMIT_NAMES})


def test_there_is_a_window_for_every_limit_but_concurrency() -> None:
    assert {window.member for window in WINDOWS} == set(LIMIT_NAMES) - {"concurrency"}


@given(windows, limits, st.floats(0, 3), st.floats(0, 2))
def test_after_the_wait_that_was_told_the_request_fits_and_not_much_earlier(
    window, limit, fill, share
):
    used, cost = fill * limit, max(1.0, share * limit)
    wait_s = window.wait_s(used, limit, cost)
    later = window.decayed(used, limit, wait_s)
    assert later + min(cost, limit) <= limit * (1 + 1e-9)
    if wait_s > 0.01:
        earlier = window.decayed(used, limit, wait_s * 0.99)
        assert earlier + min(cost, limit) > limit * (1 - 1e-9)


@given(windows, limits, st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), max_size=30))
def test_what_passes_in_any_time_is_at_most_the_limit_and_its_refill(window, limit, asked):
    used, elapsed_s, passed = 0.0, 0.0, 0.0
    for pause_s, share in asked:
        used = window.decayed(used, limit, pause_s)
        elapsed_s += pause_s
        cost = share * limit
        if window.wait_s(used, limit, cost) == 0:
            used += cost
            passed += cost
    assert passed <= limit * (1 + elapsed_s / window.period_s) * (1 + 1e-9)


@given(windows, limits, st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6))
def test_refilling_in_two_steps_is_refilling_in_one(window, limit, fill, first_s, then_s):
    used = fill * limit
    twice = window.decayed(window.decayed(used, limit, first_s), limit, then_s)
    assert twice == pytest.approx(window.decayed(used, limit, first_s + then_s), abs=1e-3 * limit)


def test_headers_are_the_hosted_api_s() -> None:
    named = {window.name: (place, window) for place, window in enumerate(WINDOWS)}
    buckets = [
        Bucket(*named["requests-day"], 100, 40.5),
        Bucket(*named["tokens-minute"], 600, 700.0),
    ]
    assert Told([buckets]).headers() == {
        "x-ratelimit-limit-requests-day": "100",
        "x-ratelimit-remaining-requests-day": "59",
        "x-ratelimit-reset-requests-day": "34992.000",
        "x-ratelimit-limit-tokens-minute": "600",
        "x-ratelimit-remaining-tokens-minute": "0",
        "x-ratelimit-reset-tokens-minute": "70.000",
    }


@given(LIMITS, LIMITS)
def test_limits_survive_their_column_and_open_ones_take_the_default(own, defaults):
    assert read_limits(limits_document(own)) == own
    both = with_defaults(own, defaults)
    for name in LIMIT_NAMES:
        value, default = getattr(own, name), getattr(defaults, name)
        assert getattr(both, name) == (default if value is None else value)


@pytest.mark.parametrize(
    ("body", "prompt", "completion"),
    [
        ({"messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 5}, 14, 5),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "abcde"}]}]}, 6, None),
        ({"prompt": "abcd", "max_tokens": 3, "n": 2}, 1, 6),
        ({"prompt": [1, 2, 3], "max_tokens": 0}, 3, 0),
        ({"prompt": ["abcd", "efgh"]}, 2, None),
        ({"prompt": [[1, 2], [3]]}, 3, None),
        ({"messages": [{"role": "assistant", "content": None}]}, 4, None),
    ],
)
def test_tokens_are_estimated_from_texts_and_limits(body, prompt, completion):
    estimate = estimate_tokens(body)
    expected = COMPLETION_TOKENS_GUESS if completion is None else completion
    assert (estimate.prompt, estimate.completion) == (prompt, expected)
