"""The one home of wall time, monotonic time, random ids and secrets; everything else takes them as arguments."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""No look-alikes (l, o, 0, 1): ids are read aloud and typed."""


def steady_now() -> Callable[[], datetime]:
    """A clock that shows wall time and advances with the time since boot, sleep included.

    Set once, when it is made: deadlines kept as times survive jumps of the wall clock (D6). It drifts
    from a corrected wall clock until the process starts anew.
    """
    began = datetime.now(UTC)  # noqa: TID251 - this is its home
    began_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: began + timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)


def steady_unix_s() -> Callable[[], float]:
    """As `steady_now`, in unix seconds: several times cheaper to ask."""
    offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + offset_s


monotonic_s = time.monotonic


_UUIDS_MADE = 64
_uuids: list[str] = []
# Two processes must not give out the same ones.
os.register_at_fork(after_in_child=_uuids.clear)


def new_uuid() -> str:
    """A random UUID (version 4), written out by hand: the library's takes several times as long."""
    if not _uuids:
        digits = os.urandom(16 * _UUIDS_MADE).hex()
        _uuids.extend(_uuid(digits[at : at + 32]) for at in range(0, len(digits), 32))
    return _uuids.pop()


def _uuid(digits: str) -> str:
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def new_short_id(length: int = 10) -> str:
    """A random lower-case id; 10 characters carry 50 bits."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(length))


@dataclass(frozen=True, slots=True)
class Clock:
    """What a process knows of time and chance; tests and simulations pass their own."""

    now: Callable[[], datetime] = field(default_factory=steady_now)
    unix_s: Callable[[], float] = field(default_factory=steady_unix_s)
    monotonic: Callable[[], float] = monotonic_s
    new_uuid: Callable[[], str] = new_uuid
    new_short_id: Callable[[], str] = new_short_id
    new_secret: Callable[[], str] = secrets.token_urlsafe
