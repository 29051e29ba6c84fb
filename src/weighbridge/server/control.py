"""The control process: the management API and the reconcilers, or one of them, over one database.

It holds nothing but a lease. Killed at any line, the next one goes on from the rows.
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import aiohttp
import structlog
import uvicorn
from fastapi import FastAPI

from weighbridge.acceptance.examiner import Examiner
from weighbridge.api.app import create_app
from weighbridge.api.deps import Parts
from weighbridge.clock import Clock
from weighbridge.control.announce import SharedWake
from weighbridge.control.loop import Loop, backoff_s
from weighbridge.control.wake import Wake
from weighbridge.engines.catalog import engines
from weighbridge.engines.gguf.cache import sweep_converted
from weighbridge.errors import SetupError, UnavailableError
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.receipts.reconciler import ReceiptReconciler, SealTimes, signer
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.replicas.store import digests_in_use
from weighbridge.routing import published
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.hosts.identity import host_identity
from weighbridge.routing.hosts.view import AllHosts
from weighbridge.routing.tokens import load_pepper, pepper_mark
from weighbridge.runtimes.base import NODE_PYTHON, Runtime
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.runtimes.processes import hold_lock
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.runtimes.ray.runtime import RayRuntime
from weighbridge.runtimes.wire import private_listener
from weighbridge.server.figures import FiguresWriter
from weighbridge.server.roles.leading import (
    CONTROLLER_RENEW_S,
    LEASE_LOOP,
    ControllerLease,
    hand_over,
)
from weighbridge.server.roles.model import Role, Seat, read_seat
from weighbridge.server.roles.pulling import (
    cache_dir_of,
    prefetcher_of,
    rollouts_of,
    weights_of,
)
from weighbridge.settings import Settings
from weighbridge.storage import lease as leases
from weighbridge.storage.database import Database
from weighbridge.storage.pruning import prune
from weighbridge.storage.schema.support import require_schema
from weighbridge.telemetry.logs import configure_logs
from weighbridge.usage.reconciler import UsageKeep, UsageReconciler
from weighbridge.weights.bucket.opening import open_store
from weighbridge.weights.diff.reconciler import TensorDigestReconciler
from weighbridge.weights.diff.shelf import TensorShelf
from weighbridge.weights.node.marks import LoadMarks
from weighbridge.weights.node.versions import NodeVersions

log = structlog.get_logger()

SHUTDOWN_GRACE_S = 5
LAST_CALLS_S = 0.5
"""From the end of new connections to an api to its own."""
QUERY_TIMEOUT_S = 60.0
PRUNE_PERIOD_S = 3600.0
START_WAIT_S = 30.0
"""A database that is away for longer is told of by an exit; whoever manages the process starts it again."""
START_LOOK_S = 2.0
EXIT_UNAVAILABLE = 6
"""As the commands end with it: starting again may help."""
EXIT_SETUP = 78
"""EX_CONFIG of sysexits.h: starting again will not help."""


async def serve(settings: Settings, seat: Seat) -> None:
    """Run until SIGTERM or SIGINT.

    Raises SetupError when this machine, its settings or the database's schema do not allow it, UnavailableError
    when the database stays away at the start.
    """
    if settings.database_url is None:
        raise SetupError(
            "The control process needs WEIGHBRIDGE_DATABASE_URL; `weighbridge up` sets it."
        )
    clock, wake = Clock(), Wake()
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        await await_schema(database, clock)
        holder = seat.holder(socket.gethostname(), clock.moment().boot_id, settings.paths.root)
        keeper = ControllerLease(database, holder, clock)
        shared = SharedWake(database, wake, clock.new_short_id())
        marks = LoadMarks(settings.paths.cache / "verified")
        parts = Parts(
            database=database,
            settings=settings,
            clock=clock,
            wake=shared,
            pepper=load_pepper(settings.paths.secrets),
            store=open_store(settings, holder, marks, _in_use(database)),
            s3=S3Access(settings),
            runtime=_runtime(settings, clock, stack, keeper.epoch),
            engines=engines(await stack.enter_async_context(aiohttp.ClientSession()), NODE_PYTHON),
            gateways=_gateways(settings, seat, clock),
            probe_session=await stack.enter_async_context(_asking()),
        )
        loops: list[Loop] = []
        if Role.CONTROLLER in seat.roles:
            with suppress(UnavailableError):  # the loop tries again
                await keeper.keep()
            stack.push_async_callback(hand_over, keeper, shared)
            versions = NodeVersions(parts.store, marks)
            stack.push_async_callback(asyncio.to_thread, versions.close)
            loops = _loops(parts, wake, keeper, holder=holder, versions=versions, stack=stack)
        app = create_app(parts) if Role.API in seat.roles else None
        # What is there by now stays: a pass over a large fleet would make the collector look through it all again.
        gc.freeze()
        gc.enable()  # `roles.launch` loads without it
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop.run()) for loop in loops]
            tasks.append(group.create_task(shared.announce()))
            if loops:
                tasks.append(group.create_task(shared.listen()))
            if app is not None:
                await _answer(app, settings.paths.api_socket(seat.name))
            else:
                await _stopped()
            for task in tasks:
                task.cancel()


async def await_schema(database: Database, clock: Clock) -> None:
    """Return once this program may use the database; it may be away for a moment, as in a failover.

    Raises SetupError when it may not, UnavailableError when it was away for START_WAIT_S.
    """
    until_s, failures = clock.monotonic() + START_WAIT_S, 0
    while True:
        try:
            await require_schema(database)
        except UnavailableError as error:
            failures += 1
            if clock.monotonic() >= until_s:
                raise
            log.warning("control.waits", code=error.code, reason=error.message)
        else:
            return
        await asyncio.sleep(min(backoff_s(failures), START_LOOK_S))


def _asking() -> aiohttp.ClientSession:
    """A question is not asked twice, so none may meet a connection that its engine is closing."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


