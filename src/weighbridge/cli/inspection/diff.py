"""The command that says in which tensors two versions differ."""

from typing import Annotated

import typer
from rich.console import Group

from weighbridge.cli.output import plain, table
from weighbridge.cli.session import Exit, OrgName, Session

ROWS_MAX = 20

Before = Annotated[str, typer.Argument(metavar="ARCH/VERSION", help="The earlier version.")]
After = Annotated[
    str,
    typer.Argument(metavar="VERSION", help="The later one: ARCH/VERSION, or its number or alias."),
]


ExitCode = Annotated[
    bool, typer.Option("--exit-code", help="Exit with 1 when they differ, for scripts.")
]


def version_diff(
    session: Session,
    before: Before,
    after: After,
    *,
    exit_code: ExitCode = False,
    org: OrgName = None,
) -> None:
    """Say in which tensors two versions differ, and by how much."""
    first = session.version_name(before, org)
    named = after if "/" in after else f"{first.model_arch_id}/{after}"
    found = session.client.versions.diff(first, session.version_name(named, org))
    rows = [
        (
            change.name,
            change.change,
            "-" if change.relative_change is None else f"{change.relative_change * 100:.3g} %",
        )
        for change in found.changes[:ROWS_MAX]
    ]
    view = Group(plain(found.summary), table(("TENSOR", "WHAT", "BY"), rows) if rows else "")
    session.output.show(found.raw, view)
    if exit_code and found.differing:
        raise typer.Exit(Exit.FAILED)
