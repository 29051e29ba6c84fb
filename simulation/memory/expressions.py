"""Compile SQL expressions into Python source; `r0`, `r1`… are rows of the statement's tables, `p` its values.

Only true and not true are told apart, as a WHERE does: NULL counts as not true, and a NOT over what may be NULL is
refused rather than answered wrongly.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import BindParameter, Column, Table, Text
from sqlalchemy.sql import elements, functions, operators, selectable, visitors

from simulation.memory.shape import UnknownStatementError

_COMPARE = {
    operators.eq: "==",
    operators.ne: "!=",
    operators.lt: "<",
    operators.le: "<=",
    operators.gt: ">",
    operators.ge: ">=",
    operators.in_op: "in",
    operators.not_in_op: "not in",
}
_COMPUTE = {operators.add: "+", operators.sub: "-"}


@dataclass(frozen=True, slots=True)
class Scope:
    """`rows` names the variable of each table; `binds` the position of each value."""

    rows: Mapping[Table, str]
    binds: Mapping[int, int]

    def value(self, part: object) -> str:  # noqa: C901, PLR0911, PLR0912 - one line for each kind
        """The source of one expression."""
        match part:
            case Column():
                return self._column(part)
            case BindParameter():
                return f"p[{self.binds[id(part)]}]"
            case elements.Null():
                return "None"
            case elements.True_():
                return "True"
            case elements.False_():
                return "False"
            case elements.Label() | elements.Grouping():
                return self.value(part.element)
            case selectable.Exists():
                return self._exists(part)
            case elements.AsBoolean():
                whole = part.operator is operators.is_true
                return self.value(part.element) if whole else self._not(part.element)
            case elements.UnaryExpression() if part.operator is operators.inv:
                return self._not(part.element)
            case elements.Cast() if isinstance(part.type, Text):
                return f"text({self.value(part.clause)})"
            case elements.ExpressionClauseList():
                return self._clauses(part)
            case elements.BinaryExpression():
                return self._binary(part)
            case selectable.ScalarSelect():
                return self._scalar(part.element)
            case functions.FunctionElement():
                return self._function(part)
            case _:
                raise UnknownStatementError(f"{type(part).__name__}: {part}")

    def _column(self, column: "Column[object]") -> str:
        row = self.rows.get(column.table)
        if row is None:
            raise UnknownStatementError(f"{column} is of no table of this statement")
        return f"{row}[{column.name!r}]"

    def _clauses(self, part: elements.ExpressionClauseList[object]) -> str:
        words = {operators.and_: " and ", operators.or_: " or "}
        word = words.get(part.operator)
        if word is None:
            raise UnknownStatementError(str(part))
        return "(" + word.join(self.value(clause) for clause in part.clauses) + ")"

    def _binary(self, part: elements.BinaryExpression[object]) -> str:
        left, right = self.value(part.left), self.value(part.right)
        if part.operator is operators.is_:
            return f"({left} is {right})"
        if part.operator is operators.is_not:
            return f"({left} is not {right})"
        if part.operator in _COMPUTE:
            return f"({left} {_COMPUTE[part.operator]} {right})"
        word = _COMPARE.get(part.operator)
        if word is None:
            raise UnknownStatementError(str(part))
        sides = ((part.left, left), (part.right, right))
        guards = "".join(f"{source} is not None and " for side, source in sides if _nullable(side))
        return f"({guards}{left} {word} {right})"

    def _scalar(self, query: object) -> str:
        """A subquery of one column: its first value, or None."""
        return f"next(iter({self.rows_of(query)}), None)"

    def _function(self, part: "functions.FunctionElement[object]") -> str:
        argument = next(iter(part.clauses), None)
        if part.name == "array" and isinstance(argument, selectable.ScalarSelect):
            return self.rows_of(argument.element)
        if part.name in FUNCTIONS:
            given = ", ".join(self.value(clause) for clause in part.clauses)
            return f"{part.name}({given})"
        raise UnknownStatementError(str(part))

    def _not(self, part: object) -> str:
        while isinstance(part, elements.Grouping):
            part = part.element
        if isinstance(part, selectable.Exists) or (isinstance(part, Column) and not part.nullable):
            return f"(not {self.value(part)})"
        raise UnknownStatementError(f"NOT {part}, which may be NULL")

    def _exists(self, part: selectable.Exists) -> str:
        """Of the one table in it that the statement around it does not have."""
        query: object = part.element
        while isinstance(query, selectable.ScalarSelect | elements.Grouping):
            query = query.element
        assert isinstance(query, selectable.Select)
        criteria = query._where_criteria  # noqa: SLF001
        own = {t: None for c in criteria for t in tables_of(c) if t not in self.rows}
        (table,) = own
        name = f"s{len(self.rows)}"
        inner = Scope({**self.rows, table: name}, self.binds)
        where = " and ".join(inner.value(c) for c in criteria)
        return f"any({where} for {name} in tx.view({table.name!r}).values())"

    def rows_of(self, query: object) -> str:
        """The values of a subquery over one table of its own, in its order."""
        if not isinstance(query, selectable.Select) or query._setup_joins:  # noqa: SLF001
            raise UnknownStatementError(str(query))
        (column,) = query._raw_columns  # noqa: SLF001
        assert isinstance(column, Column)
        assert isinstance(column.table, Table)
        table, name = column.table, f"s{len(self.rows)}"
        inner = Scope({**self.rows, table: name}, self.binds)
        where = " and ".join(inner.value(c) for c in query._where_criteria) or "True"  # noqa: SLF001
        rows = f"[{name} for {name} in tx.view({table.name!r}).values() if {where}]"
        order = ", ".join(inner.value(o) for o in query._order_by_clauses)  # noqa: SLF001
        if order:
            rows = f"sorted({rows}, key=lambda {name}: ({order},))"
        return f"[{inner.value(column)} for {name} in {rows}]"


def _nullable(part: object) -> bool:
    return isinstance(part, Column) and bool(part.nullable)


def tables_of(part: object) -> list[Table]:
    """The tables that an expression names, in order."""
    if isinstance(part, Table):
        return [part]
    if not isinstance(part, visitors.ExternallyTraversible):
        return []
    columns = (piece for piece in visitors.iterate(part) if isinstance(piece, Column))
    return list(dict.fromkeys(c.table for c in columns if isinstance(c.table, Table)))


def _text(document: object) -> str:
    """A JSONB value as PostgreSQL writes it: shorter keys first."""
    if isinstance(document, dict):
        names = sorted(document, key=lambda name: (len(name.encode()), name.encode()))
        parts = (f"{json.dumps(name)}: {_text(document[name])}" for name in names)
        return "{" + ", ".join(parts) + "}"
    if isinstance(document, list | tuple):
        return "[" + ", ".join(_text(one) for one in document) + "]"
    return json.dumps(document, ensure_ascii=False)


def _md5(text: object) -> str:
    return hashlib.md5(str(text).encode(), usedforsecurity=False).hexdigest()


def _coalesce(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _greatest(*values: int | None) -> int | None:
    """As PostgreSQL's, that passes over NULL."""
    return max((value for value in values if value is not None), default=None)


FUNCTIONS: Mapping[str, object] = {
    "coalesce": _coalesce,
    "greatest": _greatest,
    "md5": _md5,
    "text": _text,
}
"""What compiled source may call."""
