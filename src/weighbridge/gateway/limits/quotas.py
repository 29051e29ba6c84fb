"""Admission by quotas: a worker's decisions on shared counts, in memory alone; nothing here waits for anything.

How exact a limit is over several workers: a check reads every worker's counts, so what one has admitted the
others see at once. Two workers may pass the same check in the same microseconds: at most one request per
further worker too many. What others use between two looks of this worker is taken as used just now, never as
refilled, so a bucket may lag by the refill of REFRESH_S. A worker that dies leaves its reservations charged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from weighbridge.clock import Clock
from weighbridge.gateway.limits.buckets import WINDOWS, Level, rate_headers
from weighbridge.gateway.limits.ledger import (
    IN_FLIGHT,
    REQUESTS,
    TOKENS,
    USED,
    VIEW_UNIX_S,
    Column,
    Ledger,
    subject_hash,
)
from weighbridge.gateway.limits.refusals import concurrency_refusal, window_refusal
from weighbridge.routing.limits import NO_LIMITS, UsageLimits

log = structlog.get_logger()

REFRESH_S = 0.5
"""How often `refresh` is to be called."""
IDLE_S = 60.0
"""A subject that this worker has not met for so long is left to its row."""


@dataclass(slots=True)
class _Seen:
    """What was last read of a subject in one column."""

    epoch: int
    row: int | None
    requests: float = 0.0
    tokens: float = 0.0


@dataclass(slots=True)
class _Subject:
    hash: int
    row: int
    limits: UsageLimits
    at_s: float
    met_s: float
    seen: dict[int, _Seen] = field(default_factory=dict)


@dataclass(slots=True)
class Admission:
    """A request that has passed, and what is charged for it until `Quotas.settle`."""

    subjects: Sequence[_Subject]
    tokens: int
    settled: bool = False


UNLIMITED = Admission((), 0)


class Quotas:
    """Keys and endpoints with limits, as this worker sees them. Time is the clock's (monotonic within one life)."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._epochs: dict[int, int] = {}
        self._stamp = -1.0
        self._live: set[int] = set()
        self._full = False

    def refresh(self, live: Sequence[int]) -> None:
        """Take in what all workers used, and which of them live now (`GatewayView.live_columns`)."""
        now_s, cells = self._clock.monotonic(), self._ledger.own.cells
        for name, subject in list(self._subjects.items()):
            self._update(subject)
            if now_s - subject.met_s > IDLE_S and not cells[subject.row + IN_FLIGHT]:
                del self._subjects[name]
        self._look_for_workers()
        self._live = {*live, self._ledger.worker}

    def admit(
        self, wanted: Sequence[tuple[str, str, UsageLimits]], tokens: int
    ) -> tuple[Admission, dict[str, str]]:
        """Charge one request and its tokens to each (kind, id, limits), or to none of them.

        Returns the admission and the rate-limit headers; raises QuotaError naming the first limit passed.
        """
        self._look_for_workers()
        subjects = [
            found
            for kind, subject_id, limits in wanted
            if limits != NO_LIMITS and (found := self._subject(kind, subject_id, limits))
        ]
        if not subjects:
            return UNLIMITED, {}
        for subject in subjects:
            self._update(subject)
        for subject in subjects:
            self._check(subject, tokens, subjects)
        for subject in subjects:
            self._charge(subject, in_flight=1, requests=1, tokens=tokens)
        return Admission(subjects, tokens), dict(rate_headers(self._levels(subjects)))

    def settle(self, admission: Admission, tokens: int, *, answered: bool) -> None:
        """End of a request: correct its tokens; one that was not answered costs no request. Once is enough."""
        if admission.settled or not admission.subjects:
            return
        admission.settled = True
        for subject in admission.subjects:
            self._charge(
                subject,
                in_flight=-1,
                requests=0 if answered else -1,
                tokens=tokens - admission.tokens,
            )

    def _look_for_workers(self) -> None:
        """A worker that has just begun counts as alive until the next `refresh`."""
        if self._stamp != self._ledger.stamp:
            self._stamp = self._ledger.stamp
            before, self._epochs = self._epochs, self._ledger.epochs()
            self._live |= {w for w, epoch in self._epochs.items() if before.get(w) != epoch}

    def _subject(self, kind: str, subject_id: str, limits: UsageLimits) -> _Subject | None:
        """None, and so no limit, where the table is full: limits never stop the data path."""
        subject = self._subjects.get((kind, subject_id))
        if subject is None:
            subject = self._begin(subject_hash(kind, subject_id), limits)
            if subject is None:
                if not self._full:
                    log.error("limits.table_full", next_step="further keys go without limits")
                self._full = True
                return None
            self._subjects[kind, subject_id] = subject
        subject.met_s = self._clock.monotonic()
        if subject.limits != limits:
            self._update(subject)
            subject.limits = limits
        return subject

    def _begin(self, hashed: int, limits: UsageLimits) -> _Subject | None:
        row = self._ledger.own.insert(hashed)
        if row is None:
            return None
        now_s = self._clock.monotonic()
        subject = _Subject(hashed, row, limits, at_s=now_s, met_s=now_s)
        cells, now_unix_s = self._ledger.own.cells, self._clock.now().timestamp()
        newest = self._ledger.own.view(row)
        for worker in self._epochs:
            column = self._ledger.column(worker)
            found = column.find(hashed)
            if found is None:
                continue
            subject.seen[worker] = _Seen(
                column.epoch, found, column.cells[found + REQUESTS], column.cells[found + TOKENS]
            )
            newest = newest.or_newer(column.view(found))
        for number, (window, used) in enumerate(zip(WINDOWS, newest.used, strict=True)):
            limit = window.limit(limits)
            age_s = now_unix_s - newest.unix_s
            cells[row + USED + number] = window.decayed(used, limit, age_s) if limit else 0.0
        cells[row + VIEW_UNIX_S] = now_unix_s
        return subject

    def _update(self, subject: _Subject) -> None:
        """Refill since the last look, then take in what was charged since, by anyone."""
        now_s = self._clock.monotonic()
        elapsed_s, subject.at_s = now_s - subject.at_s, now_s
        requests, tokens = self._charged_since(subject)
        cells, first = self._ledger.own.cells, subject.row + USED
        for number, window in enumerate(WINDOWS):
            limit = window.limit(subject.limits)
            if limit:
                used = window.decayed(cells[first + number], limit, elapsed_s)
                used += tokens if window.counts_tokens else requests
                cells[first + number] = max(0.0, used)
        cells[subject.row + VIEW_UNIX_S] = self._clock.now().timestamp()

    def _charged_since(self, subject: _Subject) -> tuple[float, float]:
        requests = tokens = 0.0
        for worker in self._epochs:
            column = self._ledger.column(worker)
            seen = self._seen(subject, worker, column)
            if seen.row is None:
                continue
            now_requests = column.cells[seen.row + REQUESTS]
            now_tokens = column.cells[seen.row + TOKENS]
            requests += now_requests - seen.requests
            tokens += now_tokens - seen.tokens
            seen.requests, seen.tokens = now_requests, now_tokens
        return requests, tokens

    def _seen(self, subject: _Subject, worker: int, column: Column) -> _Seen:
        seen = subject.seen.get(worker)
        if seen is None or seen.epoch != column.epoch:
            seen = subject.seen[worker] = _Seen(column.epoch, None)
        if seen.row is None:
            seen.row = column.find(subject.hash)
        return seen

    def _check(self, subject: _Subject, tokens: int, all_of: Sequence[_Subject]) -> None:
        most = subject.limits.concurrency
        if most is not None and self._in_flight(subject) >= most:
            raise concurrency_refusal(rate_headers(self._levels(all_of)))
        for number, window in enumerate(WINDOWS):
            limit = window.limit(subject.limits)
            if not limit:
                continue
            used = self._ledger.own.cells[subject.row + USED + number]
            wait_s = window.wait_s(used, limit, tokens if window.counts_tokens else 1)
            if wait_s > 0:
                raise window_refusal(window, wait_s, rate_headers(self._levels(all_of)))

    def _in_flight(self, subject: _Subject) -> float:
        total = 0.0
        for worker in self._live:
            column = self._ledger.column(worker)
            row = self._seen(subject, worker, column).row
            if row is not None:
                total += max(0.0, column.cells[row + IN_FLIGHT])
        return total

    def _charge(self, subject: _Subject, *, in_flight: int, requests: int, tokens: int) -> None:
        """In the own column; the buckets take it in with the next look, which comes at once."""
        cells, row = self._ledger.own.cells, subject.row
        cells[row + IN_FLIGHT] += in_flight
        cells[row + REQUESTS] += requests
        cells[row + TOKENS] += tokens
        self._update(subject)

    def _levels(self, subjects: Sequence[_Subject]) -> dict[str, Level]:
        """Of each limited window the one with least left."""
        levels: dict[str, Level] = {}
        for subject in subjects:
            for number, window in enumerate(WINDOWS):
                limit = window.limit(subject.limits)
                if not limit:
                    continue
                used = self._ledger.own.cells[subject.row + USED + number]
                level = Level(limit, used, window.reset_s(used, limit))
                known = levels.get(window.name)
                if known is None or level.remaining < known.remaining:
                    levels[window.name] = level
        return levels
