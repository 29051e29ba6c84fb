"""The gateway's parent process: holds the locks, keeps N workers running, answers probes. It serves no request."""

import asyncio
import json
import mmap
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import structlog

from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.gateway.courier.child import CourierChild
from weighbridge.gateway.courier.figures import forget_courier_figures
from weighbridge.gateway.metrics.figures import read_figures
from weighbridge.gateway.options import EXIT_SETUP, Options, read_options
from weighbridge.gateway.port import DataDirLock, PortReservation, bound, listen
from weighbridge.gateway.proxy.probes import ProbeSite
from weighbridge.gateway.succession.events import first_of
from weighbridge.gateway.succession.handover import (
    SERVING_WAIT_S,
    Inheritance,
    ask,
    hand_over,
)
from weighbridge.gateway.succession.holdings import Holdings
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
SERVING_POLL_S = 0.05


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

    def __init__(self, memory: mmap.mmap, foreign: Sequence[int]) -> None:
        """`foreign` are another living parent's, whether their workers live by now or not."""
        self._memory = memory
        self._view = GatewayView(memory)
        self._foreign = frozenset(foreign)
        self.given: list[int] = []

    def orphans(self) -> bool:
        """Whether workers of an earlier parent still live."""
        return bool(set(self._view.live_columns()) - set(self.given))

    def take(self) -> int:
        taken = {*self.given, *self._foreign, *self._view.live_columns()}
        free = next((column for column in range(WORKERS_MAX) if column not in taken), None)
        if free is None:
            raise SetupError(f"There are {WORKERS_MAX} gateway workers; end the old ones first")
        self.given.append(free)
        return free

    def give_back(self, column: int) -> None:
        """Once its worker has been reaped; no count of the dead remains."""
        clear_column(self._memory, column)
        self.given.remove(column)


async def supervise(options: Options) -> None:
    """Until SIGTERM or SIGINT, or until another gateway has taken over; raises SetupError when the data directory or
    a port is taken.
    """
    run = options.data_dir.run
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    inheritance = await asyncio.to_thread(ask, run) if options.take_over else None
    columns = Columns(
        open_acks(options.data_dir.acks_file), inheritance.columns if inheritance else ()
    )
    holdings = inheritance.holdings if inheritance else await _take(options, columns)
    try:
        if inheritance is not None:
            _move(options, holdings)
        await Parent(options, holdings, columns).run(inheritance)
    finally:
        (inheritance or holdings).close()


async def _take(options: Options, columns: Columns) -> Holdings:
    with ExitStack() as undo:
        lock = DataDirLock.take(options.data_dir.run)
        undo.callback(lock.close)
        public = await _reserve(options, columns)
        undo.callback(public.close)
        probe = PortReservation(options.probe_host, options.probe_port)
        undo.callback(probe.close)
        listener = listen(options.probe_host, probe.port)
        undo.pop_all()
    return Holdings(lock, public, probe, listener)


def _move(options: Options, holdings: Holdings) -> None:
    """Reserve what the settings want in the place of what was inherited, where that is another port."""
    if not holdings.public.is_for(options.host, options.port):
        public = PortReservation(options.host, options.port)
        holdings.public.close()
        holdings.drop(holdings.listeners)
        holdings.public = public
    if not holdings.probe.is_for(options.probe_host, options.probe_port):
        probe = PortReservation(options.probe_host, options.probe_port)
        holdings.probe.close()
        holdings.probe_listener.close()
        holdings.probe, holdings.probe_listener = probe, listen(options.probe_host, probe.port)


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


