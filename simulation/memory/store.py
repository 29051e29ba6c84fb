"""Rows, transactions and locks: read committed, row locks of PostgreSQL's four strengths, constraints at once."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.exc import IntegrityError

from simulation.memory.tables import SCHEMAS, Key, Row, Schema

KEY_SHARE, SHARE, NO_KEY_UPDATE, UPDATE = range(4)
_CONFLICTS = (
    (UPDATE,),
    (NO_KEY_UPDATE, UPDATE),
    (SHARE, NO_KEY_UPDATE, UPDATE),
    (KEY_SHARE, SHARE, NO_KEY_UPDATE, UPDATE),
)
Lockable = tuple[str, Key]


@dataclass(frozen=True, slots=True)
class Change:
    """A row before and after a commit; None: it was not, or is no longer, there."""

    table: str
    key: Key
    before: Row | None
    after: Row | None


class BlockedError(Exception):
    """The statement has to wait until these transactions have ended, and starts anew then."""

    def __init__(self, holders: "list[Transaction]") -> None:
        super().__init__("blocked")
        self.holders = holders


@dataclass(slots=True)
class Memory:
    """The committed rows. `now` is the server's clock; `committed` hears of every commit that changed a row."""

    now: Callable[[], datetime]
    committed: Callable[["Transaction", list[Change]], None]
    tables: dict[str, dict[Key, Row]] = field(
        default_factory=lambda: {name: {} for name in SCHEMAS}
    )
    locks: dict[Lockable, dict["Transaction", int]] = field(default_factory=dict)
    begun: int = 0
    numbered: int = 0

    def begin(self) -> "Transaction":
        self.begun += 1
        return Transaction(self, self.begun)


