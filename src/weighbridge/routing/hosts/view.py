"""The gateways as the control plane sees them: this data directory's by shared memory, the others' by their reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from weighbridge.routing.acks import GatewayView, WorkerAck
from weighbridge.routing.hosts import store
from weighbridge.routing.hosts.model import Host, Watch
from weighbridge.storage.database import Transaction


class Acks(Protocol):
    """What gateways have applied and have in flight; the shared memory's part is read at each call."""

    def routes_acked(self) -> int | None:
        """The generation that all have applied; None where nobody serves."""

    def in_flight(self, slot: int) -> int: ...

    def counter(self) -> Callable[[int], int]:
        """As `in_flight`, for many slots in a row."""

    def workers(self) -> Sequence[WorkerAck]: ...


class Gateways(Protocol):
    async def look(self, tx: Transaction) -> Acks:
        """What is known now. Read the rows that it will be compared with before, never after."""


@dataclass(frozen=True, slots=True)
class OneHost:
    """Where all gateways are this data directory's."""

    view: GatewayView

    async def look(self, tx: Transaction) -> Acks:
        return self.view


class AllHosts:
    """`waits`: whoever acts on what he sees takes a host for gone when he has watched it for long enough (`Watch`); for
    showing, its lease says.
    """

    def __init__(
        self, view: GatewayView, own_id: str, boot_s: Callable[[], float], *, waits: bool
    ) -> None:
        self._view = view
        self._own_id = own_id
        self._boot_s = boot_s
        self._waits = waits
        self._watch = Watch()

    async def look(self, tx: Transaction) -> Acks:
        others = [host for host in await store.hosts(tx) if host.id != self._own_id]
        if self._waits:
            return HostsSeen(self._view, self._watch.look(others, self._boot_s()))
        return HostsSeen(self._view, [host for host in others if not host.expired])


@dataclass(frozen=True, slots=True)
class HostsSeen:
    view: GatewayView
    hosts: Sequence[Host]

    def routes_acked(self) -> int | None:
        here = self.view.routes_acked()
        acked = [host.report.routes_generation for host in self.hosts]
        return min(acked if here is None else [here, *acked], default=None)

    def in_flight(self, slot: int) -> int:
        return self.view.in_flight(slot) + self._elsewhere(slot)

    def counter(self) -> Callable[[int], int]:
        return partial(self._sum, self.view.counter())

    def workers(self) -> Sequence[WorkerAck]:
        return [
            *self.view.workers(),
            *(worker for host in self.hosts for worker in host.report.workers),
        ]

    def _sum(self, here: Callable[[int], int], slot: int) -> int:
        return here(slot) + self._elsewhere(slot)

    def _elsewhere(self, slot: int) -> int:
        return sum(host.report.in_flight.get(slot, 0) for host in self.hosts)
