"""Commands of the operator: orgs, keys, and what runs where."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import RenderableType

from weighbridge.cli import config
from weighbridge.cli.inspection.buckets import buckets, release_bucket, s3_setup
from weighbridge.cli.output import cell, facts, moment, plain, table
from weighbridge.cli.session import OrgName, Session, Yes, profile_file, with_session
from weighbridge.cli.usage import limits
from weighbridge.sdk import ApiKey, Org
from weighbridge.sdk.admin_types import WeightStore
from weighbridge.sdk.fields import Fields

OrgArgument = Annotated[str, typer.Argument(metavar="ORG", help="The org's name.")]
RoleArn = Annotated[
    str | None, typer.Option(metavar="ARN", help="Role assumed to read this org's buckets.")
]
GIB = 1024**3


class KeyKind(StrEnum):
    MANAGEMENT = "management"
    INFERENCE = "inference"
    BOTH = "both"
    ADMIN = "admin"


def org_create(session: Session, org: OrgArgument, s3_role_arn: RoleArn = None) -> None:
    """Create an org; prints the external id for its S3 role."""
    _show_org(session, session.client.admin.orgs.create(org, s3_role_arn=s3_role_arn))


def org_list(session: Session) -> None:
    """List the orgs."""
    orgs = session.client.admin.orgs.list()
    rows = [(item.org_name, item.id, item.s3_role_arn, moment(item.created)) for item in orgs]
    session.output.show(
        {"orgs": [item.raw for item in orgs]}, table(("ORG", "ID", "S3 ROLE", "CREATED"), rows)
    )


def org_show(session: Session, org: OrgArgument) -> None:
    """Show one org."""
    _show_org(session, session.client.admin.orgs.get(org))


def org_set_role(
    session: Session,
    org: OrgArgument,
    s3_role_arn: Annotated[
        str | None, typer.Argument(metavar="[ARN]", help="Without it, the server's own role.")
    ] = None,
) -> None:
    """Set the role that is assumed to read the org's buckets."""
    _show_org(session, session.client.admin.orgs.update(org, s3_role_arn=s3_role_arn))


def key_create(
    session: Session,
    kind: Annotated[
        KeyKind,
        typer.Argument(metavar="KIND", help="management, inference, both (of these), or admin."),
    ],
    *,
    org: OrgName = None,
    name: Annotated[str, typer.Option(help="What you will know it by.")] = "default",
    expires_in_s: Annotated[
        int | None,
        typer.Option(
            "--expires-in", metavar="SECONDS", min=1, help="Life of the key; else unlimited."
        ),
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="Store it in the profile file instead of printing it.")
    ] = False,
) -> None:
    """Create an API key; it is printed once and kept nowhere."""
    org_name = None if kind is KeyKind.ADMIN else session.org(org)
    profile = config.read_profile(profile_file())
    if save:
        # Before the key is made: one that cannot be kept would be lost.
        profile = config.with_keys(profile, session.client.base_url, {})
    key = session.client.admin.keys.create(
        kind.value, name=name, org_name=org_name, expires_in_s=expires_in_s
    )
    if save and key.key is not None:
        members = dict.fromkeys(_PROFILE_NAMES[kind], key.key)
        if org_name is not None:
            members["org"] = org_name
        config.write_profile(profile_file(), {**profile, **members})
        session.output.show(
            {name: value for name, value in key.raw.items() if name != "key"}, _key_facts(key, None)
        )
        session.output.note(f"The key is stored in {profile_file()}.")
    else:
        session.output.show(key.raw, _key_facts(key, key.key))
        session.output.note("This is the only time the key is shown.")


def key_list(session: Session, org: OrgName = None) -> None:
    """List keys, without their secrets."""
    keys = session.client.admin.keys.list(org)
    rows = [
        (item.id, item.kind, item.org_name, item.name, item.prefix, _state(item)) for item in keys
    ]
    session.output.show(
        {"keys": [item.raw for item in keys]},
        table(("ID", "KIND", "ORG", "NAME", "BEGINS", "STATE"), rows),
    )


def key_revoke(
    session: Session,
    key: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `key list` shows it.")],
    yes: Yes = False,
) -> None:
    """Revoke a key for good."""
    session.confirm(f"Revoke key {key}? Its callers will be refused.", yes=yes)
    revoked = session.client.admin.keys.revoke(key)
    session.output.show(revoked.raw, _key_facts(revoked, None))


def status(session: Session) -> None:
    """Show how the server is."""
    found = session.client.admin.status()
    workers = [f"process {gateway.get('pid', '?')}" for gateway in found.gateways]
    members = {
        "server": session.client.base_url,
        "version": found.version,
        "database": found.database,
        "node agent": found.raw.get("runtime"),
        "gateway": workers or "no worker runs",
    }
    session.output.show(found.raw, facts(members))


def replicas(
    session: Session,
    endpoint: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="Only those of this endpoint.")
    ] = None,
) -> None:
    """List replicas: what they serve, their state, and the requests they answer now."""
    found = session.client.admin.replicas.list(endpoint)
    columns = ("REPLICA", "ENDPOINT", "VERSION", "STATE", "IN FLIGHT", "NODE", "REASON")
    rows = [
        (r.id, r.endpoint_id, r.version_id, r.state, r.in_flight, r.node, r.reason) for r in found
    ]
    session.output.show({"replicas": [item.raw for item in found]}, table(columns, rows))


