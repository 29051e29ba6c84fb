"""One gateway worker process: tables first, then the port; SIGTERM ends it after its streams, SIGUSR1 when it is idle.

Started by the parent (`python -m weighbridge.gateway`), never alone: the parent holds the locks.
"""

import asyncio
import gc
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.gateway.limits.holds import HoldLimits, Holds
from weighbridge.gateway.limits.ledger import Ledger, open_ledger
from weighbridge.gateway.limits.meter import Meter
from weighbridge.gateway.limits.quotas import Quotas
from weighbridge.gateway.limits.turns import QueueLimits, Turns
from weighbridge.gateway.metrics.access import AccessLog
from weighbridge.gateway.metrics.ended import EndedRequests
from weighbridge.gateway.metrics.figures import Figures, WorkerFigures, write_figures
from weighbridge.gateway.options import EXIT_SETUP, Options, read_options
from weighbridge.gateway.port import BACKLOG
from weighbridge.gateway.proxy.answering import Desk
from weighbridge.gateway.proxy.choosing import COLUMNS_REFRESH_S, Choice
from weighbridge.gateway.proxy.control import ControlPlanes, control_addresses
from weighbridge.gateway.proxy.replicas import Replicas
from weighbridge.gateway.proxy.site import PublicSite
from weighbridge.gateway.snapshots import Snapshots
from weighbridge.gateway.succession.events import first_of
from weighbridge.gateway.table import CurrentTables
from weighbridge.gateway.wire.client import Clients
from weighbridge.gateway.wire.limits import Limits
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.timers import Timers
from weighbridge.gateway.wire.upstream import Upstreams
from weighbridge.routing.acks import GatewayView, WorkerColumn, open_acks
from weighbridge.routing.tokens import load_pepper
from weighbridge.settings import Settings
from weighbridge.telemetry.logs import configure_logs
from weighbridge.usage.spool import Spool

log = structlog.get_logger()

DRAIN_POLL_S = 0.05
COLLECTOR_THRESHOLDS = (20_000, 20, 50)
"""Requests leave no reference cycles, so the collector need not look for them after every few."""


def main(argv: Sequence[str]) -> int:
    options = read_options(argv, Settings())
    if options.worker is None:
        print("weighbridge: start the gateway by `python -m weighbridge.gateway`", file=sys.stderr)  # noqa: T201 - a user reads it
        return EXIT_SETUP
    configure_logs(f"gateway-{options.worker}", options.log_level)
    try:
        uvloop.run(serve(options, options.worker, os.getppid()))
    except SetupError as error:
        print(f"weighbridge: {error.message}", file=sys.stderr)  # noqa: T201 - a user reads it
        return EXIT_SETUP
    return 0


