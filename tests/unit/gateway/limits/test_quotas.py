"""Quotas over several workers' shared memory, on a clock of the test's own."""

import mmap
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weighbridge.clock import Clock
from weighbridge.gateway.limits.ledger import (
    FILE_BYTES,
    ROWS,
    ROWS_TAKEN_MAX,
    Column,
    Ledger,
    open_ledger,
    subject_hash,
)
from weighbridge.gateway.limits.quotas import IDLE_S, Admission, Quotas
from weighbridge.gateway.limits.refusals import QuotaError
from weighbridge.routing.limits import UsageLimits


@dataclass
class Host:
    """Workers on one memory; `kill` one without its end, `start` it again."""

    memory: mmap.mmap
    time_s: float = 1_700_000_000.0
    quotas: dict[int, Quotas] = field(default_factory=dict)

    def start(self, worker: int) -> Quotas:
        clock = Clock(
            now=lambda: datetime.fromtimestamp(self.time_s, UTC), monotonic=lambda: self.time_s
        )
        made = Quotas(Ledger(self.memory, worker, self.time_s), clock)
        self.quotas[worker] = made
        self.refresh()
        return made

    def kill(self, worker: int) -> None:
        del self.quotas[worker]
        self.refresh()

    def pass_s(self, seconds: float) -> None:
        """As time goes by in a worker that lives."""
        for _ in range(int(seconds)):
            self.time_s += 1.0
            self.refresh()

    def refresh(self) -> None:
        for quotas in self.quotas.values():
            quotas.refresh(list(self.quotas))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(open_ledger(tmp_path / "quotas"))


def ask(quotas: Quotas, limits: UsageLimits, tokens: int = 10) -> Admission | QuotaError:
    try:
        return quotas.admit([("key", "k1", limits)], tokens)
    except QuotaError as error:
        return error


def passed(host: Host, worker: int, limits: UsageLimits, times: int, tokens: int = 10) -> int:
    answers = [ask(host.quotas[worker], limits, tokens) for _ in range(times)]
    return sum(isinstance(answer, Admission) for answer in answers)


def test_two_workers_share_a_limit_and_it_refills_continuously(host: Host) -> None:
    limits = UsageLimits(requests_minute=10)
    host.start(0)
    host.start(1)
    assert sum(passed(host, turn % 2, limits, 1) for turn in range(20)) == 10
    host.time_s += 6.0
    assert passed(host, 0, limits, 5) + passed(host, 1, limits, 5) == 1


def test_a_bucket_regains_the_same_however_often_it_is_asked(host: Host) -> None:
    limits = UsageLimits(requests_minute=600)
    host.start(0)
    admitted = 0
    for _ in range(2000):
        host.time_s += 0.001
        admitted += passed(host, 0, limits, 1)
    assert admitted == pytest.approx(600 + 20, abs=1)


@pytest.mark.parametrize(
    ("limits", "message", "code"),
    [
        (
            {"requests_minute": 1},
            "Requests per minute limit exceeded - too many requests sent.",
            "request_quota_exceeded",
        ),
        (
            {"requests_day": 1},
            "Requests per day limit exceeded - too many requests sent.",
            "request_quota_exceeded",
        ),
        (
            {"tokens_minute": 15},
            "Tokens per minute limit exceeded - too many tokens processed.",
            "token_quota_exceeded",
        ),
        (
            {"concurrency": 1},
            "Concurrent requests limit exceeded - too many requests in flight.",
            "request_quota_exceeded",
        ),
    ],
)
def test_the_refusal_names_the_limit_in_the_hosted_api_s_words(host, limits, message, code):
    quotas = host.start(0)
    assert isinstance(ask(quotas, UsageLimits(**limits)), Admission)
    refusal = ask(quotas, UsageLimits(**limits))
    assert isinstance(refusal, QuotaError)
    assert (refusal.message, refusal.code) == (message, code)
    assert refusal.retry_after_s > 0


def test_an_estimate_is_corrected_when_the_answer_has_come(host: Host) -> None:
    quotas, limits = host.start(0), UsageLimits(tokens_minute=1000)
    first = ask(quotas, limits, 900)
    assert isinstance(ask(quotas, limits, 200), QuotaError)
    quotas.settle(first, 50, answered=True)
    assert isinstance(ask(quotas, limits, 900), Admission)
    assert isinstance(ask(quotas, limits, 100), QuotaError)
    quotas.settle(first, 0, answered=True)  # only the first settlement counts
    assert isinstance(ask(quotas, limits, 100), QuotaError)


