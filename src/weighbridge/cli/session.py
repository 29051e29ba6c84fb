"""What every command shares: connection options, the client, errors as messages and exit codes."""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli import config
from weighbridge.cli.output import Output, plain
from weighbridge.errors import SetupError, UnavailableError
from weighbridge.sdk import (
    AuthenticationError,
    BadRequestError,
    Client,
    ClientError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RolloutFailedError,
    ServerError,
    StatusError,
    SyncFailedError,
    VersionName,
    WaitTimeoutError,
)


class Exit(IntEnum):
    """Exit codes; scripts may rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    AUTH = 3
    NOT_FOUND = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    SETUP = 78
    INTERRUPTED = 130


class UsageError(ClientError):
    """The command line does not say what is needed."""

    code = "usage"


_CODES: tuple[tuple[type[ClientError], Exit], ...] = (
    (UsageError, Exit.USAGE),
    (BadRequestError, Exit.USAGE),
    (AuthenticationError, Exit.AUTH),
    (PermissionDeniedError, Exit.AUTH),
    (NotFoundError, Exit.NOT_FOUND),
    (ConflictError, Exit.CONFLICT),
    (ConnectionFailedError, Exit.UNAVAILABLE),
    (RateLimitError, Exit.UNAVAILABLE),
    (ServerError, Exit.UNAVAILABLE),
)

_NEXT_STEPS_BY_CODE: Mapping[str, str] = {
    "key_missing": "export the variable, or store the key with `weighbridge config set`",
    "alias_moved": "`weighbridge alias history` tells who moved it; then move it from its holder of now",
    "alias_taken": "move it with `weighbridge alias move`, or choose another name",
    "deployment_in_progress": "follow it with `weighbridge deployment watch`, or cancel it",
    "deployment_not_cancellable": "look at it with `weighbridge deployment show`",
    "deployment_not_promotable": "look at it with `weighbridge deployment show`",
    "canary_impossible": "deploy it whole, or `weighbridge endpoint scale ENDPOINT --max-surge 1`",
    "deployment_queue_full": "`weighbridge deployment list` shows what waits; cancel what is not needed",
    "nothing_to_roll_back_to": "deploy the version you want with `weighbridge deploy`",
    "scaling_not_allowed": "ask the operator for `weighbridge endpoint scale ENDPOINT --replicas-max N`",
    "version_not_done": "`weighbridge version show` tells how far its sync is",
}
"""For errors of which more is known than their kind."""

_NEXT_STEPS: tuple[tuple[type[ClientError], str], ...] = (
    (UsageError, "see --help of the command"),
    (BadRequestError, "change what the message names; --help shows the command's arguments"),
    (ConflictError, "look at what is there now, then decide again"),
    (SyncFailedError, "`weighbridge doctor` finds what keeps the weights from being read"),
    (RolloutFailedError, "`weighbridge deployment show` tells why; the version before it serves"),
    (WaitTimeoutError, "it goes on by itself; ask again, or wait longer with --timeout"),
    (
        AuthenticationError,
        "check that the key is of the kind this command needs, and neither revoked nor expired",
    ),
    (
        PermissionDeniedError,
        "use a key of the right kind: admin for operators' commands, management for models and rollouts",
    ),
    (
        ConnectionFailedError,
        "start a server with `weighbridge up`, or name another with --base-url or WEIGHBRIDGE_BASE_URL",
    ),
    (NotFoundError, "list what there is; a thing of another org looks as if it were not there"),
    (RateLimitError, "try again later"),
    (ServerError, "try again in a moment; `weighbridge status` tells how the server is"),
)

_CONNECTION = "Connection"
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The server; else WEIGHBRIDGE_BASE_URL, the profile, or http://127.0.0.1:8080.",
        rich_help_panel=_CONNECTION,
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="The key to use. Others on this machine can read it here: prefer the variables or `config set`.",
        rich_help_panel=_CONNECTION,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document and nothing else.", rich_help_panel="Output"
    ),
]
OrgName = Annotated[
    str | None,
    typer.Option("--org", metavar="ORG", help="The org; else WEIGHBRIDGE_ORG or the profile's."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")]


class Session:
    """One run of a command: where to, with which keys, and how to print."""

    def __init__(self, connection: config.Connection, output: Output) -> None:
        self.connection = connection
        self.output = output
        self.client = Client(
            connection.base_url,
            connection.api_key,
            admin_key=connection.admin_key,
            inference_key=connection.inference_key,
        )

    def org(self, given: str | None) -> str:
        org = given or self.connection.org
        if org is None:
            raise UsageError(
                "Which org? Give --org, set WEIGHBRIDGE_ORG, or `weighbridge config set org NAME`."
            )
        return org

    def version_name(self, model: str, org: str | None) -> VersionName:
        """`architecture/version`, or a whole resource name."""
        match model.split("/"):
            case [arch, version] if arch and version:
                return VersionName(self.org(org), arch, version)
            case ["orgs", _, "models", _, "versions", _]:
                return VersionName.parse(model)
        raise UsageError(
            f"{model!r} does not name a model version; write ARCHITECTURE/VERSION, as in llama-3.3-70b/2 "
            "or llama-3.3-70b/production."
        )

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask back before something is lost; without a terminal, --yes is required."""
        if yes:
            return
        if self.output.as_json or not sys.stdin.isatty():
            raise UsageError(f"{question} Say --yes to go on without being asked.")
        if not typer.confirm(question, err=True):
            raise typer.Exit(Exit.FAILED)


