"""A msgpack decoder for requests: only what JSON can say, strict where a general decoder is lenient.

It refuses duplicate names, names that are not text, binary, extension types, NaN, trailing bytes, and
lengths that the body cannot hold, before anything of that length is made.
"""

import math
import struct

from weighbridge.errors import InvalidError

_NUMBERS = {
    0xCA: struct.Struct(">f"),
    0xCB: struct.Struct(">d"),
    0xCC: struct.Struct(">B"),
    0xCD: struct.Struct(">H"),
    0xCE: struct.Struct(">I"),
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_TEXT_LENGTHS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_LENGTHS = {0xDC: 2, 0xDD: 4}
_MAP_LENGTHS = {0xDE: 2, 0xDF: 4}
_SINGLES = {0xC0: None, 0xC2: False, 0xC3: True}


def decode_msgpack(body: bytes, depth_max: int) -> object:
    """The one value of the body; raises InvalidError."""
    reader = _Reader(body, depth_max)
    value = reader.value(0)
    if reader.offset != len(body):
        raise _wrong("data after the end")
    return value


class _Reader:
    def __init__(self, body: bytes, depth_max: int) -> None:
        self.offset = 0
        self._body = body
        self._depth_max = depth_max

    def value(self, depth: int) -> object:
        if depth > self._depth_max:
            raise _wrong(f"nested deeper than {self._depth_max}")
        lead = self._take(1)[0]
        if lead <= 0x7F or lead >= 0xE0:
            return lead if lead <= 0x7F else lead - 0x100
        if lead in _SINGLES:
            return _SINGLES[lead]
        if lead in _NUMBERS:
            return self._number(_NUMBERS[lead])
        if lead in _TEXT_LENGTHS or 0xA0 <= lead <= 0xBF:
            width = _TEXT_LENGTHS.get(lead)
            return self._text(lead & 0x1F if width is None else self._length(width))
        return self._container(lead, depth)

    def _container(self, lead: int, depth: int) -> object:
        if lead <= 0x8F:
            return self._map(lead & 0x0F, depth)
        if lead <= 0x9F:
            return self._array(lead & 0x0F, depth)
        if lead in _ARRAY_LENGTHS:
            return self._array(self._length(_ARRAY_LENGTHS[lead]), depth)
        if lead in _MAP_LENGTHS:
            return self._map(self._length(_MAP_LENGTHS[lead]), depth)
        raise _wrong("binary and extension types are not accepted")

    def _array(self, count: int, depth: int) -> list[object]:
        self._need(count)
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, object]:
        self._need(2 * count)
        members: dict[str, object] = {}
        for _ in range(count):
            name = self.value(depth + 1)
            if not isinstance(name, str):
                raise _wrong("a name is not text")
            if name in members:
                raise _wrong("an object names a member twice")
            members[name] = self.value(depth + 1)
        return members

    def _number(self, form: struct.Struct) -> int | float:
        (number,) = form.unpack(self._take(form.size))
        if isinstance(number, float):
            if not math.isfinite(number):
                raise _wrong("a number is not finite")
            return number
        return int(number)

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise _wrong("text is not UTF-8") from error

    def _length(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")

    def _need(self, size_bytes: int) -> None:
        if self.offset + size_bytes > len(self._body):
            raise _wrong("cut short")

    def _take(self, size_bytes: int) -> bytes:
        self._need(size_bytes)
        start = self.offset
        self.offset += size_bytes
        return self._body[start : self.offset]


def _wrong(what: str) -> InvalidError:
    return InvalidError(f": Invalid msgpack: {what}", code="wrong_api_format")