def test_a_request_that_nobody_answered_costs_nothing(host: Host) -> None:
    quotas, limits = host.start(0), UsageLimits(requests_day=1, tokens_day=10, concurrency=1)
    for _ in range(5):
        admission = ask(quotas, limits)
        assert isinstance(admission, Admission)
        quotas.settle(admission, 0, answered=False)


def test_an_estimate_above_the_limit_passes_alone_when_nothing_is_used(host: Host) -> None:
    quotas, limits = host.start(0), UsageLimits(tokens_minute=100)
    large = ask(quotas, limits, 5000)
    assert isinstance(large, Admission)
    assert isinstance(ask(quotas, limits, 1), QuotaError)
    quotas.settle(large, 40, answered=True)
    assert isinstance(ask(quotas, limits, 60), Admission)


def test_concurrency_counts_all_workers_and_forgets_a_dead_one(host: Host) -> None:
    limits = UsageLimits(concurrency=2)
    host.start(0)
    host.start(1)
    assert passed(host, 0, limits, 1) + passed(host, 1, limits, 3) == 2
    host.kill(1)
    assert passed(host, 0, limits, 3) == 1


def test_a_restart_of_every_worker_keeps_the_day_s_quota(host: Host) -> None:
    limits = UsageLimits(requests_day=1000)
    host.start(0)
    assert passed(host, 0, limits, 900) == 900
    host.kill(0)
    host.time_s += 60.0
    host.start(0)
    # 60 s of a day's refill of 1000 are 0.7 requests.
    assert passed(host, 0, limits, 200) == 100
    host.kill(0)
    host.start(3)  # a view is taken over twice, by a worker of another column
    assert passed(host, 3, limits, 10) == 0


def test_whom_a_worker_has_not_met_for_long_is_left_to_its_row_and_found_there_again(
    host: Host,
) -> None:
    limits = UsageLimits(requests_day=1000)
    quotas = host.start(0)
    admitted = [ask(quotas, limits) for _ in range(900)]
    host.pass_s(2 * IDLE_S)
    assert quotas.subjects == 1  # its requests are under way
    for one in admitted:
        quotas.settle(one, 10, answered=True)
    host.pass_s(IDLE_S + 1)
    assert quotas.subjects == 0
    again = ask(quotas, limits)
    assert isinstance(again, Admission)
    # 181 s of a day's refill of 1000 are 2.1 requests.
    assert b"x-ratelimit-remaining-requests-day: 101\r\n" in again.fields


def test_a_worker_that_joins_knows_what_the_others_used(host: Host) -> None:
    limits = UsageLimits(requests_hour=50)
    host.start(0)
    assert passed(host, 0, limits, 45) == 45
    host.start(1)
    assert passed(host, 1, limits, 20) == 5
    host.kill(0)
    host.start(0)
    assert passed(host, 0, limits, 5) == 0


def test_what_the_last_view_goes_on_with_has_everybody_s_charges(host: Host) -> None:
    limits = UsageLimits(requests_day=60)
    first, _ = host.start(0), host.start(1)
    admission = ask(first, limits)
    assert passed(host, 1, limits, 20) == 20
    host.time_s += 0.1
    first.settle(admission, 10, answered=True)
    host.quotas.clear()
    host.start(0)
    assert passed(host, 0, limits, 60) == 39


def test_a_changed_limit_counts_for_what_was_used_before(host: Host) -> None:
    quotas = host.start(0)
    assert passed(host, 0, UsageLimits(requests_day=10), 20) == 10
    assert passed(host, 0, UsageLimits(requests_day=15), 20) == 5
    assert isinstance(ask(quotas, UsageLimits(requests_day=3)), QuotaError)


def test_a_changed_limit_is_told_from_the_next_request_on(host: Host) -> None:
    quotas = host.start(0)
    key = ("key", "k1", UsageLimits(tokens_day=1000))
    for limit in (10, 15, 12):
        endpoint = ("endpoint", "e1", UsageLimits(requests_day=limit))
        fields = quotas.admit([key, endpoint], 10).fields
        assert b"x-ratelimit-limit-requests-day: %d\r\n" % limit in fields
    assert b"x-ratelimit-remaining-requests-day: 9\r\n" in fields
    assert b"x-ratelimit-remaining-tokens-day: 970\r\n" in fields


