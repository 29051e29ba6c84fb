"""The command of the S3 doctor."""

import json
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from weighbridge.cli.output import plain
from weighbridge.cli.session import Exit, OrgName, Session, with_session
from weighbridge.sdk import AccessReport, AccessStep


def doctor(
    session: Session,
    weight_uri: Annotated[
        str, typer.Argument(metavar="S3_URI", help="s3://bucket/prefix of the weights.")
    ],
    *,
    arch: Annotated[
        str | None,
        typer.Option(metavar="ARCH", help="Also judge the weights by their headers."),
    ] = None,
    org: OrgName = None,
) -> None:
    """Find out why weights cannot be read, and print the policy statement to paste; exits with 1 if they cannot."""
    report = session.client.models.explain_access(session.org(org), weight_uri, model_arch_id=arch)
    session.output.show(report.raw, report_view(report))
    if not report.ok:
        raise typer.Exit(Exit.FAILED)


def report_view(report: AccessReport) -> RenderableType:
    lines: list[RenderableType] = []
    for step in report.steps:
        lines.append(_step_line(step))
        if step.statement is not None:
            lines += [
                Text(f"       add to {plain(step.goes_into or 'the policy')}:"),
                Text(plain(json.dumps(step.statement, indent=2))),
            ]
    for found in report.look_alikes:
        lines.append(Text(f"hint   {plain(found.code)}: {plain(found.message)}"))
        if found.suggestion is not None:
            lines.append(Text(f"       try {plain(found.suggestion)}", style="bold"))
    for problem in report.problems or ():
        lines.append(Text(f"FAILED {plain(problem.code)}: {plain(problem.message)}", style="red"))
    if report.problems == ():
        lines.append(Text("ok     verdict: the weights fit the architecture", style="green"))
    return Group(*lines)


def _step_line(step: AccessStep) -> Text:
    word, style = ("ok    ", "green") if step.ok else ("FAILED", "red")
    if step.ok and step.code is not None:
        word, style = "warn  ", "yellow"
    code = f" ({step.code})" if step.code is not None else ""
    return Text(plain(f"{word} {step.name}{code}: {step.message}"), style=style)


def install(program: typer.Typer) -> None:
    program.command("doctor", rich_help_panel="Models")(with_session(doctor))
