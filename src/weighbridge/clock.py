"""The one home of wall time, monotonic time, random ids and secrets; everything else takes them as arguments."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

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


def boot_s() -> float:
    """Seconds since this machine was started, sleep included: what `steady_now` advances with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """Names the time from one start of this machine to the next; empty where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment as a process's clock shows it, and as the time since boot of its machine does."""

    at: datetime
    boot_id: str
    boot_s: float

    def jump_since(self, earlier: "Moment") -> timedelta:
        """How much further this clock is than the time that has passed since a moment of another process.

        Where nobody knows what has passed (the machine was started anew, or it is another one) that is all
        of the difference: time without a controller does not count (B0.5).
        """
        same = bool(self.boot_id) and self.boot_id == earlier.boot_id
        passed_s = self.boot_s - earlier.boot_s if same else 0.0
        return self.at - earlier.at - timedelta(seconds=passed_s)


_UUIDS_MADE = 64
_uuids: list[str] = []
# Two processes must not give out the same ones.
os.register_at_fork(after_in_child=_uuids.clear)


_VERSION_4 = bytes(0x40 | byte & 0x0F for byte in range(256))
_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))


def new_uuid() -> str:
    """A random UUID (version 4), written out by hand: the library's takes several times as long."""
    if not _uuids:
        made = bytearray(os.urandom(16 * _UUIDS_MADE))
        made[6::16] = made[6::16].translate(_VERSION_4)
        made[8::16] = made[8::16].translate(_VARIANT)
        all_digits = made.hex()
        for at in range(0, len(all_digits), 32):
            digits = all_digits[at : at + 32]
            _uuids.append(
                f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
            )
    return _uuids.pop()


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
    boot_s: Callable[[], float] = boot_s
    boot_id: Callable[[], str] = boot_id

    def moment(self) -> Moment:
        return Moment(self.now(), self.boot_id(), self.boot_s())
