"""`weighbridge serve`: some roles of a server, beside others that other processes have."""

import os
from collections.abc import Collection
from importlib.metadata import version

from weighbridge.errors import SetupError
from weighbridge.server.database import OnText
from weighbridge.server.roles.model import CONTROL_ROLES, Role, seat_for
from weighbridge.server.roles.processes import public_url, services
from weighbridge.server.services import Service
from weighbridge.server.supervisor import Supervisor, ask_to_leave, take_supervisor_lock
from weighbridge.server.telling import Telling
from weighbridge.server.up import make_directories
from weighbridge.settings import Settings
from weighbridge.storage.migrate import require_schema


def serve(
    settings: Settings,
    roles: Collection[Role],
    *,
    name: str | None,
    on_event: OnText,
    take_over: bool = False,
) -> int:
    """Run these roles until SIGTERM or SIGINT; returns the exit code.

    A single process takes the place of this one, so that a service manager has no other between it and
    what it manages; several are supervised as `up` does it. With `take_over` it follows the gateway, or the supervisor,
    that runs on this data directory with other settings or another version. Raises SetupError when this machine,
    its settings or the database's schema do not allow it.
    """
    seat = seat_for(roles, name) if CONTROL_ROLES & set(roles) else None
    url = None
    if seat is not None:
        url = database_url(settings)
        require_schema(url)
    elif name is not None:
        raise SetupError("Only a control process (api, controller) has a name.", code="name_unused")
    make_directories(settings.paths)
    parts = services(settings, url, roles, seat)
    if not parts:
        raise SetupError(
            "There is nothing to run: on a Ray cluster replicas need no agent, and elsewhere, or with the weight "
            "store in a bucket or on a shared path, nodes need no weight server.",
            code="no_role",
        )
    if len(parts) == 1:
        _become(parts[0], take_over=take_over)
    if take_over:
        ask_to_leave(settings.paths.run)
    return _supervise(settings, parts, on_event)


def database_url(settings: Settings) -> str:
    """Of the team's own server; SetupError without one."""
    if settings.database_url is None:
        raise SetupError(
            "An api and a controller share a PostgreSQL with others: set WEIGHBRIDGE_DATABASE_URL. "
            "`weighbridge up` brings one of its own.",
            code="no_database",
        )
    return settings.database_url.get_secret_value()


def _become(service: Service, *, take_over: bool) -> None:
    if take_over and not service.follow_argv:
        raise SetupError(
            f"One {service.name} cannot take over from another: stop that one first. A gateway can.",
            code="cannot_take_over",
        )
    argv = [*service.argv, *(service.follow_argv if take_over else ())]
    os.execve(argv[0], argv, {**os.environ, **service.env})  # noqa: S606


def _supervise(settings: Settings, parts: list[Service], on_event: OnText) -> int:
    paths = settings.paths
    with take_supervisor_lock(paths.run) as lock:
        names = [part.name for part in parts]
        shown = public_url(settings) if "gateway" in names else ", ".join(names)
        telling = Telling(names, shown, paths.logs, on_event)
        Supervisor(
            parts, paths.run, paths.logs, version=version("weighbridge"), on_event=telling
        ).run(lock)
    return 0
