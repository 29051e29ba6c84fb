"""The command that sets how the gateway treats an endpoint's requests."""

from typing import Annotated, Literal

import typer

from weighbridge.cli.output import facts
from weighbridge.cli.session import Session, UsageError

AUTO = "auto"


def endpoint_gateway(
    session: Session,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id.")],
    *,
    hold_s: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|auto",
            help="How long a request may wait while no replica is ready; 0: not at all; "
            "auto: as the server is set, unless replicas take longer to start.",
        ),
    ] = None,
    affinity: Annotated[
        Literal["off", "session", "prefix"] | None,
        typer.Option(help="Which requests go to the same replica while its load allows."),
    ] = None,
    public: Annotated[
        bool | None,
        typer.Option("--public/--private", help="Whether /public/v1/models shows it to anybody."),
    ] = None,
) -> None:
    """Set how the gateway treats an endpoint's requests; what is not given stays."""
    changes: dict[str, object] = {}
    if hold_s is not None:
        changes["hold_s"] = None if hold_s == AUTO else _seconds(hold_s)
    if affinity is not None:
        changes["affinity"] = affinity
    if public is not None:
        changes["public"] = public
    if not changes:
        raise UsageError("Say what to change: --hold-s, --affinity, --public or --private.")
    shape = session.client.admin.endpoints.update(endpoint, gateway=changes)
    options = shape.gateway
    session.output.show(
        shape.raw,
        facts(
            {
                "endpoint": shape.endpoint_id,
                "hold": AUTO if options.hold_s is None else f"{options.hold_s:g} s",
                "affinity": options.affinity,
                "public": options.public,
            }
        ),
    )


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--hold-s takes seconds or {AUTO}, not {text!r}.") from None
