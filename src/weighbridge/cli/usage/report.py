"""The command `usage`: what was used, as a table, CSV or JSON."""

import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from weighbridge.cli.output import moment, table
from weighbridge.cli.session import Session, UsageError, with_session
from weighbridge.sdk import UsageReport, UsageRow

COLUMNS = (
    "start",
    "org_name",
    "key_id",
    "endpoint_id",
    "version",
    "requests",
    "succeeded",
    "refused",
    "failed",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
)


class By(StrEnum):
    HOUR = "hour"
    DAY = "day"
    TOTAL = "total"


def usage(
    session: Session,
    *,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="2026-01-31, 2026-01-31T08:00 (UTC), or unix seconds; else a week ago.",
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Not included; else now.")
    ] = None,
    by: Annotated[By, typer.Option(help="Rows per hour, per day, or one in total.")] = By.DAY,
    group: Annotated[
        str, typer.Option(metavar="NAMES", help="Of key, endpoint, version, by comma.")
    ] = "endpoint",
    all_orgs: Annotated[
        bool, typer.Option("--all-orgs", help="Of every org; needs the admin key.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Report requests and tokens."""
    if as_csv and session.output.as_json:
        raise UsageError("Say --csv or --json, not both.")
    groups = [name.strip() for name in group.split(",") if name.strip()]
    if all_orgs:
        groups = list(dict.fromkeys(["org", *groups]))
    source = session.client.admin.usage if all_orgs else session.client.usage
    found = source.report(begin=_unix_s(begin), end=_unix_s(end), by=by.value, group=groups)
    if as_csv:
        _write_csv(found)
        return
    columns = _columns(found.rows)
    rows = [[_shown(row, name) for name in columns] for row in found.rows]
    headings = [
        name.removesuffix("_id").removesuffix("_name").replace("_", " ") for name in columns
    ]
    session.output.show(found.raw, table([heading.upper() for heading in headings], rows))
    if not found.rows:
        session.output.note("Nothing was used in this time.")
    if found.lost_events:
        session.output.note(f"{found.lost_events} requests were never counted: the disk was full.")


def install(program: typer.Typer) -> None:
    program.command("usage", rich_help_panel="Use")(with_session(usage))


def _columns(rows: Sequence[UsageRow]) -> Sequence[str]:
    """Without those that no row has."""
    return [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]


def _shown(row: UsageRow, name: str) -> object:
    return moment(row.start) if name == "start" else getattr(row, name)


def _write_csv(found: UsageReport) -> None:
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in found.rows:
        values: Mapping[str, object] = {name: getattr(row, name) for name in COLUMNS}
        start = None if row.start is None else datetime.fromtimestamp(row.start, UTC).isoformat()
        writer.writerow({**values, "start": start})


def _unix_s(text: str | None) -> int | None:
    if text is None:
        return None
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time; write it as 2026-01-31T08:00.") from error
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return int((aware - datetime.fromtimestamp(0, UTC)) / timedelta(seconds=1))
