"""What a host tells the control plane of its workers: at once when it is waited for, else every few seconds."""

from collections.abc import Callable

import structlog

from weighbridge.errors import StaleError
from weighbridge.gateway.courier.tables import Tables
from weighbridge.routing.acks import GatewayView, WorkerAck
from weighbridge.routing.hosts import store
from weighbridge.routing.hosts.identity import HostIdentity
from weighbridge.routing.hosts.model import REPORT_S, HostReport
from weighbridge.storage.database import Database

log = structlog.get_logger()

_News = tuple[int, int, tuple[WorkerAck, ...], tuple[int, ...]]


class Reports:
    """Of one courier: its first report enters it, its last takes the host's row away."""

    def __init__(
        self,
        database: Database,
        identity: HostIdentity,
        view: GatewayView,
        tables: Tables,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._identity = identity
        self._view = view
        self._tables = tables
        self._monotonic = monotonic
        self._epoch: int | None = None
        self._sent: _News | None = None
        self._sent_s = 0.0
        self._leaving: tuple[int, ...] = ()
        """Slots with requests whose replicas are in the table no more: somebody waits for their end."""

    @property
    def anybody_serves(self) -> bool:
        """Whether workers of this host live."""
        return bool(self._view.workers())

    @property
    def due(self) -> bool:
        """Whether there is something that is waited for, or the last report is old. Cheap: asked often."""
        return self._news() != self._sent or self._monotonic() - self._sent_s >= REPORT_S

    async def send(self) -> None:
        """UnavailableError when the database is away; the next one is due at once then."""
        # What is not in the report yet must still be news afterwards.
        news, now_s = self._news(), self._monotonic()
        moment = self._moment()
        async with self._database.begin() as tx:
            if self._epoch is None:
                epoch = await store.enter(tx, self._identity, moment)
            else:
                epoch = self._epoch
                await store.report(tx, self._identity, epoch, moment)
        if self._epoch is None:
            log.info("host.entered", host=self._identity.name, epoch=epoch)
        self._epoch, self._sent, self._sent_s = epoch, news, now_s
        self._leaving = tuple(sorted(moment.in_flight.keys() - self._tables.slots))

    def enter_anew(self, error: StaleError) -> None:
        """Its row is gone, or another courier's: the next report enters again, unless this one is to end just now."""
        log.warning("host.stale", reason=error.message)
        self._epoch = None
        self._sent, self._sent_s = self._news(), self._monotonic()

    async def leave(self) -> None:
        """Unless workers live: they still route, so their host's lease must end by itself."""
        if self._epoch is None or self.anybody_serves:
            return
        async with self._database.begin() as tx:
            await store.leave(tx, self._identity, self._epoch)
        self._epoch = None

    def _news(self) -> _News:
        tables, count = self._tables, self._view.counter()
        return (
            tables.routes_generation,
            tables.keys_generation,
            tuple(self._view.workers()),
            tuple(count(slot) for slot in self._leaving),
        )

    def _moment(self) -> HostReport:
        workers = tuple(self._view.workers())
        routes = [self._tables.routes_generation, *(w.routes_generation for w in workers)]
        keys = [self._tables.keys_generation, *(w.keys_generation for w in workers)]
        # After the generations: who was routed by an older table is counted by now (G5).
        return HostReport(min(routes), min(keys), workers, self._view.busy_slots())
