"""`weighbridge up` and `weighbridge down`: the whole server on one machine."""

import asyncio
import os
import sys
from collections.abc import Callable
from importlib.metadata import version

from weighbridge.accounts.service import ensure_admin_key
from weighbridge.clock import Clock
from weighbridge.errors import SetupError
from weighbridge.routing.tokens import load_pepper
from weighbridge.server.services import (
    Service,
    ServiceEvent,
    ServiceEventKind,
    accepts_unix,
    answers_http,
)
from weighbridge.server.stopping import down as stop_services
from weighbridge.server.supervisor import Supervisor, take_supervisor_lock
from weighbridge.settings import DataDir, Settings
from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.migrate import migrate

CONTROL_STOP_S = 10.0
GATEWAY_STOP_S = 45.0
AGENT_STOP_S = 30.0

OnText = Callable[[str], None]


def up(settings: Settings, *, on_event: OnText, on_first_key: OnText) -> int:
    """Start everything, stay, and stop everything at SIGTERM or SIGINT; returns the exit code.

    `on_event` gets lines for a person; `on_first_key` the admin key, once in the life of a data
    directory. Raises SetupError when this machine or its settings do not allow it.
    """
    paths = settings.paths
    _make_directories(paths)
    with take_supervisor_lock(paths.run) as lock:
        url = _start_database(settings, on_event)
        try:
            migrate(url)
            key = asyncio.run(_first_key(url, load_pepper(paths.secrets)))
            if key is not None:
                on_first_key(key)
            supervisor = Supervisor(
                services(settings, url),
                paths.run,
                paths.logs,
                version=version("weighbridge"),
                on_event=lambda event: on_event(_describe(event)),
            )
            supervisor.run(lock)
        finally:
            if settings.database_url is None:
                embedded.stop(paths.postgres)
                on_event("database stopped")
    return 0


def down(settings: Settings) -> int:
    """Stop what runs on the data directory, whoever started it; returns the exit code (0, also for nothing)."""
    paths = settings.paths
    if paths.run.exists():
        stop_services(paths.run)
    if settings.database_url is None:
        embedded.stop(paths.postgres)
    return 0


def services(settings: Settings, database_url: str) -> list[Service]:
    """The processes of one machine in the order of their start; the stop is the reverse."""
    paths = settings.paths
    environment = {
        f"WEIGHBRIDGE_{name.upper()}": str(value)
        for name, value in settings.model_dump(exclude={"database_url"}, exclude_none=True).items()
    }
    environment["WEIGHBRIDGE_DATA_DIR"] = str(paths.root)
    python = [sys.executable, "-m"]
    agent_options = ["--data-dir", str(paths.root), "--slots", str(settings.replica_slots)]
    return [
        Service(
            "agent",
            [*python, "weighbridge.runtimes.agent", *agent_options],
            stop_grace_s=AGENT_STOP_S,
            ready_check=lambda: accepts_unix(paths.agent_socket),
        ),
        Service(
            "gateway",
            [*python, "weighbridge.gateway"],
            env=environment,
            stop_grace_s=GATEWAY_STOP_S,
            ready_check=lambda: answers_http(f"{probe_url(settings)}/readyz"),
        ),
        Service(
            "control",
            [*python, "weighbridge.server.control"],
            env={**environment, "WEIGHBRIDGE_DATABASE_URL": database_url},
            stop_grace_s=CONTROL_STOP_S,
            ready_check=lambda: accepts_unix(paths.control_socket),
        ),
    ]


def probe_url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.probe_host in ("0.0.0.0", "::", "") else settings.probe_host
    return f"http://{host}:{settings.probe_port}"


def _make_directories(paths: DataDir) -> None:
    # Root's database user must be able to walk through; everything below that matters is closed.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        paths.root.mkdir(mode=mode, parents=True, exist_ok=True)
        for private in (paths.run, paths.logs, paths.secrets, paths.store, paths.cache):
            private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"The data directory {paths.root} cannot be used: {error.strerror}. "
            "Choose another with --data-dir or WEIGHBRIDGE_DATA_DIR.",
            code="data_dir_unusable",
        ) from error


def _start_database(settings: Settings, on_event: OnText) -> str:
    if settings.database_url is not None:
        on_event("database: the team's own server")
        return settings.database_url.get_secret_value()
    url = embedded.start(settings.paths.postgres)
    on_event("database ready (embedded PostgreSQL)")
    return url


async def _first_key(url: str, pepper: bytes) -> str | None:
    database, clock = Database(url), Clock()
    try:
        async with database.begin() as tx:
            return await ensure_admin_key(
                tx,
                pepper=pepper,
                key_id=clock.new_short_id(),
                secret=clock.new_secret(),
                now=clock.now(),
            )
    finally:
        await database.close()


def _describe(event: ServiceEvent) -> str:
    match event.kind:
        case ServiceEventKind.READY:
            return f"{event.service} ready in {event.after_s:.1f} s"
        case ServiceEventKind.EXITED:
            return f"{event.service} exited with code {event.exit_code}; starting it again"
        case ServiceEventKind.ADOPTED:
            return f"{event.service} was running already (process {event.pid}); taken over"
        case _:
            return f"{event.service} {event.kind.value}"
