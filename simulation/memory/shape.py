"""What a statement looks like without its values: equal shapes are compiled once and run with other values."""

from collections.abc import Callable, Hashable, Iterable

from sqlalchemy import BindParameter, Column, Table
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.sql import dml, elements, functions, selectable
from sqlalchemy.sql.base import Executable

Part = Hashable
Walk = Callable[["Shape", object], None]


class UnknownStatementError(Exception):
    """A statement, or a piece of one, that this database does not know; it has to be taught (see docs)."""


class Shape:
    """Collects the parts of a statement in one fixed order: `key` tells shapes apart, `binds` are its values."""

    __slots__ = ("binds", "key")

    def __init__(self) -> None:
        self.key: list[Part] = []
        self.binds: list[BindParameter[object]] = []

    def walk(self, part: object) -> None:
        walk = _WALKS.get(type(part))
        if walk is None:
            walk = _find_walk(part)
        walk(self, part)

    def walk_all(self, parts: Iterable[object]) -> None:
        for part in parts:
            self.walk(part)
        self.key.append(";")


def shape_of(statement: Executable) -> tuple[tuple[Part, ...], list[BindParameter[object]]]:
    """Raises UnknownStatementError for anything that the stores have not used so far."""
    shape = Shape()
    shape.walk(statement)
    return tuple(shape.key), shape.binds


def _find_walk(part: object) -> Walk:
    for kind, walk in _KINDS:
        if isinstance(part, kind):
            _WALKS[type(part)] = walk
            return walk
    raise UnknownStatementError(f"{type(part).__name__}: {part}")


def _column(shape: Shape, part: object) -> None:
    # Columns and tables of the schema live as long as the process, so their identity names them.
    shape.key.append(id(part))


def _named(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.ColumnClause)
    shape.key.append(part.name)


def _bind(shape: Shape, part: object) -> None:
    assert isinstance(part, BindParameter)
    shape.key.append("?")
    shape.binds.append(part)


def _constant(shape: Shape, part: object) -> None:
    shape.key.append(type(part).__name__)


def _binary(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.BinaryExpression)
    shape.key.append(part.operator)
    shape.walk(part.left)
    shape.walk(part.right)


def _clauses(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.ExpressionClauseList)
    shape.key.append(part.operator)
    shape.walk_all(part.clauses)


def _list(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.ClauseList)
    shape.key.append("list")
    shape.walk_all(part.clauses)


def _unary(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.UnaryExpression)
    shape.key += (part.operator, part.modifier)
    shape.walk(part.element)


def _label(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.Label)
    shape.key.append(part.name)
    shape.walk(part.element)


def _grouping(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.Grouping | selectable.ScalarSelect)
    shape.walk(part.element)


def _filter(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.FunctionFilter)
    shape.key.append("filter")
    shape.walk(part.func)
    shape.walk(part.criterion)


def _cast(shape: Shape, part: object) -> None:
    assert isinstance(part, elements.Cast)
    shape.key.append(str(part.type))
    shape.walk(part.clause)


def _exists(shape: Shape, part: object) -> None:
    assert isinstance(part, selectable.Exists)
    shape.key.append("exists")
    shape.walk(part.element)


def _function(shape: Shape, part: object) -> None:
    assert isinstance(part, functions.FunctionElement)
    shape.key.append(part.name)
    shape.walk_all(part.clauses)


def _select(shape: Shape, part: object) -> None:
    assert isinstance(part, selectable.Select)
    key = shape.key
    key += ("select", part._distinct)  # noqa: SLF001 - no public reading of a statement
    shape.walk_all(part._raw_columns)  # noqa: SLF001
    shape.walk_all(part._from_obj)  # noqa: SLF001
    for target, on, _, flags in part._setup_joins:  # noqa: SLF001
        key += (id(target), flags["isouter"])
        shape.walk(on)
    key.append(";")
    shape.walk_all(part._where_criteria)  # noqa: SLF001
    shape.walk_all(part._order_by_clauses)  # noqa: SLF001
    if part._limit_clause is not None:  # noqa: SLF001
        shape.walk(part._limit_clause)  # noqa: SLF001
    shape.walk_all(part._group_by_clauses)  # noqa: SLF001
    lock = part._for_update_arg  # noqa: SLF001
    if lock is not None:
        key += (lock.read, lock.key_share, lock.of is not None)
    key.append(".")


def _update(shape: Shape, part: object) -> None:
    assert isinstance(part, dml.Update)
    shape.key += ("update", id(part.table))
    _assignments(shape, part._values)  # noqa: SLF001
    shape.walk_all(part._where_criteria)  # noqa: SLF001
    shape.walk_all(part._returning)  # noqa: SLF001


def _delete(shape: Shape, part: object) -> None:
    assert isinstance(part, dml.Delete)
    shape.key += ("delete", id(part.table))
    shape.walk_all(part._where_criteria)  # noqa: SLF001


def _insert(shape: Shape, part: object) -> None:
    assert isinstance(part, dml.Insert)
    if part._multi_values or part.select is not None:  # noqa: SLF001
        raise UnknownStatementError(str(part))
    shape.key += ("insert", id(part.table))
    _assignments(shape, part._values)  # noqa: SLF001
    conflict = part._post_values_clause  # noqa: SLF001
    if isinstance(conflict, OnConflictDoNothing | OnConflictDoUpdate):
        shape.key += ("conflict", *(str(c) for c in conflict.inferred_target_elements or ()))
        if isinstance(conflict, OnConflictDoUpdate):
            if conflict.update_whereclause is not None:
                raise UnknownStatementError(str(part))
            _assignments(shape, conflict.update_values_to_set)
    elif conflict is not None:
        raise UnknownStatementError(str(part))
    shape.walk_all(part._returning)  # noqa: SLF001


def _assignments(shape: Shape, values: object) -> None:
    if isinstance(values, dict):
        for column, value in values.items():
            shape.key.append(column if isinstance(column, str) else column.key)
            shape.walk(value)
    shape.key.append("=")


_KINDS: tuple[tuple[type, Walk], ...] = (
    (Column, _column),
    (Table, _column),
    (BindParameter, _bind),
    (elements.ColumnClause, _named),
    (elements.Null, _constant),
    (elements.True_, _constant),
    (elements.False_, _constant),
    (elements.ExpressionClauseList, _clauses),
    (elements.BinaryExpression, _binary),
    (functions.FunctionElement, _function),
    (elements.ClauseList, _list),
    (selectable.Exists, _exists),
    (elements.UnaryExpression, _unary),
    (elements.FunctionFilter, _filter),
    (elements.Cast, _cast),
    (elements.Label, _label),
    (elements.Grouping, _grouping),
    (selectable.ScalarSelect, _grouping),
    (selectable.Select, _select),
    (dml.Update, _update),
    (dml.Delete, _delete),
    (PostgresInsert, _insert),
    (dml.Insert, _insert),
)
_WALKS: dict[type, Walk] = {}
