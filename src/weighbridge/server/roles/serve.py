"""`weighbridge serve`: some roles of a server, beside others that other processes have."""

import os
from collections.abc import Collection

from weighbridge.errors import SetupError
from weighbridge.server.database import OnText
from weighbridge.server.roles.model import CONTROL_ROLES, Role, seat_for
from weighbridge.server.roles.places import make_directories
from weighbridge.server.roles.processes import services
from weighbridge.server.services import Service
from weighbridge.settings import Settings


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
    its settings or the database's schema do not allow it, UnavailableError when the database is away. A single
    process looks at the schema itself.
    """
    seat = seat_for(roles, name) if CONTROL_ROLES & set(roles) else None
    url = None if seat is None else database_url(settings)
    if seat is None and name is not None:
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
    # Only here: a process that another one follows at once has no use for what it would load.
    from weighbridge.server.roles.together import supervise  # noqa: PLC0415

    return supervise(settings, parts, url, on_event, take_over=take_over)


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
