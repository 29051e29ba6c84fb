"""Admission by quotas: a worker's decisions on shared counts, in memory alone; nothing here waits for anything.

How exact a limit is over several workers: a check reads every worker's counts, so what one has admitted the
others see at once. Two workers may pass the same check in the same microseconds: at most one request per
further worker too many. What others use between two looks of this worker is taken as used just now, never as
refilled, so a bucket may lag by the refill of REFRESH_S; its own charges by that of GRAIN_S. A worker that dies
leaves its reservations charged.

This runs twice for each request of a limited key: what does not change between requests is kept in the subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from weighbridge.clock import Clock
from weighbridge.gateway.limits.buckets import WINDOWS, Bucket, Told
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
from weighbridge.structs import Record

log = structlog.get_logger()

GRAIN_S: Final = 0.01
"""A subject's buckets are refilled at most this often."""
REFRESH_S: Final = 0.5
"""How often `refresh` is to be called."""
TOLD_MAX: Final = 4096
"""Pairs of a key and an endpoint whose headers are kept laid out."""
IDLE_S: Final = 60.0
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
    """A key or endpoint; its buckets are refilled up to `at_s`, and it was met last at `met_s`."""

    hash: int
    row: int
    limits: UsageLimits
    at_s: float
    met_s: float
    buckets: Sequence[Bucket] = ()
    seen: dict[int, _Seen] = field(default_factory=dict)


class Admission(Record):
    """A request that has passed, and what is charged for it until `Quotas.settle`.

    `fields` tell the caller how the limits stand; each line ends with CR LF.
    """

    subjects: Sequence[_Subject]
    tokens: int
    fields: bytes = b""
    settled: bool = False


UNLIMITED: Final = Admission((), 0)


