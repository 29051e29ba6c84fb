"""The program `weighbridge`: its tree of commands, and those about its own configuration."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from weighbridge.cli import admin, chat, config, endpoints, models, serve
from weighbridge.cli.demo import command as demo
from weighbridge.cli.inspection import doctor
from weighbridge.cli.output import Output, facts, plain
from weighbridge.cli.probes import command as probes
from weighbridge.cli.receipts import command as receipts
from weighbridge.cli.session import AsJson, Exit, UsageError, profile_file, reported
from weighbridge.cli.usage import report

EPILOG = (
    "Keys come from WEIGHBRIDGE_ADMIN_KEY, WEIGHBRIDGE_API_KEY (management) and WEIGHBRIDGE_INFERENCE_KEY, or from "
    "`weighbridge config set`. Exit codes: 0 done, 1 the operation failed, 2 usage, 3 key, 4 not found, 5 conflict, "
    "6 unavailable, 78 this machine is not set up, 130 interrupted."
)


def program() -> typer.Typer:
    """The whole tree of commands."""
    tree = typer.Typer(
        no_args_is_help=True,
        epilog=EPILOG,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    tree.callback()(_root)
    serve.install(tree)
    demo.install(tree)
    models.install(tree)
    doctor.install(tree)
    endpoints.install(tree)
    receipts.install(tree)
    chat.install(tree)
    report.install(tree)
    admin.install(tree)
    probes.install(tree)
    settings = typer.Typer(no_args_is_help=True)
    settings.command("show")(config_show)
    settings.command("set")(config_set)
    settings.command("unset")(config_unset)
    tree.add_typer(
        settings,
        name="config",
        help="Which server and keys commands use by default.",
        rich_help_panel="Use",
    )
    return tree


def main() -> None:
    """Entry point; exits with one of the documented codes and never with a traceback."""
    try:
        program()(prog_name="weighbridge")
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        sys.exit(Exit.FAILED)
    except Exception as error:  # the process's edge: a person reads this
        if os.environ.get("WEIGHBRIDGE_DEBUG"):
            raise
        sys.stderr.write(f"Error: {type(error).__name__}: {error}\n  code: internal_error\n")
        sys.exit(Exit.FAILED)


Name = Annotated[str, typer.Argument(help=f"One of: {', '.join(config.NAMES)}.")]


def config_show(as_json: AsJson = False) -> None:
    """Show the profile file; of keys only how they begin."""
    output = Output(as_json=as_json)
    with reported(output):
        members = config.read_profile(profile_file())
        shown = {name: config.masked(name, value) for name, value in members.items()}
        document = {"path": str(profile_file()), **shown}
        output.show(document, facts(document))


def config_set(
    name: Name,
    value: Annotated[
        str | None,
        typer.Argument(help="For base_url and org only; keys are asked for, or piped in."),
    ] = None,
) -> None:
    """Store a value; a key is asked for without echo, or read from stdin."""
    output = Output(as_json=False)
    with reported(output):
        _known(name)
        if name in config.SECRETS and value is not None:
            raise UsageError(
                "A key does not belong on a command line, where others can read it: "
                f"run `weighbridge config set {name}` and paste it, or pipe it in."
            )
        stored = (value if value is not None else _asked(name)).strip()
        if not stored:
            raise UsageError(f"There is no value for {name}.")
        if plain(stored) != stored:
            raise UsageError(f"The value for {name} has control characters; was it copied whole?")
        before = config.read_profile(profile_file())
        members = config.with_value(before, name, stored)
        config.write_profile(profile_file(), members)
        output.note(f"{name} is stored in {profile_file()}.")
        if gone := [key for key in before if key not in members]:
            output.note(f"Removed, for they were the other server's: {', '.join(gone)}.")


def config_unset(name: Name) -> None:
    """Forget a stored value."""
    output = Output(as_json=False)
    with reported(output):
        _known(name)
        members = config.read_profile(profile_file())
        rest = {key: value for key, value in members.items() if key != name}
        config.write_profile(profile_file(), rest)
        output.note(f"{name} is no longer in {profile_file()}.")


def _print_version(asked: bool) -> None:
    if not asked:
        return
    try:
        number = version("weighbridge")
    except PackageNotFoundError:  # run from a source tree that is not installed
        number = "unknown (not installed)"
    sys.stdout.write(f"weighbridge {number}\n")
    raise typer.Exit


def _root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Your fine-tuned models, from S3 to a rolling deployment, on your own machines."""


def _known(name: str) -> None:
    if name not in config.NAMES:
        raise UsageError(f"{name!r} is not a setting; there are {', '.join(config.NAMES)}.")


def _asked(name: str) -> str:
    if sys.stdin.isatty():
        answer: str = typer.prompt(name, hide_input=name in config.SECRETS, err=True)
        return answer
    return sys.stdin.readline()


if __name__ == "__main__":
    main()
