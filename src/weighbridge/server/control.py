"""The control process: the management API and the reconcilers, over one database.

It holds nothing but a lease. Killed at any line, the next one goes on from the rows.
"""

import asyncio
import socket
import sys
from contextlib import AsyncExitStack

import aiohttp
import structlog
import uvicorn

from weighbridge.api.app import create_app
from weighbridge.api.deps import Parts
from weighbridge.clock import Clock
from weighbridge.control.loop import Loop
from weighbridge.control.wake import Wake
from weighbridge.engines.catalog import engines
from weighbridge.errors import SetupError, StaleError, UnavailableError
from weighbridge.ingest.reconciler import IngestReconciler
from weighbridge.ingest.s3 import S3Access
from weighbridge.replicas.reconciler import ReplicaReconciler
from weighbridge.replicas.routes import RoutesPublisher
from weighbridge.rollouts.reconciler import RolloutReconciler
from weighbridge.routing.acks import GatewayView, open_acks
from weighbridge.routing.tokens import load_pepper
from weighbridge.runtimes.process import ProcessRuntime
from weighbridge.runtimes.processes import hold_lock
from weighbridge.settings import Settings
from weighbridge.storage import lease as leases
from weighbridge.storage.database import Database
from weighbridge.telemetry.logs import configure_logs
from weighbridge.weights.filesystem import FilesystemStore

log = structlog.get_logger()

LEASE_NAME = "controller"
SHUTDOWN_GRACE_S = 5
EXIT_SETUP = 78
"""EX_CONFIG of sysexits.h: starting again will not help."""


class ControllerLease:
    """The right to reconcile; `current` raises StaleError while another control process has it."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder
        self._lease: leases.Lease | None = None

    def current(self) -> leases.Lease:
        if self._lease is None:
            raise StaleError("another control process holds the controller lease")
        return self._lease

    async def keep(self) -> float:
        """One pass: take the lease or renew it. Returns when to look again, in seconds."""
        async with self._database.begin() as tx:
            held = self._lease
            if held is not None and not await leases.renew(tx, held):
                log.warning("lease.lost", lease=LEASE_NAME, epoch=held.epoch)
                held = None
            if held is None:
                held = await leases.acquire(tx, LEASE_NAME, self._holder)
        if held is not None and held != self._lease:
            log.info("lease.taken", lease=LEASE_NAME, epoch=held.epoch)
        self._lease = held
        return leases.LEASE_RENEW_S

    async def give_back(self) -> None:
        if self._lease is not None:
            async with self._database.begin() as tx:
                await leases.release(tx, self._lease)


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises SetupError when this machine or its settings do not allow it."""
    if settings.database_url is None:
        raise SetupError(
            "The control process needs WEIGHBRIDGE_DATABASE_URL; `weighbridge up` sets it."
        )
    paths = settings.paths
    clock, wake = Clock(), Wake()
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value())
        stack.push_async_callback(database.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        store = FilesystemStore(paths.store)
        pepper = load_pepper(paths.secrets)
        s3 = S3Access.of(settings)
        runtime = ProcessRuntime(paths.agent_socket)
        known_engines = engines(session)
        acks = GatewayView(open_acks(paths.acks_file))
        # Nobody else can hold this data directory's lock, so nobody else has this name.
        keeper = ControllerLease(database, f"{socket.gethostname()}:{paths.root}")
        await keeper.keep()
        stack.push_async_callback(keeper.give_back)
        parts = Parts(
            database=database,
            settings=settings,
            clock=clock,
            wake=wake,
            pepper=pepper,
            store=store,
            s3=s3,
            runtime=runtime,
            engines=known_engines,
            acks=acks,
        )
        passes = {
            "lease": keeper.keep,
            "ingest": IngestReconciler(database, store, s3, clock, settings).reconcile,
            "rollouts": RolloutReconciler(database, clock, wake, keeper.current).reconcile,
            "replicas": ReplicaReconciler(
                database,
                clock,
                wake,
                runtime,
                known_engines,
                store,
                acks,
                pepper,
                settings,
                keeper.current,
            ).reconcile,
            "routes": RoutesPublisher(database, clock, paths, keeper.current).reconcile,
        }
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(parts),
                uds=str(paths.control_socket),
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
            )
        )
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(Loop(name, step, wake).run()) for name, step in passes.items()
            ]
            await server.serve()
            for loop in loops:
                loop.cancel()


def main() -> int:
    settings = Settings()
    configure_logs("control", settings.log_level)
    try:
        with hold_lock(settings.paths.run / "control.lock"):
            asyncio.run(serve(settings))
    except SetupError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - the supervisor shows this line
        return EXIT_SETUP
    except UnavailableError as error:
        log.warning("control.stopped", reason=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
