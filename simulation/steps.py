"""The durable steps of a world: what outlasts the process that does it. Any of them can be made its last.

A step is a commit that changes rows, a call that changes what runs on a machine, or a snapshot that replaces a
file. The process can be killed just before it and just after it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from simulation.scheduler import current_process


class Moment(StrEnum):
    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Point:
    """The number of a step, from 0, and the side of it."""

    step: int
    moment: Moment


@dataclass(slots=True)
class Steps:
    """Counts them; at `point` the process that makes the step dies, and `killed` is called with its name."""

    point: Point | None = None
    killed: Callable[[str], None] | None = None
    names: list[str] = field(default_factory=list)

    def begin(self, name: str) -> int | None:
        """Of a step that is about to be made: its number. None: its process has just died, so it must not be made."""
        self.names.append(name)
        step = len(self.names) - 1
        return None if self._strike(Point(step, Moment.BEFORE)) else step

    def end(self, step: int) -> None:
        """Of a step that was made."""
        self._strike(Point(step, Moment.AFTER))

    def _strike(self, point: Point) -> bool:
        process = current_process()
        if process is None or self.point != point:
            return False
        self.point = None
        process.kill()
        if self.killed is not None:
            self.killed(process.name)
        return True
