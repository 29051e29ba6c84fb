"""Named counters that only grow: route generations, deployment order."""

from sqlalchemy import text

from weighbridge.storage.database import Transaction

_NEXT = text(
    """
    INSERT INTO counters (name, value) VALUES (:name, 1)
    ON CONFLICT (name) DO UPDATE SET value = counters.value + 1
    RETURNING value
    """
)


async def next_value(tx: Transaction, name: str) -> int:
    """The next value of a counter, from 1; the row stays locked until commit, so values keep commit order."""
    row = (
        await tx.execute(
            _NEXT,
            {"name": name},
        )
    ).one()
    return int(row.value)
