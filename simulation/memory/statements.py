"""Compile SELECT, INSERT, UPDATE and DELETE into functions over a transaction."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Column, Table
from sqlalchemy.dialects.postgresql.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.sql import dml, elements, functions, operators, selectable
from sqlalchemy.sql.base import Executable

from simulation.memory.expressions import FUNCTIONS, Scope, tables_of
from simulation.memory.shape import UnknownStatementError
from simulation.memory.store import KEY_SHARE, NO_KEY_UPDATE, SHARE, UPDATE, Transaction
from simulation.memory.tables import SCHEMAS, Key, Row

Values = Sequence[object]
Records = Sequence[Mapping[str, object]]


class Answer(NamedTuple):
    """What a statement gave: the names of its columns, its rows, and how many rows it found or changed."""

    names: tuple[str, ...]
    rows: list[tuple[object, ...]]
    found: int


Run = Callable[[Transaction, Values, Records], Answer]
NOTHING: Records = ()


def plain(value: object) -> object:
    """As a column stores it: a word of an enumeration is its text."""
    return value.value if isinstance(value, Enum) else value


def compile_statement(statement: Executable, binds: Sequence["BindParameter[object]"]) -> Run:
    """Raises UnknownStatementError for what the stores have not used so far."""
    positions = {id(bind): position for position, bind in enumerate(binds)}
    if isinstance(statement, selectable.Select):
        return _select(statement, positions)
    if isinstance(statement, dml.Update):
        return _update(statement, positions)
    if isinstance(statement, dml.Delete):
        return _delete(statement, positions)
    if isinstance(statement, dml.Insert):
        return _insert(statement, positions)
    raise UnknownStatementError(str(statement))


def _function(source: str) -> Callable[..., object]:
    made: Callable[..., object] = eval(source, dict(FUNCTIONS))  # noqa: S307 - our own source
    return made


def _where(scope: Scope, criteria: Sequence[object]) -> str:
    return " and ".join(scope.value(part) for part in criteria) or "True"


def _key_source(scope: Scope, table: Table, criteria: Sequence[object]) -> str | None:
    """The key of the one row that can match, where the criteria name a key of one column by a value."""
    schema = SCHEMAS[table.name]
    if len(schema.key) != 1:
        return None
    for part in criteria:
        if isinstance(part, elements.BinaryExpression) and part.operator is operators.eq:
            for one, other in ((part.left, part.right), (part.right, part.left)):
                if one is table.c[schema.key[0]] and (
                    isinstance(other, BindParameter)
                    or (isinstance(other, Column) and other.table in scope.rows)
                ):
                    return f"({scope.value(other)},)"
    return None


def _rows_source(scope: Scope, table: Table, criteria: Sequence[object]) -> str:
    view = f"tx.view({table.name!r})"
    key = _key_source(scope, table, criteria)
    if key is None:
        return f"{view}.values()"
    return f"[row for row in ({view}.get({key}),) if row is not None]"


def _select(  # noqa: C901 - one step after the other
    query: "selectable.Select[tuple[object, ...]]", binds: Mapping[int, int]
) -> Run:
    columns = _columns(query)
    parts = (*columns, *query._from_obj, *query._where_criteria)  # noqa: SLF001 - no public reading
    if any(t.name not in SCHEMAS for part in parts for t in tables_of(part)):
        # What is used is summed up beside all this, and is not simulated: there never is any.
        unused = Answer(tuple(_name(c) for c in columns), [], 0)
        if _counts(query):
            unused = Answer(("count",), [(0,)], 1)
        return lambda tx, p, records: unused
    tables, loops, scope = _sources(query, binds)
    highest = _highest(columns, scope)
    lock = query._for_update_arg  # noqa: SLF001 - a statement has no public reading
    variables = ", ".join(f"r{n}" for n in range(len(tables)))
    found = _function(f"lambda tx, p: [({variables},) {loops}]")
    values = "" if highest else ", ".join(scope.value(column) for column in columns)
    # One function over all rows: a call for each would cost more than what it does.
    projection = f"lambda tx, p, rows: [({values},) for ({variables},) in rows]"
    project = _function(projection if values else "None")
    sorts = [_sort(scope, variables, clause) for clause in query._order_by_clauses]  # noqa: SLF001
    limit = query._limit_clause  # noqa: SLF001
    limit_at = None if limit is None else binds[id(limit)]
    names = () if highest else tuple(_name(column) for column in columns)
    locked = [table for table in tables if lock is None or not lock.of or table in lock.of]
    mode = None if lock is None else _mode(read=lock.read, key_share=lock.key_share)
    places = [(tables.index(table), table.name) for table in locked]
    distinct = query._distinct is True  # noqa: SLF001
    counted = _counts(query)

    def run(tx: Transaction, p: Values, _: Records) -> Answer:
        rows = found(tx, p)
        assert isinstance(rows, list)
        if counted:
            return Answer(("count",), [(len(rows),)], 1)
        if highest is not None:
            return Answer(("max",), [(highest(tx, p, rows),)], 1)
        for key, reverse in reversed(sorts if len(rows) > 1 else ()):
            keys: list[Any] = key(tx, p, rows)  # what a column holds can be compared
            order = sorted(range(len(rows)), key=keys.__getitem__, reverse=reverse)
            rows = [rows[place] for place in order]
        if limit_at is not None:
            rows = rows[: int(str(p[limit_at]))]
        if mode is not None:
            for row in rows:
                for place, table in places:
                    tx.lock(table, SCHEMAS[table].key_of(row[place]), mode)
        answers = project(tx, p, rows)
        assert isinstance(answers, list)
        if distinct:
            answers = list(dict.fromkeys(answers))
        return Answer(names, answers, len(answers))

    return run


def _highest(columns: Sequence[object], scope: Scope) -> Callable[..., object] | None:
    """`coalesce(max(column), value)` as the only column."""
    match columns:
        case [functions.coalesce() as outer]:
            inner, otherwise = outer.clauses
            assert isinstance(inner, functions.max)
            (column,) = inner.clauses
            return _function(
                f"lambda tx, p, rows: max(({scope.value(column)} for (r0,) in rows), "
                f"default={scope.value(otherwise)})"
            )
        case _:
            return None


def _counts(query: "selectable.Select[tuple[object, ...]]") -> bool:
    columns = query._raw_columns  # noqa: SLF001
    return len(columns) == 1 and getattr(columns[0], "name", "") == "count"


def _columns(query: "selectable.Select[tuple[object, ...]]") -> list[object]:
    columns: list[object] = []
    if _counts(query):
        return columns
    for column in query._raw_columns:  # noqa: SLF001
        columns += list(column.columns) if isinstance(column, Table) else [column]
    return columns


def _name(column: object) -> str:
    if isinstance(column, Column | elements.Label):
        return str(column.name)
    raise UnknownStatementError(f"a column without a name: {column}")


def _sources(
    query: "selectable.Select[tuple[object, ...]]", binds: Mapping[int, int]
) -> tuple[list[Table], str, Scope]:
    """The tables of a query, the loops that bring their rows together, and what names them."""
    joins = [
        (target, on, flags)
        for target, on, _, flags in query._setup_joins  # noqa: SLF001
        if isinstance(target, Table)
    ]
    joined = [target for target, *_ in joins]
    first: dict[Table, None] = {}
    for part in (*query._from_obj, *_columns(query)):  # noqa: SLF001
        table = part if isinstance(part, Table) else getattr(part, "table", None)
        if isinstance(table, Table) and table not in joined:
            first[table] = None
    if not first:  # it counts, or takes the highest
        named = (t for part in query._where_criteria for t in tables_of(part))  # noqa: SLF001
        first = dict.fromkeys(t for t in named if t not in joined)
    tables = [*first, *joined]
    if len(first) != 1 or any(flags["isouter"] or flags["full"] for *_, flags in joins):
        raise UnknownStatementError(str(query))
    known: dict[Table, str] = {tables[0]: "r0"}
    criteria = tuple(query._where_criteria)  # noqa: SLF001
    loops = f"for r0 in {_rows_source(Scope({}, binds), tables[0], criteria)}"
    for number, (target, on, _) in enumerate(joins, 1):
        source = _rows_source(Scope(dict(known), binds), target, (on,))
        known[target] = f"r{number}"
        loops += f" for r{number} in {source} if {Scope(dict(known), binds).value(on)}"
    scope = Scope(known, binds)
    return tables, f"{loops} if {_where(scope, criteria)}", scope


def _sort(scope: Scope, variables: str, clause: object) -> tuple[Callable[..., object], bool]:
    reverse = False
    if isinstance(clause, elements.UnaryExpression):
        reverse = clause.modifier is operators.desc_op
        clause = clause.element
    key = scope.value(clause)
    if isinstance(clause, Column) and clause.nullable:
        # NULL comes after everything else.
        key = f"({key} is None, {key})"
    source = f"lambda tx, p, rows: [{key} for ({variables},) in rows]"
    made: Callable[..., list[Any]] = _function(source)  # type: ignore[assignment]  # as the source says
    return made, reverse


def _mode(*, read: bool, key_share: bool) -> int:
    if read:
        return KEY_SHARE if key_share else SHARE
    return NO_KEY_UPDATE if key_share else UPDATE


def _update(statement: dml.Update, binds: Mapping[int, int]) -> Run:
    table = statement.table
    assert isinstance(table, Table)
    name = table.name
    scope = Scope({table: "r0"}, binds)
    criteria = tuple(statement._where_criteria)  # noqa: SLF001
    if statement._returning:  # noqa: SLF001
        raise UnknownStatementError(str(statement))
    rows = _rows_source(Scope({}, binds), table, criteria)
    found = _function(f"lambda tx, p: [r0 for r0 in {rows} if {_where(scope, criteria)}]")
    values = statement._values  # noqa: SLF001
    change = None if values is None else _assign(scope, values, "r0")
    schema = SCHEMAS[name]

    def run(tx: Transaction, p: Values, records: Records) -> Answer:
        matching = found(tx, p)
        assert isinstance(matching, list)
        for row in matching:
            key = schema.key_of(row)
            tx.lock(name, key, NO_KEY_UPDATE)
            if change is not None:
                changes = change(tx, p, row)
            else:  # the call names the columns
                (record,) = records
                changes = {n: plain(v) for n, v in record.items() if n in schema.columns}
            tx.update(name, key, row, changes)
        return Answer((), [], len(matching))

    return run


def _assign(
    scope: Scope, values: object, row: str
) -> Callable[[Transaction, Values, Row], dict[str, object]]:
    assert isinstance(values, dict)
    parts = [
        f"{(column if isinstance(column, str) else column.key)!r}: plain({scope.value(value)})"
        for column, value in values.items()
    ]
    source = f"lambda tx, p, {row}: {{{', '.join(parts)}}}"
    made: Callable[[Transaction, Values, Row], dict[str, object]]
    made = eval(source, {"plain": plain, **FUNCTIONS})  # noqa: S307 - our own source
    return made


def _delete(statement: dml.Delete, binds: Mapping[int, int]) -> Run:
    table = statement.table
    assert isinstance(table, Table)
    name = table.name
    if any(r.table == name for schema in SCHEMAS.values() for r in schema.references):
        raise UnknownStatementError(f"other tables name {name}, and rows of it go")
    scope = Scope({table: "r0"}, binds)
    criteria = tuple(statement._where_criteria)  # noqa: SLF001
    found = _function(
        f"lambda tx, p: [r0 for r0 in tx.view({name!r}).values() if {_where(scope, criteria)}]"
    )
    schema = SCHEMAS[name]

    def run(tx: Transaction, p: Values, _: Records) -> Answer:
        matching = found(tx, p)
        assert isinstance(matching, list)
        keys = [schema.key_of(row) for row in matching]
        for key in keys:
            tx.lock(name, key, UPDATE)
        for key in keys:
            tx.delete(name, key)
        return Answer((), [], len(keys))

    return run


def _insert(statement: dml.Insert, binds: Mapping[int, int]) -> Run:
    table = statement.table
    assert isinstance(table, Table)
    name = table.name
    scope = Scope({table: "r0"}, binds)
    conflict = statement._post_values_clause  # noqa: SLF001
    values = statement._values  # noqa: SLF001
    given = None if values is None else _assign(scope, values, "r0")
    returning = tuple(statement._returning)  # noqa: SLF001
    names = tuple(_name(column) for column in returning)
    targets: tuple[str, ...] = ()
    change = None
    if isinstance(conflict, OnConflictDoNothing | OnConflictDoUpdate):
        targets = tuple(str(column) for column in conflict.inferred_target_elements or ())
    if isinstance(conflict, OnConflictDoUpdate):
        change = _assign(scope, conflict.update_values_to_set, "r0")

    def run(tx: Transaction, p: Values, records: Records) -> Answer:
        rows = []
        empty: Row = {}
        for record in records or (given(tx, p, empty) if given else empty,):
            wanted = {column: plain(value) for column, value in record.items()}
            there = _conflicting(tx, name, targets, wanted) if targets else None
            if there is None:
                rows.append(tx.insert(name, wanted))
            elif change is not None:
                tx.lock(name, there, NO_KEY_UPDATE)
                before = tx.view(name)[there]
                rows.append(tx.update(name, there, before, change(tx, p, before)))
        return Answer(names, [tuple(row[n] for n in names) for row in rows], len(rows))

    return run


def _conflicting(
    tx: Transaction, table: str, targets: tuple[str, ...], wanted: Mapping[str, object]
) -> Key | None:
    schema = SCHEMAS[table]
    entry = tuple(wanted[column] for column in targets)
    if targets == schema.key:
        # Whoever inserts the same key now is waited for.
        tx.lock(table, entry, NO_KEY_UPDATE)
    for key, row in tx.view(table).items():
        if tuple(row[column] for column in targets) == entry:
            return key
    return None