def _gateways(settings: Settings, seat: Seat, clock: Clock) -> AllHosts:
    return AllHosts(
        GatewayView(open_acks(settings.paths.acks_file)),
        host_identity(settings.paths).id,
        clock.boot_s,
        waits=Role.CONTROLLER in seat.roles,
    )


async def _stopped() -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("control.ready")
    await stop.wait()


def _runtime(
    settings: Settings, clock: Clock, stack: AsyncExitStack, epoch_of: Callable[[], int | None]
) -> Runtime:
    if settings.runtime == "local":
        return ProcessRuntime(settings.paths.agent_socket, epoch_of=epoch_of)
    cluster = RayRuntime(RayOptions.of(settings), clock.monotonic, epoch_of)
    stack.push_async_callback(cluster.close)
    return cluster


async def _answer(app: FastAPI, path: Path) -> None:
    """Serve HTTP until SIGTERM or SIGINT; the socket is there once both would be an orderly end."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=SHUTDOWN_GRACE_S
    )
    server = uvicorn.Server(config)

    def end() -> None:
        server.should_exit = True

    def stop() -> None:
        # First nobody new finds it: gateways ask another api then. Who has connected by now is still answered.
        path.unlink(missing_ok=True)
        asyncio.get_running_loop().call_later(LAST_CALLS_S, end)

    # uvicorn raises the signal once more when it has stopped: without a handler of ours that would end
    # the process before anything is given back.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    with private_listener(path) as listener:
        # Given the path instead, uvicorn would open the socket to every user.
        config.fd = listener.fileno()
        await server.serve()


def _loops(
    parts: Parts,
    wake: Wake,
    keeper: ControllerLease,
    *,
    holder: str,
    versions: NodeVersions,
    stack: AsyncExitStack,
) -> list[Loop]:
    """The reconcilers, ready to run; `stack` closes what they own."""
    database, clock, settings = parts.database, parts.clock, parts.settings
    ingest = IngestReconciler(
        database, parts.store, parts.s3, clock, settings, holder=holder, wake=lambda: wake("ingest")
    )
    stack.push_async_callback(ingest.close)
    digests = _tensor_digests(parts, keeper)
    stack.push_async_callback(digests.close)
    prefetcher = prefetcher_of(parts, wake)
    rollouts = rollouts_of(parts, wake, keeper.current, prefetcher)
    replicas = ReplicaReconciler(
        database=database,
        clock=clock,
        wake=wake,
        runtime=parts.runtime,
        engines=parts.engines,
        store=versions,
        gateways=parts.gateways,
        pepper=parts.pepper,
        settings=settings,
        lease_of=keeper.current,
        examiner=None if parts.probe_session is None else Examiner(parts.probe_session, wake),
        weights_of=weights_of(parts),
        cache_dir=cache_dir_of(settings),
    )
    stack.push_async_callback(replicas.close)
    routes = _routes(parts, wake, keeper)
    usage = _usage(parts)
    sealing = _sealing(parts, keeper)
    passes = {
        "ingest": ingest.reconcile,
        "tensor_digests": digests.reconcile,
        "rollouts": rollouts.reconcile,
        "replicas": replicas.reconcile,
        "routes": routes.reconcile,
        "usage": usage.reconcile,
        "figures": _figures(parts, ingest).reconcile,
        "receipts": sealing.reconcile,
        **({} if prefetcher is None else {"prefetch": prefetcher.reconcile}),
    }
    leading = Loop(LEASE_LOOP, partial(_lead, keeper, wake), wake, CONTROLLER_RENEW_S)
    pruning = Loop("pruning", partial(_prune, parts, keeper), wake, PRUNE_PERIOD_S)
    return [leading, pruning, *(Loop(name, step, wake) for name, step in passes.items())]


def _routes(parts: Parts, wake: Wake, keeper: ControllerLease) -> RoutesPublisher:
    return RoutesPublisher(
        parts.database,
        parts.clock,
        wake,
        parts.settings.paths,
        engines=parts.engines,
        lease_of=keeper.current,
        hold_s=parts.settings.hold_s,
        pepper_mark=pepper_mark(parts.pepper),
        tell=partial(parts.wake, published.WAKE),
    )


async def _lead(keeper: ControllerLease, wake: Wake) -> float:
    """Keep the lease; whoever has just got it begins at once with what was left lying."""
    before = keeper.epoch()
    pause_s = await keeper.keep()
    if keeper.epoch() not in (None, before):
        wake.everybody()
    return pause_s


def _in_use(database: Database) -> Callable[[], Collection[str]]:
    """The manifests of replicas that have not ended, asked from a thread beside the running loop."""
    loop = asyncio.get_running_loop()

    async def query() -> Collection[str]:
        async with database.begin() as tx:
            return await digests_in_use(tx)

    return lambda: asyncio.run_coroutine_threadsafe(query(), loop).result(QUERY_TIMEOUT_S)


def _usage(parts: Parts) -> UsageReconciler:
    keep = UsageKeep(requests_s=parts.settings.usage_requests_keep_s)
    return UsageReconciler(parts.database, parts.clock, parts.settings.paths.usage, keep)


def _tensor_digests(parts: Parts, keeper: ControllerLease) -> TensorDigestReconciler:
    shelf = TensorShelf(parts.store.tensor_notes)
    return TensorDigestReconciler(parts.store, shelf, keeper.current)


def _figures(parts: Parts, ingest: IngestReconciler) -> FiguresWriter:
    path = parts.settings.paths.figures_file
    return FiguresWriter(parts.database, parts.store, path, ingest.verdicts)


def _sealing(parts: Parts, keeper: ControllerLease) -> ReceiptReconciler:
    key = parts.settings.receipt_key
    times = SealTimes(requests_keep_s=parts.settings.usage_requests_keep_s)
    return ReceiptReconciler(
        parts.database,
        parts.clock,
        keeper.current,
        times=times,
        sign=None if key is None else signer(key.get_secret_value().encode()),
    )


async def _prune(parts: Parts, keeper: ControllerLease) -> float:
    async with parts.database.begin() as tx:
        await leases.require(tx, keeper.current())
        removed = await prune(tx, parts.clock.now())
    cache, published = parts.settings.paths.cache, parts.store.published
    converted = await asyncio.to_thread(sweep_converted, cache, published)
    if converted or any(removed.values()):
        log.info("control.pruned", converted_files=converted, **removed)
    return PRUNE_PERIOD_S


def main(argv: Sequence[str]) -> int:
    settings = Settings()
    try:
        seat = read_seat(argv)
        configure_logs(seat.name, settings.log_level)
        with hold_lock(settings.paths.run / f"{seat.name}.lock"):
            # It may be an operator's own directory; what lies there is for nobody else.
            settings.paths.run.chmod(0o700)
            asyncio.run(serve(settings, seat))
    except SetupError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - the supervisor shows this line
        return EXIT_SETUP
    except UnavailableError as error:
        log.warning("control.stopped", code=error.code, reason=error.message)
        return EXIT_UNAVAILABLE
    return 0