def with_session(function: Callable[..., None]) -> Callable[..., None]:
    """Turn `command(session, …)` into a command that also takes the connection options and `--json`."""
    signature = inspect.signature(function, eval_str=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(signature.parameters.values())[1:]
    ]
    shared = [
        _keyword("base_url", BaseUrl, default=None),
        _keyword("api_key", ApiKeyOption, default=None),
        _keyword("as_json", AsJson, default=False),
    ]

    @functools.wraps(function)
    def run(
        *, base_url: str | None, api_key: str | None, as_json: bool, **arguments: object
    ) -> None:
        output = Output(as_json=as_json)
        with reported(output):
            profile = config.read_profile(profile_file())
            connection = config.connection(profile, os.environ, base_url=base_url, api_key=api_key)
            session = Session(connection, output)
            with session.client:
                function(session, **arguments)

    parameters = [*own, *shared]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def profile_file() -> Path:
    return config.config_path(os.environ)


def _keyword(name: str, annotation: object, *, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


@contextmanager
def reported(output: Output) -> Iterator[None]:
    """Errors of the client, of set-up and of what a start needs become a message on stderr and an exit code."""
    try:
        yield
    except (SetupError, UnavailableError) as error:
        _report(output, {"message": error.message, "code": error.code}, None)
        setup = isinstance(error, SetupError)
        raise typer.Exit(Exit.SETUP if setup else Exit.UNAVAILABLE) from error
    except ClientError as error:
        _report(output, _document(error), _next_step(error))
        raise typer.Exit(exit_code(error)) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(Exit.INTERRUPTED) from error


def exit_code(error: ClientError) -> Exit:
    if isinstance(error, ConfigurationError):
        return Exit.AUTH if error.code.startswith("key_") else Exit.SETUP
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def _next_step(error: ClientError) -> str | None:
    if error.code in _NEXT_STEPS_BY_CODE:
        return _NEXT_STEPS_BY_CODE[error.code]
    return next((step for kind, step in _NEXT_STEPS if isinstance(error, kind)), None)


def _document(error: ClientError) -> Mapping[str, object]:
    members: dict[str, object] = {"message": error.message, "code": error.code}
    if isinstance(error, StatusError):
        members |= {"status": error.status, "param": error.param}
    return members


def _report(output: Output, members: Mapping[str, object], next_step: str | None) -> None:
    if output.as_json:
        document = {"error": {**members, "next_step": next_step}}
        sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
        return
    output.err.print(f"Error: {plain(str(members['message']))}", style="red", soft_wrap=True)
    param = f" (param: {plain(str(members['param']))})" if members.get("param") else ""
    output.err.print(f"  code: {plain(str(members['code']))}{param}", soft_wrap=True)
    if next_step is not None:
        output.err.print(f"  next: {next_step}", soft_wrap=True)
