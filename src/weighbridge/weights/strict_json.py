"""JSON from strangers, parsed strictly: UTF-8, no duplicate names, no NaN, and named limits before any parsing."""

import json
import math
from dataclasses import dataclass
from typing import NoReturn

from weighbridge.errors import InvalidError

_STRUCTURE = (b"{", b"[", b",", b":")


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """`nodes_max` bounds the characters `{ [ , :`, and by them the memory the parsed value can take."""

    bytes_max: int
    nodes_max: int


def parse_object(
    content: bytes, *, what: str, code: str, limits: JsonLimits, allow_floats: bool = True
) -> dict[str, object]:
    """The JSON object in `content`; InvalidError(code) names `what` and the reason."""

    def refuse(reason: str) -> NoReturn:
        raise InvalidError(f"{what} {reason}.", code=code)

    if len(content) > limits.bytes_max:
        refuse(f"is {len(content)} bytes long; at most {limits.bytes_max} are read")
    if sum(map(content.count, _STRUCTURE)) > limits.nodes_max:
        refuse(f"has more than {limits.nodes_max} members")
    try:
        value: object = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite if allow_floats else _no_float,
        )
    except UnicodeDecodeError:
        refuse("is not UTF-8")
    except RecursionError:
        refuse("is nested too deeply")
    except ValueError as error:
        refuse(f"is not valid JSON: {_reason(error)}")
    if not isinstance(value, dict):
        refuse("is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {shown(name)} appears twice")
            seen.add(name)
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{shown(text)} is not an integer")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is too large")
    return number


def _reason(error: ValueError) -> str:
    # The decoder's own message never quotes the document; ours quotes it through `shown`.
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def shown(text: str, characters_max: int = 80) -> str:
    """A stranger's text made safe for a message or a log: ASCII, quoted, shortened."""
    short = text if len(text) <= characters_max else text[:characters_max] + "…"
    return ascii(short).replace("\\u2026", "...")
