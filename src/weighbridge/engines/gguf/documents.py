"""Read the JSON files of a version directory, within limits."""

import json
from collections.abc import Mapping
from pathlib import Path

from weighbridge.errors import InvalidError

CONFIG_BYTES_MAX = 16 * 1024 * 1024


def read_json(path: Path, size_bytes_max: int) -> Mapping[str, object]:
    """One JSON object from a file. Raises InvalidError naming the file."""
    try:
        if path.stat().st_size > size_bytes_max:
            raise InvalidError(f"{path.name} is larger than {size_bytes_max} bytes")
        return parse_object(path.read_bytes(), path.name)
    except OSError as error:
        raise InvalidError(f"{path.name} cannot be read: {error.strerror}") from error


def parse_object(text: bytes, what: str) -> Mapping[str, object]:
    """`what` names the text in errors. Raises InvalidError unless it is a JSON object."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise InvalidError(f"{what} is not a JSON object")
    return value
