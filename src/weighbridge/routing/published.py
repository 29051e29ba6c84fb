"""SQL of the newest routing table and key table, as gateways on other machines read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import msgspec
from sqlalchemy import text

from weighbridge.errors import StaleError
from weighbridge.routing.model import Table
from weighbridge.storage.database import Transaction

ROUTES, KEYS = "routes", "keys"
WAKE = "tables"
"""What hosts are woken by, through the database, when there is a newer one."""

_HEADS = text("SELECT name, generation, place, pepper_mark FROM gateway_tables ORDER BY name")
_CONTENT = text("SELECT content FROM gateway_tables WHERE name = :name")
_PUT = text(
    """
    INSERT INTO gateway_tables (name, generation, content, place, pepper_mark)
    VALUES (:name, :generation, :content, :place, :pepper_mark)
    ON CONFLICT (name) DO UPDATE
        SET generation = :generation, content = :content, place = :place, pepper_mark = :pepper_mark
        WHERE gateway_tables.generation < :generation
    """
)


@dataclass(frozen=True, slots=True)
class Head:
    """A table without what it says: its number, whose loopback addresses it may name, and its pepper's mark."""

    generation: int
    place: str
    pepper_mark: str


async def heads(tx: Transaction) -> Mapping[str, Head]:
    """By the name of the table; empty before anything was published."""
    rows = await tx.execute(_HEADS)
    return {row.name: Head(row.generation, row.place, row.pepper_mark) for row in rows}


class Published(Generic[Table]):
    """One of the tables, decoded once for each generation."""

    def __init__(self, name: str, kind: type[Table]) -> None:
        self.name = name
        self._kind: type[Table] = kind
        self._table: Table | None = None

    async def read(self, tx: Transaction, head: Head | None) -> Table | None:
        """The newest; None before there is one, and for one that a newer program has written in another way."""
        if head is None:
            return None
        if self._table is None or self._table.generation != head.generation:
            row = (await tx.execute(_CONTENT, {"name": self.name})).one_or_none()
            self._table = None if row is None else _decoded(bytes(row.content), self._kind)
        return self._table

    async def put(self, tx: Transaction, table: Table, *, place: str, pepper_mark: str) -> None:
        """StaleError when the database has a newer one; the caller's transaction holds the controller's lease."""
        values = {
            "name": self.name,
            "generation": table.generation,
            "content": msgspec.json.encode(table),
            "place": place,
            "pepper_mark": pepper_mark,
        }
        if (await tx.execute(_PUT, values)).rowcount != 1:
            raise StaleError(f"another process has published {self.name} meanwhile")


def _decoded(content: bytes, kind: type[Table]) -> Table | None:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError:
        return None
