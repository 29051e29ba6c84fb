"""The gateways as the control plane sees them: this data directory's by shared memory, the others' by their reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from weighbridge.routing.acks import GatewayView, WorkerAck
from weighbridge.routing.hosts import store
from weighbridge.routing.hosts.model import HOST_LEASE_S, Host, Watch, counted
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
    """`waits`: a host whose lease has ended counts until it was watched for long enough (`counted`), as it must for
    whoever acts on what he sees; for showing it does not.
    """

    def __init__(
        self, view: GatewayView, own_id: str, boot_s: Callable[[], float], *, waits: bool
    ) -> None:
        self._view = view
        self._own_id = own_id
        self._boot_s = boot_s
        self._waits = waits
        self._watch = Watch()
        self._gone: Mapping[str, datetime] = {}

    async def look(self, tx: Transaction) -> Acks:
        found = await store.hosts(tx)
        watched_s = self._watch.look(self._boot_s()) if self._waits else HOST_LEASE_S
        seen = counted(found, self._own_id, watched_s, self._gone)
        others = (host for host in found if host not in seen)
        self._gone = {host.id: host.expires_at for host in others}
        return HostsSeen(self._view, seen)


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
