"""From a decoded object to a typed request, with one line for each property that is not in the schema."""

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from weighbridge.errors import InvalidError
from weighbridge.gateway.requests.shapes import ChatRequest, CompletionRequest

UNKNOWN_REPORTED_MAX = 16
_LINE_CHARS_MAX = 160
_UNKNOWN = re.compile(
    r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<path>.*)`)?", re.DOTALL
)
_FAILED = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<name>[A-Za-z_]\w*)|\[(?P<index>\d+)\]")

Request = TypeVar("Request", ChatRequest, CompletionRequest)


def read_request(body: dict[str, object], kind: type[Request]) -> Request:
    """Raises InvalidError whose message has a line `body.<path>: …` per offence, as the hosted API's has.

    Unknown properties are taken out of `body` one by one to find the next, up to a limit.
    """
    lines: list[str] = []
    while True:
        try:
            request = msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN.fullmatch(str(error))
            if unknown is None:
                lines.append(_failure_line(str(error)))
                break
            lines.append(_unknown_line(unknown))
            owner = _follow(body, unknown["path"] or "")
            if owner is None or len(lines) >= UNKNOWN_REPORTED_MAX:
                break
            owner.pop(unknown["name"], None)
        else:
            break
    if lines:
        raise InvalidError("\n".join(lines), code="wrong_api_format")
    return request


def _unknown_line(unknown: "re.Match[str]") -> str:
    name = f"body{unknown['path'] or ''}.{unknown['name']}"[:_LINE_CHARS_MAX]
    return f"{name}: property '{name}' is unsupported"


def _failure_line(text: str) -> str:
    failed = _FAILED.fullmatch(text)
    assert failed is not None
    return f"body{failed['path'] or ''}: {failed['what']}"[: 2 * _LINE_CHARS_MAX]


def _follow(body: dict[str, object], path: str) -> dict[str, object] | None:
    """The object that lies at a path like `.messages[3].content[0]`."""
    value: object = body
    for step in _STEP.finditer(path):
        if step["name"] is not None and isinstance(value, Mapping):
            value = value.get(step["name"])
        elif step["index"] is not None and isinstance(value, list):
            value = value[int(step["index"])]
    return value if isinstance(value, dict) else None
