"""A real PostgreSQL beside the rows in memory: each statement is executed on both, and both must say the same."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from sqlalchemy import Connection, Insert, Select, TextClause, create_engine, insert, select, text
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql.base import Executable

from simulation.memory.database import Executor
from simulation.memory.statements import Answer
from simulation.memory.store import Memory
from simulation.memory.store import Transaction as Rows
from simulation.memory.tables import SCHEMAS
from weighbridge.storage.columns import metadata
from weighbridge.storage.database import driver_url

LOCK_TIMEOUT_MS = 2_000
"""What memory says may run now must not wait here."""
CLOCK = """
    CREATE OR REPLACE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$ SELECT current_setting('simulation.now')::timestamptz $$
"""
NOT_COMPARED = {"leases": {"expires_at"}, "usage_requests": {"id"}}
"""A released lease ends at -infinity, which Python has no time for; numbers go on from world to world."""


class DifferenceError(Exception):
    """PostgreSQL and the rows in memory do not agree."""


class BesidePostgres(Executor):
    """Executes in memory first, which decides who waits for whom; `schema` is one that is migrated and ours alone."""

    def __init__(self, url: str, schema: str) -> None:
        # Its own clock_timestamp() comes before the server's.
        options = (
            f"-c search_path={schema},pg_catalog -c timezone=UTC -c lock_timeout={LOCK_TIMEOUT_MS}"
        )
        self._engine = create_engine(driver_url(url), connect_args={"options": options})
        self._open: dict[Rows, Connection] = {}
        self.statements = 0
        with self._engine.begin() as connection:
            connection.execute(text(CLOCK))

    def clear(self) -> None:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        with self._engine.begin() as connection:
            connection.execute(text(f"TRUNCATE {names}"))

    def close(self) -> None:
        self._engine.dispose()

    def furnished(self, memory: Memory) -> None:
        with self._engine.begin() as connection:
            for table in metadata.sorted_tables:
                rows = list(memory.tables.get(table.name, {}).values())
                if rows:
                    connection.execute(insert(table), rows)

    def begin(self, memory: Memory) -> Rows:
        rows = memory.begin()
        self._open[rows] = self._engine.connect()
        return rows

    def execute(self, rows: Rows, statement: Executable, parameters: object) -> Answer:
        answer = super().execute(rows, statement, parameters)
        connection = self._open[rows]
        now = rows.memory.now().isoformat()
        connection.execute(text("SELECT set_config('simulation.now', :now, true)"), {"now": now})
        assert parameters is None or isinstance(parameters, Mapping | list)
        result = connection.execute(statement, parameters)
        self.statements += 1
        _compare(statement, answer, result)
        return answer

    def commit(self, rows: Rows) -> None:
        connection = self._open.pop(rows)
        connection.commit()
        connection.close()
        rows.commit()

    def rollback(self, rows: Rows) -> None:
        connection = self._open.pop(rows, None)
        if connection is not None:
            connection.rollback()
            connection.close()
        rows.end()

    def finished(self, memory: Memory) -> None:
        """Raises DifferenceError unless every row is the same in both."""
        with self._engine.connect() as connection:
            for table in metadata.sorted_tables:
                if table.name not in SCHEMAS:
                    continue
                hidden = NOT_COMPARED.get(table.name, set())
                columns = [c for c in table.columns if c.name not in hidden]
                theirs = [tuple(row) for row in connection.execute(select(*columns))]
                ours = [
                    tuple(row[c.name] for c in columns)
                    for row in memory.tables[table.name].values()
                ]
                _require_equal(f"rows of {table.name}", ours, theirs, ordered=False)


def _compare(
    statement: Executable, answer: Answer, result: "CursorResult[tuple[object, ...]]"
) -> None:
    # The driver asks for the number of a new row by itself; nobody reads that.
    asked = not isinstance(statement, Insert) or bool(statement._returning)  # noqa: SLF001
    if result.returns_rows and asked:
        theirs = [tuple(row) for row in result]
        ordered = isinstance(statement, TextClause) or (
            isinstance(statement, Select) and bool(statement._order_by_clauses)  # noqa: SLF001
        )
        _require_equal(str(statement), answer.rows, theirs, ordered=ordered)
    elif answer.found != result.rowcount and result.rowcount >= 0:
        raise DifferenceError(f"{statement}: {answer.found} rows here, {result.rowcount} there")


def _require_equal(
    what: str,
    ours: Sequence[tuple[object, ...]],
    theirs: Sequence[tuple[object, ...]],
    *,
    ordered: bool,
) -> None:
    left, right = [_shown(row) for row in ours], [_shown(row) for row in theirs]
    if not ordered:
        left.sort()
        right.sort()
    if left != right:
        raise DifferenceError(f"{what}\nin memory:  {left}\nPostgreSQL: {right}")


def _shown(row: tuple[object, ...]) -> str:
    return repr([_plain(value) for value in row])


def _plain(value: object) -> object:
    if isinstance(value, Decimal | float | int) and not isinstance(value, bool):
        return round(float(value), 6)
    if isinstance(value, Mapping):
        return sorted((name, _plain(part)) for name, part in value.items())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