class Parent:
    """Keeps the workers running until it is stopped or followed."""

    def __init__(self, options: Options, holdings: Holdings, columns: Columns) -> None:
        self._options = options
        self._holdings = holdings
        self._columns = columns
        self._stop = asyncio.Event()
        self._followed = asyncio.Event()
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._pids: set[int] = set()
        self._probes: asyncio.Server | None = None

    async def run(self, inheritance: Inheritance | None) -> None:
        """Raises SetupError when it could not follow; its predecessor goes on then."""
        loop = asyncio.get_running_loop()
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._stop.set)
        workers = self._options.workers
        inherited = list(self._holdings.listeners)
        followed = True
        probes, courier = _probes(self._options, self._holdings), self._courier()
        async with courier, probes as self._probes, asyncio.TaskGroup() as tasks:
            for number in range(workers):
                tasks.create_task(self._keep_worker(inherited[number::workers]))
            if inheritance is not None:
                followed = await self._serves()
            if followed:
                self._succeed(inheritance)
                await self._until_followed_or_stopped()
            else:
                self._stop.set()
        if not followed:
            raise SetupError("The new gateway's workers did not come up; the old ones go on")

    @asynccontextmanager
    async def _courier(self) -> AsyncIterator[None]:
        """It begins before the workers and ends after them, or when the successor's is there."""
        if not self._options.courier:
            forget_courier_figures(self._options.data_dir.run)
            yield
            return
        courier = CourierChild(self._options)
        try:
            await courier.start()
            keeping = asyncio.create_task(courier.keep(self._stop, self._followed))
            try:
                yield
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
        finally:
            await courier.stop()

    def _succeed(self, inheritance: Inheritance | None) -> None:
        """From here on this is the gateway of the data directory."""
        self._holdings.lock.name_holder()
        _announce(self._options, self._holdings)
        if inheritance is not None:
            inheritance.confirm()
            log.info("gateway.took_over", port=self._holdings.public.port)

    async def _serves(self) -> bool:
        """Once every worker listens; False when they do not in time, or when it is to stop before."""
        limit_s = asyncio.get_running_loop().time() + SERVING_WAIT_S
        run = self._options.data_dir.run
        while not self._stop.is_set() and asyncio.get_running_loop().time() < limit_s:
            serving = {figures.pid for figures in read_figures(run)}
            if len(self._pids) == self._options.workers and self._pids <= serving:
                return True
            await asyncio.sleep(SERVING_POLL_S)
        return False

    async def _until_followed_or_stopped(self) -> None:
        run, given = self._options.data_dir.run, self._columns.given
        following = asyncio.create_task(hand_over(run, self._holdings, given, self._may_start))
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
                log.info("gateway.followed")
                self._let_go()
                self._followed.set()
        finally:
            following.cancel()
            stopping.cancel()

    def _let_go(self) -> None:
        """Of all that the successor has by now: should it die, the next one must find it free."""
        if self._probes is not None:
            self._probes.close()
        self._holdings.close()

    async def _keep_worker(self, listeners: list[socket.socket]) -> None:
        """Start it again whenever it dies; a worker goes by the number of its column."""
        pause_s = RESTART_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            await first_of(self._may_start, self._stop, self._followed)
            if self._stop.is_set() or self._followed.is_set():
                return
            started_s = loop.time()
            worker = self._columns.take()
            listeners = listeners or [self._listener()]
            process = await self._start(worker, listeners)
            self._pids.add(process.pid)
            status = await self._until_ended(process, listeners)
            self._pids.discard(process.pid)
            self._columns.give_back(worker)
            listeners = []
            if self._stop.is_set() or self._followed.is_set():
                return
            lived_s = loop.time() - started_s
            pause_s = (
                RESTART_PAUSE_S if lived_s > LIVED_WELL_S else min(2 * pause_s, RESTART_PAUSE_MAX_S)
            )
            log.error("worker.died", worker=worker, status=status, restart_in_s=pause_s)
            await first_of(self._stop, self._followed, limit_s=pause_s)

    def _listener(self) -> socket.socket:
        made = bound(self._options.host, self._holdings.public.port)
        self._holdings.listeners.append(made)
        return made

    async def _start(
        self, worker: int, listeners: list[socket.socket]
    ) -> asyncio.subprocess.Process:
        descriptors = [listener.fileno() for listener in listeners]
        port = self._holdings.public.port
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "weighbridge.gateway.worker",
            *self._options.worker_argv(worker, port, descriptors),
            pass_fds=descriptors,
        )

    async def _until_ended(
        self, process: asyncio.subprocess.Process, listeners: list[socket.socket]
    ) -> int:
        """Its exit status. A worker that is followed may take as long as a request; one that is stopped may not."""
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stop.wait())
        following = asyncio.create_task(self._followed.wait())
        try:
            await asyncio.wait({ended, stopping, following}, return_when=asyncio.FIRST_COMPLETED)
            # With this copy the socket would go on taking connections that nobody accepts.
            self._holdings.drop(listeners)
            if not ended.done() and not self._stop.is_set():
                process.send_signal(signal.SIGUSR1)
                limit_s = self._options.request_max_s + KILL_AFTER_S
                await asyncio.wait(
                    {ended, stopping}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
                )
            if not ended.done():
                process.terminate()
                await asyncio.wait({ended}, timeout=self._options.drain_s + KILL_AFTER_S)
            if not ended.done():
                process.kill()
            return await ended
        finally:
            stopping.cancel()
            following.cancel()


@asynccontextmanager
async def _probes(options: Options, holdings: Holdings) -> AsyncIterator[asyncio.Server]:
    clock, loop = Clock(), asyncio.get_running_loop()
    timers, outbox = Timers(clock.monotonic()), Outbox(loop.call_soon)
    clients = Clients(ProbeSite(options.data_dir.run), timers, outbox, Limits(), clock)
    # A copy, for the server closes what it is given.
    server = await loop.create_server(clients.connect, sock=holdings.probe_listener.dup())
    timers.start()
    try:
        yield server
    finally:
        server.close()
        clients.abort()
        timers.stop()


def _announce(options: Options, holdings: Holdings) -> None:
    """`gateway.json`: where this gateway listens, for those who chose port 0."""
    path = options.data_dir.run / "gateway.json"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    ports = {"port": holdings.public.port, "probe_port": holdings.probe.port}
    temporary.write_text(json.dumps({"pid": os.getpid(), **ports}), encoding="utf-8")
    temporary.rename(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
