"""One gateway worker process: tables first, then the port; SIGTERM ends it after its streams.

Started by the parent (`python -m weighbridge.gateway`), never alone: the parent holds the locks.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
import uvloop
from aiohttp import web

from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.gateway.http.app import Gateway
from weighbridge.gateway.http.choosing import COLUMNS_REFRESH_S, Choice
from weighbridge.gateway.http.control import ControlForward
from weighbridge.gateway.http.limits import KEEPALIVE_S, Limits
from weighbridge.gateway.http.proxy import Proxy
from weighbridge.gateway.http.upstream import Upstreams
from weighbridge.gateway.limits.ledger import Ledger, open_ledger
from weighbridge.gateway.limits.meter import Meter
from weighbridge.gateway.limits.quotas import Quotas
from weighbridge.gateway.limits.turns import QueueLimits, Turns
from weighbridge.gateway.metrics.figures import Figures, WorkerFigures, write_figures
from weighbridge.gateway.options import Options, read_options
from weighbridge.gateway.port import listen
from weighbridge.gateway.snapshots import Snapshots
from weighbridge.gateway.table import CurrentTables
from weighbridge.routing.acks import GatewayView, WorkerColumn, open_acks
from weighbridge.routing.tokens import load_pepper
from weighbridge.settings import Settings
from weighbridge.telemetry.logs import configure_logs
from weighbridge.usage.spool import Spool

log = structlog.get_logger()

EXIT_SETUP = 78
"""EX_CONFIG of sysexits.h: starting again without a change will not help."""
HEADERS_MAX = 100
HEADER_LINE_BYTES_MAX = 8190


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
    memory = open_acks(options.data_dir.acks_file)
    column = WorkerColumn(memory, worker, os.getpid())
    current = CurrentTables()
    snapshots = Snapshots(options.data_dir.routes_file, options.data_dir.keys_file, current, column)
    # The column shows generation 0 from here on, so nobody takes an old table for gone while this one loads.
    snapshots.refresh()
    view = GatewayView(memory)
    choice = Choice(current, view)
    meter = _meter(options, worker, choice, view)
    async with _gateway(options, snapshots, choice, column, meter) as gateway:
        server = web.Server(
            gateway,
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            max_headers=HEADERS_MAX,
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
        )
        runner = web.ServerRunner(server, shutdown_timeout=options.drain_s)
        await runner.setup()
        listener = listen(options.host, options.port)
        await web.SockSite(runner, listener).start()
        log.info("gateway.listening", port=options.port, worker=worker)
        chores = _Chores(options.data_dir.run, worker, parent, gateway)
        async with asyncio.TaskGroup() as tasks:
            watching = [
                tasks.create_task(snapshots.watch()),
                tasks.create_task(chores.run(stop)),
                tasks.create_task(meter.turns.watch()),
                tasks.create_task(meter.spool.run()),
            ]
            await stop.wait()
            log.info("gateway.draining", worker=worker)
            # Tables stay fresh while the last streams run: the control plane waits for every live worker.
            await runner.cleanup()
            for task in watching:
                task.cancel()
    await meter.spool.close()
    column.close()


def _meter(options: Options, worker: int, choice: Choice, view: GatewayView) -> Meter:
    clock = Clock()
    now = clock.now().timestamp()
    ledger = Ledger(open_ledger(options.data_dir.quotas_file), worker, now)
    limits = QueueLimits(wait_s=options.queue_wait_s, requests_max=options.queue_requests_max)
    meter = Meter(
        quotas=Quotas(ledger, clock),
        turns=Turns(choice.places, limits),
        spool=Spool(options.data_dir.usage, f"{int(now * 1000)}-{clock.new_short_id()}"),
        view=view,
        clock=clock,
    )
    meter.refresh()
    return meter


@asynccontextmanager
async def _gateway(
    options: Options, snapshots: Snapshots, choice: Choice, column: WorkerColumn, meter: Meter
) -> AsyncIterator[Gateway]:
    limits = Limits(request_max_s=options.request_max_s, drain_s=options.drain_s)
    clock = Clock()
    pepper = load_pepper(options.pepper_dir)
    upstreams = Upstreams(pepper, limits.connect_s)
    control = ControlForward(options.data_dir.control_socket, limits)
    try:
        yield Gateway(
            snapshots=snapshots,
            current=snapshots.current,
            pepper=pepper,
            proxy=Proxy(choice, column, upstreams, meter.turns, limits, clock),
            control=control,
            figures=Figures(),
            meter=meter,
            limits=limits,
            clock=clock,
        )
    finally:
        await upstreams.close()
        await control.close()


class _Chores:
    """What a worker does twice a second besides answering."""

    def __init__(
        self,
        run: Path,
        worker: int,
        parent: int,
        gateway: Gateway,
    ) -> None:
        self._run = run
        self._worker = worker
        self._parent = parent
        self._gateway = gateway

    async def run(self, stop: asyncio.Event) -> None:
        """Until cancelled. An orphan stops, or it would hold the port against the next gateway."""
        while True:
            self._gateway.proxy.choice.refresh()
            self._gateway.meter.refresh()
            # A full disk costs figures, not requests.
            with suppress(OSError):
                write_figures(self._run, self._figures())
            if os.getppid() != self._parent:
                stop.set()
            await asyncio.sleep(COLUMNS_REFRESH_S)

    def _figures(self) -> WorkerFigures:
        tables = self._gateway.current.tables
        return WorkerFigures(
            worker=self._worker,
            pid=os.getpid(),
            ready=self._gateway.snapshots.loaded,
            in_flight=sum(self._gateway.proxy.column.counts),
            routes_generation=tables.routes_generation,
            keys_generation=tables.keys_generation,
            requests=list(self._gateway.figures.rows.values()),
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