class Transaction:
    """One transaction: what it has written, what it holds, and who waits for it."""

    __slots__ = (
        "_writes",
        "blocked_by",
        "ended",
        "epoch",
        "held",
        "memory",
        "number",
        "waiters",
    )

    def __init__(self, memory: Memory, number: int) -> None:
        self.memory = memory
        self.number = number
        self.epoch: int | None = None
        """Of the lease that this transaction has required, if any (D5)."""
        self.held: set[Lockable] = set()
        self.ended = False
        self.waiters: list[asyncio.Future[object]] = []
        self.blocked_by: list[Transaction] = []
        self._writes: dict[str, dict[Key, Row | None]] = {}

    def view(self, table: str) -> dict[Key, Row]:
        """What this transaction sees at this moment; not to be changed."""
        committed = self.memory.tables[table]
        written = self._writes.get(table) if self._writes else None
        if not written:
            return committed
        merged = committed.copy()
        for key, row in written.items():
            if row is None:
                merged.pop(key, None)
            else:
                merged[key] = row
        return merged

    def lock(self, table: str, key: Key, mode: int) -> None:
        """Take a row's lock, or raise BlockedError; what was taken before is kept, as in PostgreSQL."""
        lockable = (table, key)
        holders = self.memory.locks.get(lockable)
        if holders is None:
            self.memory.locks[lockable] = {self: mode}
        else:
            conflicts = _CONFLICTS[mode]
            blocking = [tx for tx, held in holders.items() if tx is not self and held in conflicts]
            if blocking:
                raise BlockedError(blocking)
            holders[self] = max(mode, holders.get(self, mode))
        self.held.add(lockable)

    def insert(self, table: str, values: Mapping[str, object]) -> Row:
        schema = SCHEMAS[table]
        row: Row = {**schema.defaults, **values}
        if schema.numbered is not None:
            self.memory.numbered += 1
            row[schema.numbered] = self.memory.numbered
        if len(row) != len(schema.columns):
            row = self._complete(schema, row)
        key = schema.key_of(row)
        self.lock(table, key, UPDATE)
        if key in self.view(table):
            raise _violation(f"duplicate key {key} in {table}")
        self._check(schema, row, schema.columns)
        self._check_references(schema, row, None)
        self._check_unique(schema, key, None, row)
        self._put(table, key, row)
        return row

    def update(self, table: str, key: Key, before: Row, changes: Mapping[str, object]) -> Row:
        """The caller has taken the row's lock and read it since."""
        schema = SCHEMAS[table]
        row = {**before, **changes}
        self._check(schema, row, changes)
        # PostgreSQL asks again after what a row of this very transaction names, changed or not.
        ours = key in self._writes.get(table, ())
        self._check_references(schema, row, None if ours else before)
        if not schema.unique_columns.isdisjoint(changes):
            self._check_unique(schema, key, before, row)
        self._put(table, key, row)
        return row

    def delete(self, table: str, key: Key) -> None:
        self._check_unique(SCHEMAS[table], key, self.view(table)[key], None)
        self._writes.setdefault(table, {})[key] = None

    @property
    def changed(self) -> list[str]:
        """The tables of which it has written rows."""
        return sorted(table for table, written in self._writes.items() if written)

    def commit(self) -> None:
        memory = self.memory
        changes = []
        for table, written in self._writes.items():
            committed = memory.tables[table]
            for key, row in written.items():
                before = committed.get(key)
                if row is None:
                    committed.pop(key, None)
                else:
                    committed[key] = row
                if before != row:
                    changes.append(Change(table, key, before, row))
        self.end()
        if changes:
            memory.committed(self, changes)

    def end(self) -> None:
        """Give up every lock and let those who waited look again; without `commit`, nothing was written."""
        if self.ended:
            return
        self.ended = True
        locks = self.memory.locks
        for lockable in self.held:
            holders = locks[lockable]
            del holders[self]
            if not holders:
                del locks[lockable]
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def waits_for(self, other: "Transaction") -> bool:
        """Whether this transaction waits for another, by whatever way around."""
        return any(tx is other or tx.waits_for(other) for tx in self.blocked_by)

    def _put(self, table: str, key: Key, row: Row) -> None:
        written = self._writes.setdefault(table, {})
        written[key] = row

    @staticmethod
    def _complete(schema: Schema, row: Row) -> Row:
        if unknown := row.keys() - set(schema.columns):
            raise KeyError(f"{schema.name} has no column {sorted(unknown)}")
        missing = [name for name in schema.columns if name not in row]
        raise _violation(f"{schema.name}.{missing[0]} may not be NULL")

    def _check(self, schema: Schema, row: Row, written: Iterable[str]) -> None:
        for name in written:
            if row[name] is None and name in schema.required:
                raise _violation(f"{schema.name}.{name} may not be NULL")
        for text, holds in schema.checks:
            if not holds(row):
                raise _violation(f"{schema.name} violates {text}")

    def _check_references(self, schema: Schema, row: Row, before: Row | None) -> None:
        """That the rows exist which this one names, and go on to exist; those that `before` named do."""
        for reference in schema.references:
            value = row[reference.column]
            if value is None or (before is not None and before[reference.column] == value):
                continue
            self.lock(reference.table, (value,), KEY_SHARE)
            if (value,) not in self.view(reference.table):
                raise _violation(f"{schema.name}.{reference.column} names no {value}")

    def _check_unique(
        self, schema: Schema, key: Key, before: Row | None, after: Row | None
    ) -> None:
        for unique in schema.uniques:
            old = _entry(unique.columns, unique.where, before)
            new = _entry(unique.columns, unique.where, after)
            if old == new:
                continue
            for entry in (old, new):
                if entry is not None:
                    self.lock(unique.name, entry, UPDATE)
            if new is None:
                continue
            for other_key, other in self.view(schema.name).items():
                if other_key != key and _entry(unique.columns, unique.where, other) == new:
                    raise _violation(f"{unique.name}: {new} is taken")


def _entry(
    columns: tuple[str, ...], where: Callable[[Row], bool] | None, row: Row | None
) -> Key | None:
    """What a row puts into a unique index; None when it is not in it."""
    if row is None or (where is not None and not where(row)):
        return None
    entry = tuple(row[name] for name in columns)
    return None if None in entry else entry


def _violation(words: str) -> IntegrityError:
    return IntegrityError(words, None, Exception(words))