class Quotas:
    """Keys and endpoints with limits, as this worker sees them. Time is the clock's (monotonic within one life)."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._cells = ledger.own.cells
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._epochs: dict[int, int] = {}
        self._others: tuple[int, ...] = ()
        self._stamp = -1.0
        self._live: set[int] = set()
        self._full = False
        self._told: dict[tuple[int, int], Told] = {}
        self._unix_offset_s = 0.0

    def refresh(self, live: Sequence[int]) -> None:
        """Take in what all workers used, and which of them live now (`GatewayView.live_columns`)."""
        now_s = self._clock.monotonic()
        self._unix_offset_s = self._clock.now().timestamp() - now_s
        for name, subject in list(self._subjects.items()):
            self._bring_up(subject, now_s)
            self._show(subject, now_s)
            if now_s - subject.met_s > IDLE_S and not self._cells[subject.row + IN_FLIGHT]:
                del self._subjects[name]
                self._told.clear()
        self._look_for_workers()
        self._live = {*live, self._ledger.worker}

    @property
    def subjects(self) -> int:
        """Those whose limits this worker keeps up to now."""
        return len(self._subjects)

    def admit(self, wanted: Sequence[tuple[str, str, UsageLimits]], tokens: int) -> Admission:
        """Charge one request and its tokens to each (kind, id, limits), or to none of them.

        Raises QuotaError naming the first limit passed.
        """
        if self._stamp != self._ledger.stamp:
            self._look_for_workers()
        subjects: list[_Subject] = []
        for kind, subject_id, limits in wanted:
            subject = self._subjects.get((kind, subject_id))
            if subject is None or subject.limits is not limits:
                subject = self._subject(kind, subject_id, limits)
            if subject is not None:
                subjects.append(subject)
        if not subjects:
            return UNLIMITED
        now_s = self._clock.monotonic()
        for subject in subjects:
            self._bring_up(subject, now_s)
        for subject in subjects:
            self._check(subject, tokens, subjects)
        cells = self._cells
        for subject in subjects:
            row, subject.met_s = subject.row, now_s
            cells[row + IN_FLIGHT] += 1
            cells[row + REQUESTS] += 1
            cells[row + TOKENS] += tokens
            for bucket in subject.buckets:
                bucket.used += tokens if bucket.counts_tokens else 1
                cells[row + bucket.cell] = bucket.used
            cells[row + VIEW_UNIX_S] = now_s + self._unix_offset_s
        return Admission(subjects, tokens, self._tell(subjects).fields())

    def _tell(self, subjects: Sequence[_Subject]) -> Told:
        """Kept by the rows of the key and the endpoint, or of the one of them that is limited."""
        rows = subjects[0].row, subjects[-1].row
        told = self._told.get(rows)
        if told is None:
            if len(self._told) >= TOLD_MAX:
                self._told.clear()
            told = self._told[rows] = Told([subject.buckets for subject in subjects])
        return told

    def settle(self, admission: Admission, tokens: int, *, answered: bool) -> None:
        """End of a request: correct its tokens; one that was not answered costs no request. Once is enough."""
        if admission.settled:
            return
        admission.settled = True
        now_s, more = self._clock.monotonic(), tokens - admission.tokens
        cells = self._cells
        for subject in admission.subjects:
            # The newest view is what a restart goes on from, so it must have everybody's charges.
            self._bring_up(subject, now_s)
            row = subject.row
            cells[row + IN_FLIGHT] -= 1
            cells[row + TOKENS] += more
            if not answered:
                cells[row + REQUESTS] -= 1
            for bucket in subject.buckets:
                if bucket.counts_tokens:
                    bucket.used = max(0.0, bucket.used + more)
                elif not answered:
                    bucket.used = max(0.0, bucket.used - 1)
                cells[row + bucket.cell] = bucket.used
            cells[row + VIEW_UNIX_S] = now_s + self._unix_offset_s

    def _look_for_workers(self) -> None:
        """A worker that has just begun counts as alive until the next `refresh`."""
        if self._stamp != self._ledger.stamp:
            self._stamp = self._ledger.stamp
            before, self._epochs = self._epochs, self._ledger.epochs()
            self._live |= {w for w, epoch in self._epochs.items() if before.get(w) != epoch}
            self._others = tuple(w for w in self._epochs if w != self._ledger.worker)

    def _subject(self, kind: str, subject_id: str, limits: UsageLimits) -> _Subject | None:
        """None, and so no limit, where there is none and where the table is full: limits never stop the data path."""
        if limits == NO_LIMITS:
            return None
        subject = self._subjects.get((kind, subject_id))
        if subject is None:
            subject = self._begin(subject_hash(kind, subject_id), limits)
            if subject is None:
                if not self._full:
                    log.error("limits.table_full", next_step="further keys go without limits")
                self._full = True
                return None
            self._subjects[kind, subject_id] = subject
        elif subject.limits != limits:
            now_s = self._clock.monotonic()
            self._bring_up(subject, now_s)
            self._show(subject, now_s)
            self._limit(subject, limits)
        # The same limits may come as another object, from a newer table.
        subject.limits = limits
        return subject

    def _limit(self, subject: _Subject, limits: UsageLimits) -> None:
        """Buckets for these limits, as full as the row says."""
        subject.limits = limits
        self._told.clear()
        used = self._cells[subject.row + USED : subject.row + USED + len(WINDOWS)]
        subject.buckets = [
            Bucket(place, window, limit, used[place])
            for place, window in enumerate(WINDOWS)
            if (limit := window.limit(limits))
        ]

    def _begin(self, hashed: int, limits: UsageLimits) -> _Subject | None:
        row = self._ledger.own.insert(hashed)
        if row is None:
            return None
        now_s = self._clock.monotonic()
        subject = _Subject(hashed, row, limits, at_s=now_s, met_s=now_s)
        cells, now_unix_s = self._cells, self._clock.now().timestamp()
        newest = self._ledger.own.view(row)
        for worker in self._others:
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
        self._limit(subject, limits)
        return subject

    def _bring_up(self, subject: _Subject, now_s: float) -> None:
        """To now: what has been refilled, and what other workers have charged."""
        elapsed_s = now_s - subject.at_s
        if elapsed_s >= GRAIN_S:
            subject.at_s = now_s
            for bucket in subject.buckets:
                left = bucket.used - bucket.refill_per_s * elapsed_s
                bucket.used = left if left > 0 else 0.0
        if self._others:
            self._take_in(subject)

    def _take_in(self, subject: _Subject) -> None:
        """What the other workers have charged since the last look."""
        requests = tokens = 0.0
        for worker in self._others:
            column = self._ledger.column(worker)
            seen = self._seen(subject, worker, column)
            if seen.row is None:
                continue
            now_requests = column.cells[seen.row + REQUESTS]
            now_tokens = column.cells[seen.row + TOKENS]
            requests += now_requests - seen.requests
            tokens += now_tokens - seen.tokens
            seen.requests, seen.tokens = now_requests, now_tokens
        if requests or tokens:
            for bucket in subject.buckets:
                bucket.used = max(0.0, bucket.used + (tokens if bucket.counts_tokens else requests))

    def _show(self, subject: _Subject, now_s: float) -> None:
        """Keep the view in the row: whoever takes this column or subject over goes on from there.

        Its moment is that of the newest charge in it, which the refill may be a grain behind; by the refill's, the
        view with fewer charges could pass for the newer.
        """
        cells, row = self._cells, subject.row
        for bucket in subject.buckets:
            cells[row + bucket.cell] = bucket.used
        cells[row + VIEW_UNIX_S] = now_s + self._unix_offset_s

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
            raise concurrency_refusal(self._tell(all_of).headers())
        for bucket in subject.buckets:
            cost = tokens if bucket.counts_tokens else 1
            if bucket.used + cost > bucket.limit:
                wait_s = bucket.window.wait_s(bucket.used, bucket.limit, cost)
                if wait_s > 0:
                    raise window_refusal(bucket.window, wait_s, self._tell(all_of).headers())

    def _in_flight(self, subject: _Subject) -> float:
        total = max(0.0, self._cells[subject.row + IN_FLIGHT])
        for worker in self._others:
            if worker in self._live:
                column = self._ledger.column(worker)
                row = self._seen(subject, worker, column).row
                if row is not None:
                    total += max(0.0, column.cells[row + IN_FLIGHT])
        return total
