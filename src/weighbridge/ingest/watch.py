"""Keeps one claim while its sync works: renews the lease, writes progress, sees a cancellation and the time limit."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from weighbridge.errors import StaleError, UnavailableError, WeighbridgeError
from weighbridge.ingest import store
from weighbridge.ingest.pulse import Pulse
from weighbridge.ingest.s3.faults import SourceError
from weighbridge.storage import lease
from weighbridge.storage.database import Database
from weighbridge.storage.lease import LEASE_RENEW_S, LEASE_TTL_S, Lease

log = structlog.get_logger()

TICK_S = 1.0
"""Progress is written at most this often; a cancellation is seen within LEASE_RENEW_S."""


RATE_WINDOW_S = 10.0
MEASURED_STEP = "fetch"
"""Other steps count bytes that do not come from the source."""


class Rate:
    """Bytes per second over the last RATE_WINDOW_S of one step; None until there are two moments to compare."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque()
        self._step = ""

    def note(self, now_s: float, step: str, bytes_done: int) -> None:
        # A new step counts anew, and so does one that was set back.
        if step != self._step or (self._moments and bytes_done < self._moments[-1][1]):
            self._moments.clear()
        self._step = step
        self._moments.append((now_s, bytes_done))
        while len(self._moments) > 2 and self._moments[1][0] <= now_s - RATE_WINDOW_S:
            self._moments.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        if len(self._moments) < 2 or self._step != MEASURED_STEP:
            return None
        (first_s, first), (last_s, last) = self._moments[0], self._moments[-1]
        return (last - first) / max(last_s - first_s, 1e-3)


class SyncCancelledError(WeighbridgeError):
    code = "CANCELLED"


class Watch:
    """An async context around a sync's work. What it finds wrong stops the pulse, whose threads then raise it."""

    def __init__(
        self,
        database: Database,
        held: Lease,
        version_id: str,
        *,
        monotonic: Callable[[], float],
        spent_s: float,
        total_s: float,
    ) -> None:
        self._database = database
        self._monotonic = monotonic
        self._held = held
        self._version_id = version_id
        self._spent_before_s = spent_s
        self._total_s = total_s
        self._started = self._renewed = monotonic()
        self._written: tuple[str, int, int] = ("", -1, -1)
        self._rate = Rate()
        self._retries_before = self._retries_written = 0
        self._cause: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self.pulse = Pulse(monotonic)
        self.step = ""
        self.files_done = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"watch {self._version_id}")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def age_s(self) -> float:
        """Since this claim began to work."""
        return self._monotonic() - self._started

    def check(self) -> None:
        """Raise what ended the sync, if anything did."""
        if self._cause is not None:
            raise self._cause

    def stop(self, cause: Exception) -> None:
        self._cause = self._cause or cause
        self.pulse.stop(self._cause)

    def restart(self, *, bytes_done: int = 0) -> None:
        """A new pulse for a new attempt; an order to stop stays one."""
        self._retries_before += self.pulse.retries
        self.pulse = Pulse(self._monotonic, bytes_done=bytes_done)
        if self._cause is not None:
            self.pulse.stop(self._cause)

    async def _run(self) -> None:
        while self._cause is None:
            try:
                await self._tick()
            except StaleError as error:
                self.stop(error)
            except UnavailableError as error:
                # Without a database nobody can take the lease either, until it has run out.
                if self._monotonic() - self._renewed > LEASE_TTL_S:
                    self.stop(StaleError(f"lost the lease of {self._version_id}: {error.message}"))
            await asyncio.sleep(TICK_S)

    async def _tick(self) -> None:
        spent_s = self._spent_before_s + self._monotonic() - self._started
        if spent_s > self._total_s:
            self.stop(
                SourceError(
                    f"The sync took longer than {self._total_s:.0f} s. Look at the speed of the source, "
                    "and upload again.",
                    code="TIME_LIMIT",
                )
            )
            return
        seen = (self.step, self.pulse.bytes_done, self.files_done)
        retries = self._retries_before + self.pulse.retries
        self._rate.note(self._monotonic(), self.step, self.pulse.bytes_done)
        due = self._monotonic() - self._renewed >= LEASE_RENEW_S
        if seen == self._written and not due:
            return
        began = self._monotonic()
        async with self._database.begin() as tx:
            if due and not await lease.renew(tx, self._held):
                raise StaleError(f"lost the lease of {self._version_id}")
            cancelled = await store.record_progress(
                tx,
                self._held,
                self._version_id,
                step=seen[0],
                bytes_done=seen[1],
                files_done=seen[2],
                spent_s=spent_s,
                bytes_per_s=self._rate.bytes_per_s,
                retries_more=retries - self._retries_written,
            )
        self._written, self._retries_written = seen, retries
        if due:
            self._renewed = began
        if cancelled:
            self.stop(SyncCancelledError("The sync was cancelled, or its version deleted."))
