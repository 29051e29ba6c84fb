"""The verdict on a new version's answers: its figures, and what holds for any."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from toys.world import LIMITS, START, deployment, endpoint, serving
from weighbridge.endpoints.gate import GateOptions
from weighbridge.rollouts.gate import GateLimits, verdict
from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.rollouts.plan import Plan, Seen, plan
from weighbridge.usage.model import VersionFigures

GATE = GateLimits()
GOOD = VersionFigures(1_904, 1_898, 6, 0, 1_898, 0.4)
NOW = START + timedelta(hours=1)


@st.composite
def figures(draw: st.DrawFn) -> VersionFigures:
    answered, errors, others = (draw(st.integers(0, 3_000)) for _ in range(3))
    return VersionFigures(
        requests=answered + errors + others,
        answered=answered,
        errors=errors,
        empty=draw(st.integers(0, answered)),
        ttft_count=draw(st.integers(0, answered)),
        ttft_p95_s=draw(st.floats(0, 200)),
    )


def judged(target: VersionFigures, base: VersionFigures | None = GOOD) -> str | None:
    return verdict((8, target), None if base is None else (7, base), GATE)


def test_too_many_errors_are_a_cause_that_says_both_shares() -> None:
    bad = VersionFigures(212, 203, 9, 0, 203, 0.4)
    assert judged(bad) == (
        "5xx 4.2 % of 212 requests on version 8 against 0.3 % of 1,904 requests on version 7"
    )
    assert judged(bad, None) == "5xx 4.2 % of 212 requests on version 8"


def test_an_endpoint_s_own_limits_take_the_place_of_the_server_s_one_by_one() -> None:
    bad = VersionFigures(212, 203, 9, 0, 203, 0.4)
    own = GATE.of(GateOptions(errors_share=0.1))
    assert own == replace(GATE, errors_share=0.1)
    assert verdict((8, bad), (7, GOOD), own) is None
    assert verdict((8, bad), (7, GOOD), GATE.of(GateOptions(requests_min=0))) is None
    assert verdict((8, bad), (7, GOOD), GATE.of(GateOptions(errors_share=0.0, requests_min=9)))


def test_empty_answers_and_slow_ones_are_causes_too() -> None:
    assert judged(VersionFigures(100, 100, 0, 40, 100, 0.4)) == (
        "empty answers 40.0 % of 100 requests on version 8 "
        "against 0.0 % of 1,898 requests on version 7"
    )
    assert judged(VersionFigures(100, 100, 0, 0, 100, 1.5)) == (
        "time to first token 1.50 s (95th percentile of 100 requests) on version 8 "
        "against 0.40 s of 1,898 on version 7"
    )
    assert judged(VersionFigures(100, 100, 0, 0, 100, 61.0), None) == (
        "time to first token 61.00 s (95th percentile of 100 requests) on version 8, more than 60 s"
    )


@pytest.mark.parametrize(
    "fine",
    [
        VersionFigures(49, 0, 49, 0, 0, 0.0),
        VersionFigures(100, 98, 2, 0, 98, 0.4),
        VersionFigures(1_000, 981, 19, 0, 981, 0.4),
        VersionFigures(1_000, 1_000, 0, 0, 49, 30.0),
        VersionFigures(1_000, 1_000, 0, 0, 1_000, 0.99),
    ],
)
def test_few_requests_few_errors_and_short_times_prove_nothing(fine: VersionFigures) -> None:
    assert judged(fine) is None


def test_a_base_that_is_as_bad_excuses() -> None:
    bad = VersionFigures(1_000, 900, 100, 0, 900, 0.4)
    assert judged(bad, VersionFigures(1_000, 960, 40, 0, 960, 0.4)) is None
    assert judged(bad, VersionFigures(1_000, 970, 30, 0, 970, 0.4)) is not None


@given(figures())
def test_no_version_is_worse_than_itself(one: VersionFigures) -> None:
    assume(one.requests >= GATE.requests_min)
    assume(one.ttft_count >= GATE.requests_min or one.ttft_p95_s <= GATE.ttft_max_s)
    assert judged(one, one) is None


@given(figures(), figures())
def test_nothing_is_concluded_from_few_requests_and_a_cause_says_how_many(
    target: VersionFigures, base: VersionFigures
) -> None:
    cause = judged(target, base)
    if cause is None:
        return
    assert target.requests >= GATE.requests_min
    assert "on version 8" in cause
    share = max(target.errors / target.requests, target.empty / max(1, target.answered))
    assert share >= GATE.errors_share or target.ttft_p95_s > GATE.ttft_min_s


@given(figures(), figures(), st.integers(0, 500))
def test_more_errors_never_excuse(target: VersionFigures, base: VersionFigures, more: int) -> None:
    if judged(target, base) is None:
        return
    worse = replace(target, requests=target.requests + more, errors=target.errors + more)
    assert judged(worse, base) is not None


def gated(base: Deployment | None, seen: dict[int, VersionFigures], updated: int = 2) -> Plan:
    one = deployment(
        8, status=RolloutStatus.IN_PROGRESS, base_deployment_id=base and base.id, replicas=2,
        max_surge=1, started_at=NOW, progress_at=NOW, updated_max=updated,
    )  # fmt: skip
    mine = {"deployment_id": "d8", "version_id": "v8", "version_number": 8}
    here = (serving("a", **mine), serving("b", **mine))
    return plan(Seen(one, base, endpoint(2, 0, 1), False, here, figures=seen), NOW, LIMITS)


BAD = VersionFigures(212, 203, 9, 0, 203, 0.4)
SEVEN = deployment(7, status=RolloutStatus.DONE)


def test_a_version_that_answers_worse_goes_back_though_all_its_replicas_are_ready() -> None:
    step = gated(SEVEN, {8: BAD, 7: GOOD})
    assert step.after.status is RolloutStatus.ROLLING_BACK
    assert step.after.error_message == judged(BAD)
    assert gated(SEVEN, {8: GOOD, 7: GOOD}).after.status is RolloutStatus.DONE


def test_without_a_base_it_ends_in_error_and_serves_on() -> None:
    step = gated(None, {8: BAD})
    assert (step.after.status, step.actions) == (RolloutStatus.ERROR, ())
    assert step.after.error_message == "5xx 4.2 % of 212 requests on version 8"


def test_a_version_is_not_judged_against_itself() -> None:
    same = deployment(7, version=8, status=RolloutStatus.DONE)
    assert gated(same, {8: BAD}).after.status is RolloutStatus.DONE
