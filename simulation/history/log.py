"""The event log of one world: everything that anybody did or that happened, in order."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

Facts = Mapping[str, object]


class Event(NamedTuple):
    """`at_s` is on the world's monotonic clock; `process` is who did it, `epoch` its lease's, 0 where there is none."""

    number: int
    at_s: float
    wall: datetime
    process: str
    epoch: int
    kind: str
    facts: Facts

    def text(self) -> str:
        """One line; the same in each run of the same seed."""
        facts = " ".join(
            f"{name}={_shown(value)}" for name, value in self.facts.items() if name != "change"
        )
        wall = self.wall.isoformat(timespec="milliseconds")
        return f"{self.number:6} {self.at_s:9.4f} {wall} {self.process:9} {self.epoch:3} {self.kind:18} {facts}"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_shown(part)}" for name, part in value.items()) + "}"
    return str(value)


@dataclass(slots=True)
class Log:
    """`add` writes an event; `of` reads those of some kinds, in order."""

    monotonic: Callable[[], float]
    wall: Callable[[], datetime]
    events: list[Event] = field(default_factory=list)
    _by_kind: defaultdict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, process: str = "", epoch: int = 0, **facts: object) -> Event:
        event = Event(len(self.events), self.monotonic(), self.wall(), process, epoch, kind, facts)
        self.events.append(event)
        self._by_kind[kind].append(event)
        return event

    def of(self, *kinds: str) -> Sequence[Event]:
        if len(kinds) == 1:
            return self._by_kind[kinds[0]]
        found = [event for kind in kinds for event in self._by_kind[kind]]
        found.sort(key=lambda event: event.number)
        return found

    def lines(self) -> Iterator[str]:
        return (event.text() for event in self.events)

    def digest(self) -> str:
        """Equal for equal logs; of the text, so that nothing that is not shown can hide in it."""
        whole = hashlib.blake2b(digest_size=16)
        for line in self.lines():
            whole.update(line.encode())
            whole.update(b"\n")
        return whole.hexdigest()
