"""Typed reading of a JSON object's members; members nobody asks for are left alone."""

from collections.abc import Mapping, Sequence

from weighbridge.sdk.errors import AnswerError


class Fields:
    """One JSON object of an answer; `what` names it in the AnswerError a missing member raises."""

    def __init__(self, body: object, what: str) -> None:
        if not isinstance(body, Mapping):
            raise AnswerError(f"Expected {what} as a JSON object, got {type(body).__name__}.")
        self.raw: Mapping[str, object] = body
        self.what = what

    def text(self, name: str) -> str:
        value = self.text_or_none(name)
        if value is None:
            raise self._missing(name, "a string")
        return value

    def text_or_none(self, name: str) -> str | None:
        value = self.raw.get(name)
        return value if isinstance(value, str) else None

    def integer(self, name: str) -> int:
        value = self.integer_or_none(name)
        if value is None:
            raise self._missing(name, "a number")
        return value

    def integer_or_none(self, name: str) -> int | None:
        value = self.raw.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return int(value)

    def number_or_none(self, name: str) -> float | None:
        value = self.raw.get(name)
        return None if isinstance(value, bool) or not isinstance(value, int | float) else value

    def count(self, name: str) -> int:
        """A number that is 0 where the server does not say."""
        return self.integer_or_none(name) or 0

    def flag(self, name: str) -> bool:
        return self.raw.get(name) is True

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(str(item) for item in self._sequence(name))

    def parts(self, name: str, what: str) -> tuple["Fields", ...]:
        return tuple(Fields(item, what) for item in self._sequence(name))

    def part(self, name: str) -> "Fields":
        return Fields(self.raw.get(name), f"{name} of {self.what}")

    def part_or_none(self, name: str) -> "Fields | None":
        return None if self.raw.get(name) is None else self.part(name)

    def _sequence(self, name: str) -> Sequence[object]:
        value = self.raw.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._missing(name, "a list")
        return value

    def _missing(self, name: str, kind: str) -> AnswerError:
        return AnswerError(f"Expected member {name!r} of {self.what} to be {kind}.")
