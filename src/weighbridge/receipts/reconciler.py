"""Seal the receipts of ended deployments: the last entry says what the others add up to."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from weighbridge.clock import Clock
from weighbridge.receipts import service, store
from weighbridge.sdk.receipts.chain import link
from weighbridge.sdk.receipts.summary import moment, summarise
from weighbridge.storage import lease
from weighbridge.storage.database import Database, Transaction

log = structlog.get_logger()

LOOK_S = 2.0
SEALED_PARALLEL_MAX = 20
"""Receipts sealed in one pass, in a transaction each."""


@dataclass(frozen=True, slots=True)
class SealTimes:
    """`settle_s`: usage of the last requests is counted by then. `abandon_s`: longest wait for old replicas' ends."""

    settle_s: float = 5.0
    abandon_s: float = 3600.0
    requests_keep_s: float = 3600.0
    """How long single requests are kept to be counted by version."""


class ReceiptReconciler:
    """Reads and writes rows only. `sign` turns a final hash into the operator's signature of it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        lease_of: Callable[[], lease.Lease],
        *,
        times: SealTimes,
        sign: Callable[[str, str], str] | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._lease_of = lease_of
        self._times = times
        self._sign = sign

    async def reconcile(self) -> float:
        """One pass; returns when to look again, in seconds."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            await lease.require(tx, self._lease_of())
            found = await store.sealable(
                tx,
                ended_before=now - timedelta(seconds=self._times.settle_s),
                abandoned_before=now - timedelta(seconds=self._times.abandon_s),
                limit=SEALED_PARALLEL_MAX,
            )
        for deployment_id in found:
            async with self._database.begin() as tx:
                await lease.require(tx, self._lease_of())
                head = await self._seal(tx, deployment_id, now)
            if head is not None:
                # The one line that lets somebody without a secret check a receipt that was made anew.
                log.info("receipt.sealed", deployment_id=deployment_id, head=head)
        return 0.0 if len(found) == SEALED_PARALLEL_MAX else LOOK_S

    async def _seal(self, tx: Transaction, deployment_id: str, now: datetime) -> str | None:
        head = await store.lock(tx, deployment_id)
        if head is None or head.sealed_at is not None:
            return None
        payloads = [one.payload for one in await store.entries_of(tx, deployment_id, head.entries)]
        external = await self._measured(tx, head, payloads, now)
        sealed = {
            "event": "sealed",
            "at": now.isoformat(),
            "summary": summarise(payloads, external),
        }
        entries = link(deployment_id, head.entries, head.head, [sealed])
        last = entries[-1].hash
        signature = None if self._sign is None else self._sign(deployment_id, last)
        await store.seal(tx, head, entries, signature=signature, now=now)
        return last

    async def _measured(
        self,
        tx: Transaction,
        head: store.Head,
        payloads: list[service.Payload],
        now: datetime,
    ) -> dict[str, object]:
        """What the entries do not tell; a figure that nobody has is None, with the reason beside it."""
        times = {str(one.get("event")): moment(one) for one in reversed(payloads)}
        missing = {}
        requests = held = None
        begin, end = times.get("started"), times.get("ended")
        keep_s = self._times.requests_keep_s
        if begin is None or end is None:
            missing["requests"] = missing["held"] = "it never started"
        elif now - begin > timedelta(seconds=keep_s):
            why = f"single requests are kept for {keep_s:g} s only"
            missing["requests"] = missing["held"] = why
        else:
            requests = await store.requests_by_version(tx, head.endpoint_id, begin, end)
            held = await store.held_requests(tx, head.endpoint_id, begin, end)
        return {
            "requests": None if requests is None else [dict(one) for one in requests],
            "held": held,
            "not_measured": missing,
            "omitted_entries": head.omitted,
        }


def signer(key: bytes) -> Callable[[str, str], str]:
    """HMAC-SHA-256 with the operator's key, over the deployment's id and the final hash."""

    def sign(deployment_id: str, head: str) -> str:
        return hmac.new(key, f"{deployment_id}\n{head}".encode(), hashlib.sha256).hexdigest()

    return sign
