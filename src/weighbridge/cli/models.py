"""Commands about models: architectures, uploads, versions and aliases."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli.inspection.diff import version_diff
from weighbridge.cli.output import facts, moment, quantity, table
from weighbridge.cli.session import OrgName, Session, UsageError, Yes, with_session
from weighbridge.cli.watch import SyncView, pace
from weighbridge.sdk import Architecture, ModelVersion, VersionName, wait_for_sync
from weighbridge.sdk.waiting import SYNC_TIMEOUT_S

Model = Annotated[
    str,
    typer.Argument(
        metavar="ARCH/VERSION", help="A version by number or alias, as in llama-3.3-70b/production."
    ),
]
ArchId = Annotated[str, typer.Argument(metavar="ARCH", help="The model architecture's id.")]
ExtraArgs = Annotated[
    list[str] | None, typer.Option(metavar="ARG", help="Passed to the engine; repeatable.")
]
Environment = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="For the engine; repeatable.")
]
Nodes = Annotated[
    int | None, typer.Option(min=1, help="Nodes of a Ray cluster that one replica spans.")
]
TensorParallel = Annotated[
    int | None, typer.Option(min=1, help="Accelerators that share each layer (vllm).")
]
PipelineParallel = Annotated[
    int | None, typer.Option(min=1, help="Stages that the layers are divided into (vllm).")
]
HealthPath = Annotated[
    str | None, typer.Option(metavar="PATH", help="Where the `command` engine says it is up.")
]
TimeoutS = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Longest wait with --wait.")
]


NOBODY = "nobody"


def arch_register(
    session: Session,
    arch: ArchId,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Base model: a directory on the server, or s3://bucket/prefix."
        ),
    ],
    *,
    engine: Annotated[str | None, typer.Option(help="llamacpp, vllm or command.")] = None,
    context_tokens: Annotated[int | None, typer.Option(min=1, help="Context per request.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Requests at once per replica.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per replica.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="Accelerators per replica.")] = None,
    nodes: Nodes = None,
    tensor_parallel: TensorParallel = None,
    pipeline_parallel: PipelineParallel = None,
    dtype: Annotated[str | None, typer.Option(help="Number format the engine computes in.")] = None,
    start_timeout_s: Annotated[
        float | None,
        typer.Option(
            "--start-timeout", metavar="SECONDS", min=0, help="Longest start of a replica."
        ),
    ] = None,
    extra_arg: ExtraArgs = None,
    env: Environment = None,
    command: Annotated[
        str | None, typer.Option(help="Command line of the `command` engine, quoted as in a shell.")
    ] = None,
    health_path: HealthPath = None,
    org: Annotated[
        list[str] | None,
        typer.Option(metavar="ORG", help="Only these orgs may use it; repeatable."),
    ] = None,
) -> None:
    """Register what uploads must fit, from a base model, and how it is served."""
    settings: dict[str, object] = {
        "engine": engine,
        "context_tokens": context_tokens,
        "slots": slots,
        "threads": threads,
        "gpus": gpus,
        "nodes": nodes,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "dtype": dtype,
        "start_timeout_s": start_timeout_s,
        "extra_args": extra_arg or None,
        "env": dict(_pair(item) for item in env) if env else None,
        "command": _words(command) if command else None,
        "health_path": health_path,
    }
    registered = session.client.admin.architectures.register(
        arch,
        source if source.startswith("s3://") else str(Path(source).expanduser().absolute()),
        engine={name: value for name, value in settings.items() if value is not None},
        org_names=org or (),
    )
    _show_architecture(session, registered)


def arch_list(session: Session) -> None:
    """List the model architectures."""
    found = session.client.admin.architectures.list()
    rows = [
        (item.model_arch_id, item.tensors, f"{item.parameters:,}", item.engine.get("engine"))
        for item in found
    ]
    session.output.show(
        {"architectures": [item.raw for item in found]},
        table(("ARCHITECTURE", "TENSORS", "PARAMETERS", "ENGINE"), rows),
    )


def arch_show(session: Session, arch: ArchId) -> None:
    """Show one model architecture."""
    _show_architecture(session, session.client.admin.architectures.get(arch))


def arch_delete(session: Session, arch: ArchId, yes: Yes = False) -> None:
    """Delete a model architecture that nothing uses."""
    session.confirm(f"Delete architecture {arch}?", yes=yes)
    session.output.show(
        session.client.admin.architectures.delete(arch), f"Architecture {arch} is deleted."
    )


def upload(
    session: Session,
    weight_uri: Annotated[
        str, typer.Argument(metavar="S3_URI", help="s3://bucket/prefix of the weights.")
    ],
    *,
    arch: Annotated[str, typer.Option(metavar="ARCH", help="The architecture they fit.")],
    alias: Annotated[
        list[str] | None, typer.Option(metavar="ALIAS", help="A name for the version; repeatable.")
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(help="Ends the system_fingerprint of every answer of this version."),
    ] = None,
    org: OrgName = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the weights are here.")] = False,
    timeout: TimeoutS = SYNC_TIMEOUT_S,
) -> None:
    """Upload weights from S3 as a new version."""
    version = session.client.models.upload(
        session.org(org),
        arch,
        weight_uri,
        version_aliases=alias or (),
        system_fingerprint_suffix=suffix,
    )
    if wait:
        with SyncView(session.output) as view:
            version = wait_for_sync(
                session.client, version.name, on_progress=view, timeout_s=timeout
            )
    _show_version(session, version)
    if not wait:
        session.output.note(f"Follow it with: weighbridge version show {_short(version)}")


def versions(session: Session, arch: ArchId, org: OrgName = None) -> None:
    """List the versions of an architecture, oldest first."""
    found = session.client.versions.list(session.org(org), arch)
    rows = [
        (item.version_id, item.version_aliases, item.sync_status, item.customer_s3_uri)
        for item in found
    ]
    session.output.show(
        {"model_versions": [item.raw for item in found]},
        table(("VERSION", "ALIASES", "SYNC", "FROM"), rows),
    )


def version_show(session: Session, model: Model, org: OrgName = None) -> None:
    """Show one version and how far its weight sync is."""
    _show_version(session, session.client.versions.get(session.version_name(model, org)))


def version_delete(session: Session, model: Model, org: OrgName = None, yes: Yes = False) -> None:
    """Delete a version that no endpoint needs, and its weights."""
    name = session.version_name(model, org)
    session.confirm(f"Delete version {name.version} of {name.model_arch_id}?", yes=yes)
    session.output.show(session.client.versions.delete(name), f"Version {name} is deleted.")


def alias_set(
    session: Session,
    model: Model,
    alias: Annotated[
        list[str] | None, typer.Argument(metavar="[ALIAS]...", help="All aliases it shall have.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take all aliases away.")] = False,
    org: OrgName = None,
) -> None:
    """Replace the aliases of a version; a rollout is not started by this."""
    if bool(alias) == clear:
        raise UsageError("Name the aliases the version shall have, or say --clear.")
    answer = session.client.versions.set_aliases(session.version_name(model, org), alias or ())
    view = facts({"version": answer.name, "aliases": answer.version_aliases})
    session.output.show(answer.raw, view)


def alias_move(
    session: Session,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The alias, as in production.")],
    model: Annotated[str, typer.Argument(metavar="ARCH/VERSION", help="The version that gets it.")],
    *,
    expected: Annotated[
        str,
        typer.Option(
            "--from", metavar="VERSION", help="The version that holds it now; `nobody` if none."
        ),
    ],
    org: OrgName = None,
) -> None:
    """Move an alias from one version to another in one step, if it still is where you think."""
    name = session.version_name(model, org)
    answer = session.client.aliases.move(
        name.org_name,
        name.model_arch_id,
        alias,
        name.version,
        expected=None if expected == NOBODY else expected,
    )
    view = facts({"alias": alias, "held by": answer.model, "before": answer.previous_model})
    session.output.show(answer.raw, view)


def alias_history(
    session: Session,
    model: Annotated[
        str, typer.Argument(metavar="ARCH/ALIAS", help="As in llama-3.3-70b/production.")
    ],
    org: OrgName = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Changes shown at most.")] = 50,
) -> None:
    """Show where an alias pointed, newest change first."""
    name = session.version_name(model, org)
    found = session.client.aliases.history(
        name.org_name, name.model_arch_id, name.version, page_size=limit
    )
    rows = [
        (
            moment(change.changed),
            _number(change.from_version),
            _number(change.to_version),
            change.cause,
            change.key_id,
        )
        for change in found.changes
    ]
    session.output.show(found.raw, table(("WHEN", "FROM", "TO", "BY CALL", "KEY"), rows))
    if not rows:
        session.output.note(f"No version ever held {name.version}.")


def _number(version_name: str | None) -> str | None:
    return None if version_name is None else VersionName.parse(version_name).version


def install(program: typer.Typer) -> None:
    panel = "Models"
    arch, version, alias = typer.Typer(no_args_is_help=True), typer.Typer(), typer.Typer()
    program.command("upload", rich_help_panel=panel)(with_session(upload))
    program.command("versions", rich_help_panel=panel)(with_session(versions))
    version.command("show")(with_session(version_show))
    version.command("diff")(with_session(version_diff))
    version.command("delete")(with_session(version_delete))
    program.add_typer(
        version, name="version", help="Show, compare or delete versions.", rich_help_panel=panel
    )
    alias.command("set")(with_session(alias_set))
    alias.command("move")(with_session(alias_move))
    alias.command("history")(with_session(alias_history))
    program.add_typer(
        alias, name="alias", help="Name versions, as in `production`.", rich_help_panel=panel
    )
    arch.command("register")(with_session(arch_register))
    arch.command("list")(with_session(arch_list))
    arch.command("show")(with_session(arch_show))
    arch.command("delete")(with_session(arch_delete))
    program.add_typer(
        arch,
        name="arch",
        help="Model architectures: what uploads must fit.",
        rich_help_panel="Operate",
    )


def _show_version(session: Session, version: ModelVersion) -> None:
    progress = version.progress
    copied = (
        f"{quantity(progress.bytes_done)} of {quantity(progress.bytes_total)}"
        if progress is not None and progress.bytes_total
        else None
    )
    view = facts(
        {
            "version": version.name,
            "from": version.customer_s3_uri,
            "aliases": version.version_aliases,
            "sync": version.sync_status,
            "step": progress.step if progress is not None and not version.done else None,
            "copied": copied,
            "pace": (pace(progress) or None) if not version.done else None,
            "digest": version.digest,
            "suffix": version.system_fingerprint_suffix,
            "error": version.error_message,
            "error code": version.error_code,
        }
    )
    session.output.show(version.raw, view)


def _show_architecture(session: Session, arch: Architecture) -> None:
    view = facts(
        {
            "architecture": arch.model_arch_id,
            "base model": arch.source,
            "tensors": arch.tensors,
            "parameters": f"{arch.parameters:,}",
            "engine": {name: value for name, value in arch.engine.items() if value},
            "orgs": arch.org_names or "every org",
            "digest": arch.digest,
            "registered": moment(arch.created),
        }
    )
    session.output.show(arch.raw, view)


def _short(version: ModelVersion) -> str:
    name = VersionName.parse(version.name)
    return f"{name.model_arch_id}/{name.version} --org {name.org_name}"


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--command is not quoted as in a shell: {error}.") from error


def _pair(item: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not name or not separator:
        raise UsageError(f"--env takes NAME=VALUE, not {item!r}.")
    return name, value
