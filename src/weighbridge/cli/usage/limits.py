"""Commands that set what a key or an endpoint may use at most."""

from collections.abc import Mapping
from typing import Annotated

import typer

from weighbridge.cli.output import facts
from weighbridge.cli.session import Session, UsageError
from weighbridge.sdk import Limits

_HELP = "0 takes the limit away."
Concurrency = Annotated[
    int | None, typer.Option(min=0, help=f"Requests in flight at once. {_HELP}")
]
Requests = Annotated[int | None, typer.Option(min=0, metavar="N", help=_HELP)]
Tokens = Annotated[
    int | None, typer.Option(min=0, metavar="N", help=f"Prompt and completion together. {_HELP}")
]


def key_limit(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `key list` shows it.")],
    *,
    concurrency: Concurrency = None,
    requests_minute: Requests = None,
    requests_hour: Requests = None,
    requests_day: Requests = None,
    tokens_minute: Tokens = None,
    tokens_hour: Tokens = None,
    tokens_day: Tokens = None,
) -> None:
    """Set what a key may use; what is not given stays."""
    limits = _changes(
        concurrency=concurrency,
        requests_minute=requests_minute,
        requests_hour=requests_hour,
        requests_day=requests_day,
        tokens_minute=tokens_minute,
        tokens_hour=tokens_hour,
        tokens_day=tokens_day,
    )
    changed = session.client.admin.keys.limit(key, limits)
    _show(session, changed.raw, {"key": changed.id, "name": changed.name}, changed.limits)


def org_limit_keys(
    session: Session,
    org: Annotated[str, typer.Argument(metavar="ORG", help="The org's name.")],
    *,
    concurrency: Concurrency = None,
    requests_minute: Requests = None,
    requests_hour: Requests = None,
    requests_day: Requests = None,
    tokens_minute: Tokens = None,
    tokens_hour: Tokens = None,
    tokens_day: Tokens = None,
) -> None:
    """Set what each key of the org may use that has no such limit of its own."""
    limits = _changes(
        concurrency=concurrency,
        requests_minute=requests_minute,
        requests_hour=requests_hour,
        requests_day=requests_day,
        tokens_minute=tokens_minute,
        tokens_hour=tokens_hour,
        tokens_day=tokens_day,
    )
    changed = session.client.admin.orgs.limit_keys(org, limits)
    _show(session, changed.raw, {"each key of": changed.org_name}, changed.key_limits)


def endpoint_limit(
    session: Session,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id.")],
    *,
    concurrency: Concurrency = None,
    requests_minute: Requests = None,
    requests_hour: Requests = None,
    requests_day: Requests = None,
    tokens_minute: Tokens = None,
    tokens_hour: Tokens = None,
    tokens_day: Tokens = None,
) -> None:
    """Set what may be used of an endpoint by all keys together; what is not given stays."""
    limits = _changes(
        concurrency=concurrency,
        requests_minute=requests_minute,
        requests_hour=requests_hour,
        requests_day=requests_day,
        tokens_minute=tokens_minute,
        tokens_hour=tokens_hour,
        tokens_day=tokens_day,
    )
    changed = session.client.admin.endpoints.update(endpoint, limits=limits)
    _show(session, changed.raw, {"endpoint": changed.endpoint_id}, changed.limits)


def _changes(**given: int | None) -> Mapping[str, int | None]:
    changes = {name: value or None for name, value in given.items() if value is not None}
    if not changes:
        raise UsageError("Which limit? Give one, as in --requests-minute 60; 0 takes it away.")
    return changes


def _show(
    session: Session, raw: Mapping[str, object], of: Mapping[str, object], limits: Limits
) -> None:
    named = {
        name.replace("_", " per ", 1): getattr(limits, name) for name in Limits.__dataclass_fields__
    }
    shown = {name: "no limit" if value is None else value for name, value in named.items()}
    session.output.show(raw, facts({**of, **shown}))