def test_key_and_endpoint_are_charged_together_or_not_at_all(host: Host) -> None:
    quotas = host.start(0)
    key = ("key", "k1", UsageLimits(requests_minute=5, tokens_day=1000))
    endpoint = ("endpoint", "e1", UsageLimits(requests_minute=2))
    for _ in range(2):
        fields = quotas.admit([key, endpoint], 10).fields
    assert b"x-ratelimit-remaining-requests-minute: 0\r\n" in fields
    assert b"x-ratelimit-limit-requests-minute: 2\r\n" in fields
    assert b"x-ratelimit-remaining-tokens-day: 980\r\n" in fields
    with pytest.raises(QuotaError) as refused:
        quotas.admit([key, endpoint], 10)
    assert refused.value.headers["x-ratelimit-remaining-tokens-day"] == "980"
    assert sum(isinstance(ask(quotas, key[2]), Admission) for _ in range(9)) == 3


def test_no_limit_costs_nothing_and_says_nothing(host: Host) -> None:
    admission = host.start(0).admit([("key", "k1", UsageLimits())], 10**9)
    assert (admission.subjects, admission.fields) == ((), b"")


def test_a_full_table_never_stops_a_request(host: Host) -> None:
    quotas, limits = host.start(0), UsageLimits(requests_day=1)
    for number in range(ROWS_TAKEN_MAX):
        quotas.admit([("key", f"k{number}", limits)], 1)
    for _ in range(2):
        quotas.admit([("key", "one too many", limits)], 1)
    for taken in ("k0", f"k{ROWS_TAKEN_MAX - 1}"):
        with pytest.raises(QuotaError):
            quotas.admit([("key", taken, limits)], 1)


def test_a_file_of_another_layout_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "quotas"
    path.write_bytes(b"something else" * 1000)
    memory = open_ledger(path)
    assert len(memory) == FILE_BYTES
    assert memory[64:1064] == bytes(1000)


def test_a_column_that_is_begun_again_has_forgotten_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "quotas"
    column = Column(open_ledger(path), 1)
    column.begin()
    rows = [column.insert(subject) for subject in range(1, 1001)]
    assert all(column.find(subject) == row for subject, row in enumerate(rows, 1))
    column.begin()
    assert column.epoch == 2
    assert not any(column.find(subject) is not None for subject in range(1, 1001))
    assert column.views() == {}


def test_subjects_that_fall_on_one_place_keep_rows_of_their_own(host: Host) -> None:
    column = Column(host.memory, 0)
    subjects = [5 + number * ROWS for number in range(10)]
    rows = [column.insert(subject) for subject in subjects]
    assert len(set(rows)) == 10
    assert [column.find(subject) for subject in subjects] == rows
    assert column.find(6) is None
    assert subject_hash("key", "a") != subject_hash("endpoint", "a")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 60)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.integers(0, 80)),
        st.tuples(st.just("wait"), st.just(0), st.integers(1, 20)),
        st.tuples(st.just("restart"), st.integers(0, 2), st.just(0)),
    ),
    max_size=60,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_whatever_happens_workers_together_admit_no_more_than_the_limit_and_its_refill(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:
    host = Host(open_ledger(tmp_path_factory.mktemp("ledger") / "quotas"))
    limits = UsageLimits(requests_minute=12, tokens_minute=100)
    began_s = host.time_s
    for worker in range(3):
        host.start(worker)
    open_ones: list[tuple[int, Admission]] = []
    admitted = 0
    for what, number, amount in steps:
        if what == "ask":
            answer = ask(host.quotas[number], limits, amount)
            if isinstance(answer, Admission):
                admitted += 1
                open_ones.append((number, answer))
        elif what == "settle" and open_ones:
            worker, admission = open_ones.pop(number % len(open_ones))
            host.quotas[worker].settle(admission, amount, answered=True)
        elif what == "wait":
            # As in a worker: everybody looks twice a second.
            for _ in range(amount * 2):
                host.time_s += 0.5
                host.refresh()
        elif what == "restart":
            host.kill(number)
            open_ones = [one for one in open_ones if one[0] != number]
            host.start(number)
        elapsed_s = host.time_s - began_s
        assert admitted <= 12 * (1 + elapsed_s / 60) + 1e-6


def test_a_worker_that_has_just_begun_is_counted_before_anybody_looks_who_lives(host: Host) -> None:
    limits = UsageLimits(requests_minute=10, concurrency=8)
    first = host.start(0)
    assert passed(host, 0, limits, 3) == 3
    refresh, host.refresh = host.refresh, lambda: None
    host.start(1)
    assert passed(host, 1, limits, 9) == 5
    assert isinstance(ask(first, limits), QuotaError)
    host.refresh = refresh
