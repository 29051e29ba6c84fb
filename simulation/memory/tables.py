"""The schema as this database keeps it: defaults, required columns and constraints, read from the tables' metadata."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ARRAY, CheckConstraint, Column, Table, UniqueConstraint
from sqlalchemy.sql.schema import DefaultClause

from weighbridge.storage.columns import metadata
from weighbridge.storage.tables import REPLICA_FINAL

Row = dict[str, object]
Key = tuple[object, ...]
Test = Callable[[Mapping[str, object]], bool]


@dataclass(frozen=True, slots=True)
class Unique:
    name: str
    columns: tuple[str, ...]
    where: Test | None


@dataclass(frozen=True, slots=True)
class Reference:
    """The columns of a row that name a row of another table."""

    column: str
    table: str


@dataclass(frozen=True, slots=True)
class Schema:
    """One table. `defaults` holds a value for each column that may be left out."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    defaults: Mapping[str, object]
    required: frozenset[str]
    uniques: tuple[Unique, ...]
    references: tuple[Reference, ...]
    checks: tuple[tuple[str, Test], ...]
    unique_columns: frozenset[str]
    numbered: str | None
    """The column that numbers rows as they come."""

    def key_of(self, row: Mapping[str, object]) -> Key:
        return tuple(row[name] for name in self.key)


DEFAULTS: Mapping[str, object] = {
    "1": 1,
    "0": 0,
    "''": "",
    "false": False,
    "'{}'": {},
    "'fifo'": "fifo",
}


def _positive(name: str) -> Test:
    def test(row: Mapping[str, object]) -> bool:
        value = row[name]
        return isinstance(value, int) and value >= 1

    return test


def _sum_positive(row: Mapping[str, object]) -> bool:
    first, second = row["max_unavailable"], row["max_surge"]
    return isinstance(first, int) and isinstance(second, int) and first + second >= 1


CHECKS: Mapping[str, Test] = {
    "replicas >= 1": _positive("replicas"),
    "max_unavailable + max_surge >= 1": _sum_positive,
    "(kind = 'admin') = (org_id IS NULL)": lambda r: (
        (r["kind"] == "admin") == (r["org_id"] is None)
    ),
    "(status = 'done') <= (manifest_digest IS NOT NULL)": lambda r: (
        r["status"] != "done" or r["manifest_digest"] is not None
    ),
}
"""Each check constraint by its text; one that is not here stops the simulation from starting."""

PARTIAL: Mapping[str, Test] = {
    "status IN ('in_progress', 'rolling_back')": lambda r: (
        r["status"] in ("in_progress", "rolling_back")
    ),
    "following": lambda r: bool(r["following"]),
    f"state NOT IN {REPLICA_FINAL}": lambda r: r["state"] not in REPLICA_FINAL,
}
"""Each condition of a partial unique index by its text."""


def _default(column: "Column[object]") -> object:
    default = column.server_default
    if default is None:
        return None
    assert isinstance(default, DefaultClause)
    return [] if isinstance(column.type, ARRAY) else DEFAULTS[str(default.arg)]


def _uniques(table: Table) -> tuple[Unique, ...]:
    found = [
        Unique(str(constraint.name), tuple(c.name for c in constraint.columns), None)
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
    ]
    for index in table.indexes:
        if index.unique:
            where = index.dialect_options["postgresql"]["where"]
            test = None if where is None else PARTIAL[str(where)]
            found.append(Unique(str(index.name), tuple(c.name for c in index.columns), test))
    return tuple(sorted(found, key=lambda unique: unique.name))


def _schema(table: Table) -> Schema:
    uniques = _uniques(table)
    used = {name for unique in uniques for name in unique.columns}
    if any(unique.where for unique in uniques):
        used |= {"state", "status", "following"}
    defaults = {
        c.name: _default(c)
        for c in table.columns
        if c.identity is None and (c.server_default is not None or c.nullable)
    }
    return Schema(
        name=table.name,
        columns=tuple(c.name for c in table.columns),
        key=tuple(c.name for c in table.primary_key.columns),
        defaults=defaults,
        required=frozenset(c.name for c in table.columns if not c.nullable),
        uniques=uniques,
        references=tuple(
            Reference(c.name, reference.column.table.name)
            for c in table.columns
            for reference in c.foreign_keys
        ),
        checks=tuple(
            (str(check.sqltext), CHECKS[str(check.sqltext)])
            for check in table.constraints
            if isinstance(check, CheckConstraint)
        ),
        numbered=next((c.name for c in table.columns if c.identity is not None), None),
        unique_columns=frozenset(used & {c.name for c in table.columns}),
    )


SCHEMAS: Mapping[str, Schema] = {
    table.name: _schema(table)
    for table in metadata.sorted_tables
    if not table.name.startswith("usage_") or table.name == "usage_requests"
}
"""By name; spools and hourly sums of what is used are kept beside all this, and are not simulated."""
MINUS_INFINITY = datetime.min.replace(tzinfo=UTC)
"""PostgreSQL's '-infinity', in the one column that takes it (leases.expires_at)."""
