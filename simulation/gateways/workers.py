"""Gateway workers of a machine, and the shared memory in which they acknowledge and count."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from simulation.gateways.holds import Line
from weighbridge.gateway.table import CurrentTables, Tables
from weighbridge.routing.acks import GatewayView, WorkerAck


class Open(Protocol):
    """A request under way."""

    def abandon(self) -> None: ...


@dataclass(eq=False, slots=True)
class Worker:
    name: str
    alive: bool = True
    starts: int = 1
    late_s: float = 0.0
    """Added to the time it takes to see a new table, by a fault."""
    was_late_s: float = -math.inf
    """When it was late the last time; what it holds is let go at the next looks."""
    current: CurrentTables = field(default_factory=CurrentTables)
    line: Line | None = None
    """Where requests are held; None: they are refused at once."""
    counts: dict[int, int] = field(default_factory=dict)
    requests: dict[Open, None] = field(default_factory=dict)

    @property
    def tables(self) -> Tables:
        return self.current.tables


class SimGatewayView(GatewayView):
    """The shared acks and counts, without shared memory."""

    def __init__(self, workers: list[Worker]) -> None:  # no memory to map
        self._workers = workers

    def routes_acked(self) -> int | None:
        return min((w.tables.routes_generation for w in self._workers if w.alive), default=None)

    def workers(self) -> list[WorkerAck]:
        """Keys are not simulated, nor are processes: `pid` tells one start of a worker from the next."""
        return [
            WorkerAck(100 * number + worker.starts, worker.tables.routes_generation, 0)
            for number, worker in enumerate(self._workers, 1)
            if worker.alive
        ]

    def busy_slots(self) -> dict[int, int]:
        slots = {slot for worker in self._workers if worker.alive for slot in worker.counts}
        counts = {slot: self.in_flight(slot) for slot in sorted(slots)}
        return {slot: count for slot, count in counts.items() if count}

    def counter(self) -> Callable[[int], int]:
        return self.in_flight

    def in_flight(self, slot: int) -> int:
        return sum(max(0, w.counts.get(slot, 0)) for w in self._workers if w.alive)
