"""Which controller leads: one lease on the database's clock, and the stored times a new holder sets right."""

import asyncio
from datetime import timedelta

import structlog

from weighbridge.clock import Clock
from weighbridge.control.announce import SharedWake
from weighbridge.errors import StaleError, UnavailableError
from weighbridge.replicas import store as replica_store
from weighbridge.rollouts import store as rollout_store
from weighbridge.storage import lease as leases
from weighbridge.storage.database import Database, Transaction

log = structlog.get_logger()

LEASE_NAME = "controller"
LEASE_LOOP = "lease"
"""What its loop is woken by."""
CONTROLLER_TTL_S = 8.0
"""For so long, at most, nobody leads after a controller has died. A transaction may sit idle for less than is left
of it when a renewal is due (IDLE_TIMEOUT_MS)."""
CONTROLLER_RENEW_S = 2.0
"""So three tries may fail, at intervals that grow, before a fourth is too late."""
LATE_S = 0.05
"""A lease that ends is looked at so much later: until then it is its holder's."""
HAND_OVER_S = 3.0
JUMP_MIN = timedelta(seconds=1)
"""Between the clocks of two controllers; less is the wall clock being kept right."""


class ControllerLease:
    """The right to reconcile; `current` raises StaleError while another control process has it."""

    def __init__(self, database: Database, holder: str, clock: Clock) -> None:
        self._database = database
        self._holder = holder
        self._clock = clock
        self._lease: leases.Lease | None = None
        self._until_s = 0.0

    def current(self) -> leases.Lease:
        """Also when this process was frozen, or away from the database, for as long as a lease lasts."""
        if self._lease is None or self._clock.moment().boot_s >= self._until_s:
            raise StaleError("another control process holds the controller lease")
        return self._lease

    def epoch(self) -> int | None:
        """Of the lease that this process has, as far as it knows."""
        return None if self._lease is None else self._lease.epoch

    async def keep(self) -> float:
        """One pass: take the lease or renew it. Returns when to look again, in seconds.

        Raises UnavailableError without a database; what was held is held on, for as long as it lasts.
        """
        asked_s = self._clock.moment().boot_s  # before the database's, so that ours ends first
        pause_s = CONTROLLER_RENEW_S
        async with self._database.begin() as tx:
            held = self._lease
            if held is not None and not await leases.renew(tx, held, ttl_s=CONTROLLER_TTL_S):
                log.warning("lease.lost", lease=LEASE_NAME, epoch=held.epoch)
                held = None
            if held is None:
                held, left_s = await self._take(tx)
                if held is None:
                    pause_s = min(pause_s, left_s + LATE_S)
            if held is not None:
                await leases.mark(tx, held, self._clock.moment())
        if held is not None and held != self._lease:
            log.info("lease.taken", lease=LEASE_NAME, epoch=held.epoch)
        self._lease = held
        self._until_s = asked_s + CONTROLLER_TTL_S
        return pause_s

    async def _take(self, tx: Transaction) -> tuple[leases.Lease | None, float]:
        """The lease where it is free, and how long it is another's, in seconds."""
        ttl_s = CONTROLLER_TTL_S
        left_s = await leases.left_s(tx, LEASE_NAME, self._holder, ttl_s=ttl_s)
        if left_s:
            return None, left_s
        held = await leases.acquire(tx, LEASE_NAME, self._holder, ttl_s=ttl_s)
        if held is not None:
            await self._set_times(tx)
        return held, 0.0

    async def _set_times(self, tx: Transaction) -> None:
        """Before anybody acts under a new epoch: tell by this clock what the last holder stamped by its own (D6)."""
        last = await leases.last_mark(tx, LEASE_NAME)
        if last is None:
            return
        shift = self._clock.moment().jump_since(last)
        if abs(shift) < JUMP_MIN:
            return
        log.warning("clock.jumped", shift_s=round(shift.total_seconds(), 3))
        await rollout_store.shift_times(tx, shift)
        await replica_store.shift_times(tx, shift)

    async def give_back(self) -> bool:
        """Leave it to another; False when there was nothing to leave. UnavailableError as of any transaction."""
        if self._lease is None:
            return False
        async with self._database.begin() as tx:
            await leases.release(tx, self._lease)
        return True


async def hand_over(keeper: ControllerLease, shared: SharedWake) -> None:
    """At a stop: who stands by leads at once, or when the lease has ended where the database is not told in time."""
    try:
        async with asyncio.timeout(HAND_OVER_S):
            if await keeper.give_back():
                await shared.tell([LEASE_LOOP])
    except (UnavailableError, TimeoutError) as error:
        log.warning("lease.left_to_end", lease=LEASE_NAME, reason=str(error))
