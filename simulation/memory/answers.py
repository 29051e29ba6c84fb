"""Results as the stores read them: the part of SQLAlchemy's Result and Row that they use."""

from collections import namedtuple
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sqlalchemy.exc import MultipleResultsFound, NoResultFound

from simulation.memory.statements import Answer


@cache
def _row_type(names: tuple[str, ...]) -> type[tuple[object, ...]]:
    fields = list(names)
    base: Any = namedtuple("Row", fields, rename=True)  # type: ignore[misc]  # noqa: PYI024 - known at run time only

    def mapping(self: tuple[object, ...]) -> dict[str, object]:
        return dict(zip(names, self, strict=True))

    made: type[tuple[object, ...]] = type(
        "Row", (base,), {"_mapping": property(mapping), "__slots__": ()}
    )
    return made


class Result:
    """The rows of one statement."""

    __slots__ = ("_answer", "rowcount")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.rowcount = answer.found

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        make = _row_type(self._answer.names)._make  # type: ignore[attr-defined]  # of a named tuple
        return map(make, self._answer.rows)

    def all(self) -> list[tuple[object, ...]]:
        return list(self)

    def scalars(self) -> "Scalars":
        return Scalars([row[0] for row in self._answer.rows])

    def mappings(self) -> list[Mapping[str, object]]:
        names = self._answer.names
        return [dict(zip(names, row, strict=True)) for row in self._answer.rows]

    def one_or_none(self) -> tuple[object, ...] | None:
        if len(self._answer.rows) > 1:
            raise MultipleResultsFound("more than one row")
        return next(iter(self), None)

    def one(self) -> tuple[object, ...]:
        row = self.one_or_none()
        if row is None:
            raise NoResultFound("no row")
        return row

    def first(self) -> tuple[object, ...] | None:
        return next(iter(self), None)

    def scalar_one(self) -> object:
        return self.one()[0]

    def scalar_one_or_none(self) -> object:
        row = self.one_or_none()
        return None if row is None else row[0]


class Scalars(list[object]):
    """The first value of each row."""

    def all(self) -> list[object]:
        return self
