"""The format of a spool file: one line per usage event or loss, each with its checksum. Pure.

A line is eight hex digits of CRC-32, a space, JSON and a newline. A torn end is what follows the last newline;
it is not read until it is whole. A line whose checksum is wrong counts as a lost event.
"""

import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from weighbridge.usage.model import UsageEvent

LINE_BYTES_MAX = 4096
UNIX_S_MAX = 4e9
NUMBER_MAX = 2**31
COUNT_MAX = 10**12
"""Of tokens and seconds of one request: what claims more would not fit into sums, or is a broken engine's."""
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[UsageEvent | int] = msgspec.json.Decoder(UsageEvent | int)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a stretch of a spool holds; `size_bytes` of it are whole lines."""

    events: Sequence[UsageEvent]
    lost: int
    size_bytes: int


def event_line(event: UsageEvent) -> bytes:
    return _line(_ENCODER.encode(event))


def loss_line(lost: int) -> bytes:
    """Says that so many events were dropped before they reached the spool."""
    return _line(_ENCODER.encode(lost))


def read_lines(content: bytes) -> Batch:
    """Never raises: whatever is no line of ours is a lost event."""
    end = content.rfind(b"\n") + 1
    events, lost = [], 0
    for line in content[: end - 1].split(b"\n") if end else ():
        found = _read(line)
        if isinstance(found, UsageEvent):
            events.append(found)
        else:
            lost += 1 if found is None else found
    return Batch(events, lost, end)


def _line(content: bytes) -> bytes:
    return b"%08x %b\n" % (binascii.crc32(content), content)


def _read(line: bytes) -> UsageEvent | int | None:
    checksum, _, content = line.partition(b" ")
    if checksum != b"%08x" % binascii.crc32(content):
        return None
    try:
        found = _DECODER.decode(content)
    except msgspec.MsgspecError:
        return None
    if isinstance(found, UsageEvent):
        return found if _is_sane(found) else None
    return found if 0 <= found <= COUNT_MAX else None


def _is_sane(event: UsageEvent) -> bool:
    """Whether the database takes it: one line that it refuses would hold up all that follow."""
    counts = (
        event.prompt_tokens,
        event.cached_tokens,
        event.completion_tokens,
        event.duration_s,
        event.queue_s,
        event.asked_s,
        event.ttft_s or 0,
    )
    return (
        0 <= event.ended_unix_s < UNIX_S_MAX
        and 0 <= event.version < NUMBER_MAX
        and 0 <= event.failed_version < NUMBER_MAX
        and 0 <= event.status < NUMBER_MAX
        and all(0 <= count <= COUNT_MAX for count in counts)
    )
