"""SQL of idempotency keys: answers that were given, to be given again instead of doing a thing twice (D7)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import idempotency_keys

KEPT_S = 24 * 3600.0
"""After this a key is as good as new."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """`request_digest` tells the same request from another one that was sent with the same key."""

    request_digest: bytes
    answer: str


async def hold(tx: Transaction, org_id: str, key: str) -> bool:
    """Until the transaction ends nobody else works on this key; False while another does."""
    name = f"idempotency:{org_id}:{key}"
    held = select(func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))
    return bool((await tx.execute(held)).scalar_one())


async def find(tx: Transaction, org_id: str, key: str, *, now: datetime) -> KeptAnswer | None:
    query = select(idempotency_keys.c.request_digest, idempotency_keys.c.answer).where(
        idempotency_keys.c.org_id == org_id,
        idempotency_keys.c.key == key,
        idempotency_keys.c.created_at > now - timedelta(seconds=KEPT_S),
    )
    row = (await tx.execute(query)).one_or_none()
    return None if row is None else KeptAnswer(bytes(row.request_digest), row.answer)


async def keep(tx: Transaction, org_id: str, key: str, kept: KeptAnswer, *, now: datetime) -> None:
    """In the transaction of what was done, under `hold`; takes the place of one that is too old."""
    values = {"request_digest": kept.request_digest, "answer": kept.answer, "created_at": now}
    await tx.execute(
        insert(idempotency_keys)
        .values(org_id=org_id, key=key, **values)
        .on_conflict_do_update(index_elements=["org_id", "key"], set_=values)
    )