def logs(
    session: Session,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="The replica's id.")],
    tail_bytes: Annotated[
        int, typer.Option(min=1, max=1024 * 1024, help="How much of the end to show.")
    ] = 65536,
) -> None:
    """Show what a replica's engine wrote."""
    text = session.client.admin.replicas.logs(replica, tail_bytes=tail_bytes)
    session.output.show({"id": replica, "logs": text}, plain(text).rstrip("\n"))


def nodes(session: Session) -> None:
    """List the machines replicas run on."""
    found = session.client.admin.nodes()
    headings = ["NODE", "ALIVE", "FREE", "OF", "LABELS"]
    rows = [
        [
            node.get("name"),
            "yes" if node.get("alive") else "no",
            _amounts(node.get("free") or {}),
            _amounts(node.get("total") or {}),
            ", ".join(
                f"{name}={value}" for name, value in sorted(_members(node, "labels").items())
            ),
        ]
        for node in found
    ]
    session.output.show({"nodes": list(found)}, table(headings, rows))


def _amounts(resources: object) -> str:
    """What of a node is there, in one cell; what it has none of is left out."""
    amounts = Fields(resources, "the resources of a node")
    words = [
        f"{amounts.number_or_none('cpus') or 0:g} CPU",
        f"{amounts.number_or_none('gpus') or 0:g} GPU",
        f"{amounts.count('memory_bytes') / GIB:.1f} GiB",
        *(f"{value} {name}" for name, value in sorted(_members(amounts.raw, "custom").items())),
    ]
    return ", ".join(word for word in words if not word.startswith(("0 ", "0.0 "))) or "none"


def _members(parent: Mapping[str, object], name: str) -> Mapping[str, object]:
    return Fields(parent.get(name) or {}, name).raw


def store_usage(session: Session) -> None:
    """Show what the weight store holds, what is due to be verified, and what is damaged."""
    _show_store(session, session.client.admin.store.get())


def store_verify(session: Session) -> None:
    """Hash every blob again, in the background; `store usage` shows what is left and what was found."""
    _show_store(session, session.client.admin.store.verify())


def store_gc(
    session: Session,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
) -> None:
    """Remove the blobs that no version names and no sync counts on."""
    found = session.client.admin.store.collect(dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    view = plain(f"{found['blobs']} blobs {verb}, {found['size_bytes']} bytes")
    session.output.show(found, view)


def install(program: typer.Typer) -> None:
    panel = "Operate"
    for function in (status, replicas, logs, nodes):
        program.command(function.__name__, rich_help_panel=panel)(with_session(function))
    org, key = typer.Typer(no_args_is_help=True), typer.Typer()
    org.command("create")(with_session(org_create))
    org.command("list")(with_session(org_list))
    org.command("show")(with_session(org_show))
    org.command("set-role")(with_session(org_set_role))
    org.command("s3-setup")(with_session(s3_setup))
    org.command("buckets")(with_session(buckets))
    org.command("release-bucket")(with_session(release_bucket))
    org.command("limit-keys")(with_session(limits.org_limit_keys))
    program.add_typer(
        org, name="org", help="Orgs: owners of models, endpoints and keys.", rich_help_panel=panel
    )
    key.command("create")(with_session(key_create))
    key.command("list")(with_session(key_list))
    key.command("limit")(with_session(limits.key_limit))
    key.command("revoke")(with_session(key_revoke))
    store = typer.Typer(no_args_is_help=True)
    store.command("usage")(with_session(store_usage))
    store.command("verify")(with_session(store_verify))
    store.command("gc")(with_session(store_gc))
    program.add_typer(
        store,
        name="store",
        help="The weight store: its size, health and waste.",
        rich_help_panel=panel,
    )
    program.add_typer(
        key, name="key", help="Create, limit, list and revoke API keys.", rich_help_panel=panel
    )


def _show_org(session: Session, org: Org) -> None:
    view = facts(
        {
            "org": org.org_name,
            "id": org.id,
            "S3 external id": org.s3_external_id,
            "S3 role": org.s3_role_arn or "the server's own",
            "created": moment(org.created),
        }
    )
    session.output.show(org.raw, view)


def _show_store(session: Session, store: WeightStore) -> None:
    damaged = [
        f"{item['digest']}: its bytes hash to {item['found_digest']}; withdrawn: {cell(item['versions'])}"
        for item in store.damaged
    ]
    view = facts(
        {
            "free": f"{store.free_bytes} of {store.total_bytes} bytes",
            "blobs": f"{store.blobs}, {store.blob_bytes} bytes",
            "unused": f"{store.unused_blobs}, {store.unused_bytes} bytes",
            "to verify": f"{store.due_blobs}, {store.due_bytes} bytes",
            "damaged": damaged or ["none"],
        }
    )
    session.output.show(store.raw, view)


def _key_facts(key: ApiKey, secret: str | None) -> RenderableType:
    return facts(
        {
            "key": secret,
            "id": key.id,
            "kind": key.kind,
            "org": key.org_name,
            "name": key.name,
            "expires": moment(key.expires),
            "revoked": moment(key.revoked),
        }
    )


def _state(key: ApiKey) -> str:
    if key.revoked is not None:
        return f"revoked {moment(key.revoked)}"
    return "live" if key.expires is None else f"until {moment(key.expires)}"


_PROFILE_NAMES = {
    KeyKind.ADMIN: ("admin_key",),
    KeyKind.MANAGEMENT: ("api_key",),
    KeyKind.INFERENCE: ("inference_key",),
    KeyKind.BOTH: ("api_key", "inference_key"),
}
