"""The processes of a server's roles: commands, settings, and how to see that one is ready."""

import sys
from collections.abc import Collection

from pydantic import SecretStr

from weighbridge.server.roles.model import Role, Seat
from weighbridge.server.services import Service, accepts_unix, answers_http
from weighbridge.settings import Settings
from weighbridge.weights.served.address import weights_host

CONTROL_STOP_S = 10.0
GATEWAY_STOP_S = 45.0
AGENT_STOP_S = 30.0
WEIGHTS_STOP_S = 5.0
_PYTHON = (sys.executable, "-m")


def services(
    settings: Settings,
    database_url: str | None,
    roles: Collection[Role] = tuple(Role),
    seat: Seat | None = None,
) -> list[Service]:
    """The processes of these roles in the order of their start; the stop is the reverse.

    `seat` is the control process's, where there is one. Without a database's URL there can be none.
    """
    environment = _environment(settings)
    found = []
    # On a Ray cluster the replicas have agents of their own, and outlive this server.
    if Role.AGENT in roles and settings.runtime == "local":
        found.append(_agent(settings))
    if Role.WEIGHTS in roles and serves_weights(settings):
        found.append(_weights(settings, environment))
    if Role.GATEWAY in roles:
        found.append(
            Service(
                "gateway",
                [*_PYTHON, "weighbridge.gateway", *_courier(settings, roles)],
                env=environment,
                stop_grace_s=GATEWAY_STOP_S,
                follow_argv=("--take-over",),
                ready_check=lambda: answers_http(f"{probe_url(settings)}/readyz"),
            )
        )
    if database_url is not None and {Role.API, Role.CONTROLLER} & set(roles):
        with_url = {**environment, "WEIGHBRIDGE_DATABASE_URL": database_url}
        found.append(_control(settings, seat or Seat(), with_url))
    return found


def _courier(settings: Settings, roles: Collection[Role]) -> list[str]:
    """Beside its controller a gateway needs none: that one writes the tables into the same data directory."""
    if settings.database_url is None or Role.CONTROLLER in roles:
        return []
    return ["--courier"]


def _agent(settings: Settings) -> Service:
    paths = settings.paths
    return Service(
        "agent",
        [
            *_PYTHON,
            "weighbridge.runtimes.agent",
            "--data-dir",
            str(paths.root),
            "--slots",
            str(settings.replica_slots),
            "--gpus",
            settings.gpus,
            "--host",
            settings.replica_host,
        ],
        stop_grace_s=AGENT_STOP_S,
        ready_check=lambda: accepts_unix(paths.agent_socket),
    )


def serves_weights(settings: Settings) -> bool:
    """Whether nodes come here for versions: not where they share a path, or read the bucket themselves."""
    return settings.nodes_pull and settings.store_url is None


def _weights(settings: Settings, environment: dict[str, str]) -> Service:
    # Where nodes find it may be a proxy's address; whether it is ready is asked of itself.
    url = f"http://{_reachable(weights_host(settings))}:{settings.weights_port}/readyz"
    return Service(
        "weights",
        [*_PYTHON, "weighbridge.server.roles.weights"],
        env=environment,
        stop_grace_s=WEIGHTS_STOP_S,
        ready_check=lambda: answers_http(url),
    )


def _control(settings: Settings, seat: Seat, environment: dict[str, str]) -> Service:
    socket = settings.paths.api_socket(seat.name)
    return Service(
        seat.name,
        [*_PYTHON, "weighbridge.server.roles.launch", *seat.argv()],
        env=environment,
        stop_grace_s=CONTROL_STOP_S,
        ready_check=(lambda: accepts_unix(socket)) if Role.API in seat.roles else None,
    )


def _environment(settings: Settings) -> dict[str, str]:
    environment = {
        f"WEIGHBRIDGE_{name.upper()}": _text(value)
        for name, value in settings.model_dump(exclude={"database_url"}, exclude_none=True).items()
    }
    environment["WEIGHBRIDGE_DATA_DIR"] = str(settings.paths.root)
    return environment


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def probe_url(settings: Settings) -> str:
    return f"http://{_reachable(settings.probe_host)}:{settings.probe_port}"


def public_url(settings: Settings) -> str:
    return f"http://{_reachable(settings.host)}:{settings.port}"


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
