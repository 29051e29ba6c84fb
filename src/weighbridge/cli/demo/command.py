"""The command `weighbridge demo`, as it is called."""

from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli.output import Output
from weighbridge.cli.session import AsJson, Exit, reported


def demo(
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Holds llama-v1 and llama-v2; else tests/models of the clone."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep it running afterwards, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload, deploy and roll out two versions under live traffic, here."""
    output = Output(as_json=as_json)
    with reported(output):
        # Only here: loading boto3 would double the start of every other command.
        from weighbridge.cli.demo.stage import play  # noqa: PLC0415

        ok = play(output, models, keep=keep)
    raise typer.Exit(Exit.OK if ok else Exit.FAILED)


def install(program: typer.Typer) -> None:
    program.command("demo", rich_help_panel="Start and stop")(demo)
