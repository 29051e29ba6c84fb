"""The command that ends an endpoint's drains early."""

from typing import Annotated

import typer
from rich.console import Group, RenderableType

from weighbridge.cli.output import moment, plain, table
from weighbridge.cli.session import Session, Yes


def endpoint_force_drain(
    session: Session,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id.")],
    *,
    after_s: Annotated[
        float, typer.Option(min=0, max=3600, help="How long their requests may still take.")
    ] = 0.0,
    yes: Yes = False,
) -> None:
    """Cut what replicas that drain still stream, so that a rollout need not wait for it."""
    when = "now" if after_s == 0 else f"in {after_s:g} s"
    session.confirm(f"Cut the requests of draining replicas of {endpoint} {when}?", yes=yes)
    forced = session.client.endpoints.force_drain(endpoint, after_s=after_s)
    rows = [(r.replica_id, r.version_id, r.requests, moment(r.deadline)) for r in forced.replicas]
    views: list[RenderableType] = [plain(forced.message)]
    if rows:
        views.append(table(("REPLICA", "VERSION", "REQUESTS", "DEADLINE"), rows))
    session.output.show(forced.raw, Group(*views))
