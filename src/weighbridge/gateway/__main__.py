"""The gateway's parent process: holds the locks, keeps N workers running, answers probes. It serves no request."""

import asyncio
import json
import mmap
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.gateway.courier.child import CourierChild
from weighbridge.gateway.options import EXIT_SETUP, Options, read_options
from weighbridge.gateway.port import DataDirLock, PortReservation, listen
from weighbridge.gateway.proxy.probes import ProbeSite
from weighbridge.gateway.wire.client import Clients
from weighbridge.gateway.wire.limits import Limits
from weighbridge.gateway.wire.outbox import Outbox
from weighbridge.gateway.wire.timers import Timers
from weighbridge.routing.acks import WORKERS_MAX, GatewayView, clear_column, open_acks
from weighbridge.settings import Settings
from weighbridge.telemetry.logs import configure_logs

log = structlog.get_logger()

RESTART_PAUSE_S = 0.2
RESTART_PAUSE_MAX_S = 5.0
LIVED_WELL_S = 10.0
KILL_AFTER_S = 5.0
"""Beyond the drain limit."""
ORPHANS_WAIT_S = 10.0
ORPHANS_POLL_S = 0.05


def main(argv: Sequence[str]) -> int:
    options = read_options(argv, Settings())
    configure_logs("gateway", options.log_level)
    try:
        asyncio.run(supervise(options))
    except SetupError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - a user reads it
        return EXIT_SETUP
    return 0


class Columns:
    """Who of the workers writes which column of the acks: never two at once.

    Workers of a parent that was killed drain for a while beside the new ones, each in its own column.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._view = GatewayView(memory)
        self._given: set[int] = set()

    def orphans(self) -> bool:
        """Whether workers of an earlier parent still live."""
        return bool(set(self._view.live_columns()) - self._given)

    def take(self) -> int:
        taken = {*self._given, *self._view.live_columns()}
        free = next((column for column in range(WORKERS_MAX) if column not in taken), None)
        if free is None:
            raise SetupError(f"There are {WORKERS_MAX} gateway workers; end the old ones first")
        self._given.add(free)
        return free

    def give_back(self, column: int) -> None:
        """Once its worker has been reaped; no count of the dead remains."""
        clear_column(self._memory, column)
        self._given.discard(column)


async def supervise(options: Options) -> None:
    """Until SIGTERM or SIGINT; raises SetupError when the data directory or a port is taken."""
    run = options.data_dir.run
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = DataDirLock(run)
    try:
        columns = Columns(open_acks(options.data_dir.acks_file))
        reservation = await _reserve(options, columns)
        try:
            async with _probes(options) as probe_port:
                _announce(options, reservation.port, probe_port)
                await _serve(options, reservation.port, columns)
        finally:
            reservation.close()
    finally:
        lock.close()


async def _reserve(options: Options, columns: Columns) -> PortReservation:
    """Workers of a parent that was killed hold the port until they notice; for them, and only them, wait."""
    give_up_s = asyncio.get_running_loop().time() + ORPHANS_WAIT_S
    while True:
        try:
            return PortReservation(options.host, options.port)
        except SetupError:
            if not columns.orphans() or asyncio.get_running_loop().time() > give_up_s:
                raise
        await asyncio.sleep(ORPHANS_POLL_S)


@asynccontextmanager
async def _probes(options: Options) -> AsyncIterator[int]:
    clock = Clock()
    timers = Timers(clock.monotonic())
    clients = Clients(ProbeSite(options.data_dir.run), timers, Outbox(), Limits(), clock)
    reservation = PortReservation(options.probe_host, options.probe_port)
    try:
        listener = listen(options.probe_host, reservation.port)
        server = await asyncio.get_running_loop().create_server(clients.connect, sock=listener)
        timers.start()
        try:
            yield reservation.port
        finally:
            server.close()
            clients.abort()
            timers.stop()
    finally:
        reservation.close()


def _announce(options: Options, port: int, probe_port: int) -> None:
    """`gateway.json`: where this gateway listens, for those who chose port 0."""
    path = options.data_dir.run / "gateway.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    facts = {"pid": os.getpid(), "port": port, "probe_port": probe_port}
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    temporary.rename(path)


async def _serve(options: Options, port: int, columns: Columns) -> None:
    """The courier, if there is one, begins before the workers and ends after them."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not options.courier:
        await _keep_workers(options, port, columns, stop)
        return
    courier = CourierChild(options)
    try:
        await courier.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(courier.keep(stop))
            tasks.create_task(_keep_workers(options, port, columns, stop))
    finally:
        await courier.stop()


async def _keep_workers(options: Options, port: int, columns: Columns, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(options.workers):
            tasks.create_task(_keep_worker(options, port, columns, stop))


async def _keep_worker(options: Options, port: int, columns: Columns, stop: asyncio.Event) -> None:
    """Start it again whenever it dies; a worker goes by the number of its column."""
    pause_s = RESTART_PAUSE_S
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        started_s = loop.time()
        worker = columns.take()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "weighbridge.gateway.worker",
            *options.worker_argv(worker, port),
        )
        status = await _until_ended(process, stop, options.drain_s + KILL_AFTER_S)
        columns.give_back(worker)
        if stop.is_set():
            return
        lived_s = loop.time() - started_s
        pause_s = (
            RESTART_PAUSE_S if lived_s > LIVED_WELL_S else min(2 * pause_s, RESTART_PAUSE_MAX_S)
        )
        log.error("worker.died", worker=worker, status=status, restart_in_s=pause_s)
        await _wait(stop, pause_s)


async def _until_ended(
    process: asyncio.subprocess.Process, stop: asyncio.Event, kill_after_s: float
) -> int:
    ended = asyncio.create_task(process.wait())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
            await asyncio.wait({ended}, timeout=kill_after_s)
        if not ended.done():
            process.kill()
        return await ended
    finally:
        stopping.cancel()


async def _wait(stop: asyncio.Event, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await stop.wait()
    except TimeoutError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