async def serve(options: Options, worker: int, parent: int) -> None:
    """Serve until SIGTERM, SIGINT or the parent's death; raises SetupError when the port is not to be had."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    followed = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, followed.set)
    memory = open_acks(options.data_dir.acks_file)
    column = WorkerColumn(memory, worker, os.getpid())
    current = CurrentTables()
    snapshots = Snapshots(options.data_dir.routes_file, options.data_dir.keys_file, current, column)
    # The column shows generation 0 from here on, so nobody takes an old table for gone while this one loads.
    snapshots.refresh()
    meter = _meter(options, worker, GatewayView(memory))
    worker_site = _site(options, worker, snapshots, meter, column)
    clients = worker_site.clients
    timers = clients.timers
    timers.start()
    servers = [await loop.create_server(clients.connect, sock=one) for one in _listeners(options)]
    log.info("gateway.listening", port=options.port, worker=worker, compiled=_is_compiled())
    chores = _Chores(options.data_dir.run, worker, parent, worker_site)
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    async with asyncio.TaskGroup() as tasks:
        watching = [
            tasks.create_task(snapshots.watch()),
            tasks.create_task(chores.run(stop)),
            tasks.create_task(meter.turns.watch()),
            tasks.create_task(worker_site.site.replicas.holds.watch()),
            tasks.create_task(worker_site.spool.run()),
        ]
        await first_of(stop, followed)
        log.info("gateway.draining", worker=worker)
        for server in servers:
            server.close()
        # Tables stay fresh while the last streams run: the control plane waits for every live worker.
        if not stop.is_set():
            # Each connection closes with the answer that it begins next, and says so in it: callers that are about
            # to use an idle one, or were told that theirs stays open, find it open.
            clients.retiring = True
            await _until_none(clients, options.request_max_s, stop)
        clients.retire()
        await _until_none(clients, options.drain_s)
        clients.abort()
        # The loop tells each connection that it is gone, which frees its replica.
        await asyncio.sleep(0)
        for task in watching:
            task.cancel()
    await worker_site.site.upstreams.close()
    timers.stop()
    worker_site.site.desk.ended.flush()
    await worker_site.spool.close()
    column.close()


def _is_compiled() -> bool:
    """Whether the data path runs as machine code (docs/decisions/0008)."""
    return not str(sys.modules[Clients.__module__].__file__).endswith(".py")


@dataclass(frozen=True, slots=True)
class _Worker:
    site: PublicSite
    clients: Clients
    column: WorkerColumn
    figures: Figures
    spool: Spool


def _meter(options: Options, worker: int, view: GatewayView) -> Meter:
    clock = Clock()
    now = clock.now().timestamp()
    ledger = Ledger(open_ledger(options.data_dir.quotas_file), worker, now)
    limits = QueueLimits(wait_s=options.queue_wait_s, requests_max=options.queue_requests_max)
    meter = Meter(
        quotas=Quotas(ledger, clock),
        turns=Turns(limits),
        view=view,
    )
    meter.refresh()
    return meter


def _site(
    options: Options,
    worker: int,
    snapshots: Snapshots,
    meter: Meter,
    column: WorkerColumn,
) -> _Worker:
    limits = Limits(
        request_max_s=options.request_max_s,
        drain_s=options.drain_s,
        idle_s=options.stream_idle_s,
        stream_keepalive_s=options.stream_keepalive_s or math.inf,
    )
    clock = Clock()
    pepper = load_pepper(options.pepper_dir)
    timers = Timers(clock.monotonic())
    outbox = Outbox(asyncio.get_running_loop().call_soon)
    upstreams = Upstreams(timers, outbox, limits.connect_s)
    access = AccessLog(sys.stderr.fileno(), f"gateway-{worker}", options.log_level, clock.now)
    prefix = f"{int(clock.now().timestamp() * 1000)}-{clock.new_short_id()}"
    figures, spool = Figures(), Spool(options.data_dir.usage, prefix)
    ended = EndedRequests(figures, spool, access)
    choice = Choice(snapshots.current, meter.view)
    hold_limits = HoldLimits(
        requests_max=options.hold_requests_max,
        bytes_max=options.hold_bytes_max,
        head_s=options.hold_head_s,
    )
    holds = Holds(hold_limits, snapshots.current, choice.ready, clock)
    site = PublicSite(
        desk=Desk(snapshots, snapshots.current, pepper, meter, ended, limits, clock),
        replicas=Replicas(choice, holds, column, upstreams, pepper),
        upstreams=upstreams,
        control=ControlPlanes(options.data_dir, control_addresses(options.control_urls)),
    )
    clients = Clients(site, timers, outbox, limits, clock)
    return _Worker(site, clients, column, figures, spool)


def _listeners(options: Options) -> list[socket.socket]:
    """Those that the parent has given: they are bound, and may be listened on by a worker before this one as well."""
    given = [socket.socket(fileno=descriptor) for descriptor in options.listeners]
    for listener in given:
        listener.listen(BACKLOG)
    return given


async def _until_none(clients: Clients, limit_s: float, cut: asyncio.Event | None = None) -> None:
    """Until every caller has left, or the limit; or until `cut` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while clients.open and not (cut and cut.is_set()):  # noqa: ASYNC110 - a set has no event
                await asyncio.sleep(DRAIN_POLL_S)


class _Chores:
    """What a worker does twice a second besides answering."""

    def __init__(self, run: Path, worker: int, parent: int, parts: _Worker) -> None:
        self._run = run
        self._worker = worker
        self._parent = parent
        self._parts = parts

    async def run(self, stop: asyncio.Event) -> None:
        """Until cancelled. An orphan stops, or it would hold the port against the next gateway."""
        while True:
            self._parts.site.replicas.choice.refresh()
            self._parts.clients.refresh()
            self._parts.site.desk.meter.refresh()
            # A full disk costs figures, not requests.
            with suppress(OSError):
                write_figures(self._run, self._figures())
            if os.getppid() != self._parent:
                stop.set()
            await asyncio.sleep(COLUMNS_REFRESH_S)

    def _figures(self) -> WorkerFigures:
        desk = self._parts.site.desk
        desk.ended.flush()
        tables = desk.current.tables
        return WorkerFigures(
            worker=self._worker,
            pid=os.getpid(),
            ready=desk.snapshots.loaded,
            in_flight=sum(self._parts.column.counts),
            routes_generation=tables.routes_generation,
            keys_generation=tables.keys_generation,
            requests=list(self._parts.figures.rows.values()),
            holds=list(self._parts.site.replicas.holds.figures.values()),
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
