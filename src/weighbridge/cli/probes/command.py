"""The commands `probes show`, `probes set` and `probes run`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from weighbridge.cli.output import facts, plain, table
from weighbridge.cli.session import Exit, Session, UsageError, with_session
from weighbridge.sdk.probes.resource import Probes, ProbeSet
from weighbridge.sdk.transport import Json

FILE_BYTES_MAX = 1024 * 1024

Arch = Annotated[str | None, typer.Option("--arch", metavar="ARCH", help="Of an architecture.")]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", metavar="ENDPOINT", help="Of an endpoint.")
]
ProbesFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help='JSON: a list of probes, or {"probes": […]}. [] takes all away.'
    ),
]


def show(session: Session, *, arch: Arch = None, endpoint: EndpointOption = None) -> None:
    """Show what new replicas must answer before they serve."""
    calls = session.client.admin.probes
    _show(session, _found(calls, arch, endpoint))


def set_(
    session: Session, file: ProbesFile, *, arch: Arch = None, endpoint: EndpointOption = None
) -> None:
    """Replace the probes; replicas that are started later are asked the new ones."""
    probes = _read(file)
    calls = session.client.admin.probes
    match arch, endpoint:
        case str(), None:
            _show(session, calls.set_architecture(arch, probes))
        case None, str():
            _show(session, calls.set_endpoint(endpoint, probes))
        case _:
            raise _which()


def run(
    session: Session,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id.")],
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Try these instead of those that are set."),
    ] = None,
) -> None:
    """Ask a serving replica the probes and change nothing. Exit code 1 when one fails."""
    probes = None if file is None else _read(file)
    trial = session.client.admin.probes.run(endpoint, probes)
    rows = [
        (
            one.name,
            "passed" if one.passed else "FAILED",
            _ms(one.first_token_s),
            _ms(one.total_s),
            one.text,
        )
        for one in trial.results
    ]
    views: list[RenderableType] = [
        facts({"replica": trial.replica_id, "version": trial.version_id}),
        "",
        table(("PROBE", "RESULT", "FIRST TOKEN", "TOTAL", "ANSWER"), rows),
    ]
    for one in trial.results:
        views += [plain(f"{one.name}: {check}: {detail}") for check, detail in one.failures]
        views += [plain(note) for note in one.notes]
    session.output.show(trial.raw, Group(*views))
    if not trial.passed:
        raise typer.Exit(Exit.FAILED)


def install(program: typer.Typer) -> None:
    probes = typer.Typer(no_args_is_help=True)
    probes.command("show")(with_session(show))
    probes.command("set")(with_session(set_))
    probes.command("run")(with_session(run))
    program.add_typer(
        probes,
        name="probes",
        help="What a new replica must answer before it serves.",
        rich_help_panel="Operate",
    )


def _found(calls: Probes, arch: str | None, endpoint: str | None) -> ProbeSet:
    match arch, endpoint:
        case str(), None:
            return calls.of_architecture(arch)
        case None, str():
            return calls.of_endpoint(endpoint)
    raise _which()


def _which() -> UsageError:
    return UsageError("Whose probes? Give either --arch or --endpoint.")


def _show(session: Session, found: ProbeSet) -> None:
    rows = [(one.get("name"), _question(one), _checks(one)) for one in found.probes]
    session.output.show(found.raw, table(("PROBE", "PROMPT", "CHECKS"), rows))
    if not rows:
        session.output.note("None are set: a replica that produces a token is let in.")


def _question(probe: Json) -> object:
    match probe:
        case {"prompt": str(prompt)}:
            return prompt
        case {"messages": [*_, {"content": str(content)}]}:
            return content
    return None


def _checks(probe: Json) -> object:
    checks = probe.get("checks")
    if not isinstance(checks, dict):
        return None
    return {name: value for name, value in checks.items() if value not in (None, False)}


def _read(path: Path) -> list[Json]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise UsageError(f"{path} is larger than {FILE_BYTES_MAX} bytes.")
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error
    match document:
        case {"probes": list(probes)}:
            pass
        case list(probes):
            pass
        case _:
            raise UsageError(f"{path} holds no list of probes.")
    if not all(isinstance(one, dict) for one in probes):
        raise UsageError(f"{path} holds something else than probes.")
    return probes


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
