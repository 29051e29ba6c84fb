"""Commands about endpoints and their rollouts."""

from typing import Annotated

import typer

from weighbridge.cli.models import TimeoutS
from weighbridge.cli.output import facts, moment, plain, table
from weighbridge.cli.rollouts import deployments
from weighbridge.cli.rollouts.deployments import fraction, show_deployment
from weighbridge.cli.rollouts.draining import endpoint_force_drain
from weighbridge.cli.rollouts.forecast import forecast_view
from weighbridge.cli.rollouts.gate import endpoint_gate
from weighbridge.cli.session import OrgName, Session, UsageError, Yes, with_session
from weighbridge.cli.usage.gateway import endpoint_gateway
from weighbridge.cli.usage.limits import endpoint_limit
from weighbridge.cli.watch import RolloutView
from weighbridge.sdk import Deployment, EndpointShape, QueuePolicy, VersionName, wait_for_deployment
from weighbridge.sdk.waiting import ROLLOUT_TIMEOUT_S

EndpointId = Annotated[
    str, typer.Argument(metavar="ENDPOINT", help="The endpoint's id: what clients call `model`.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the rollout has ended.")]
Replicas = Annotated[int, typer.Option(min=0, help="Replicas when no rollout is going on.")]
MaxUnavailable = Annotated[
    int, typer.Option(min=0, help="Replicas that may be missing during a rollout.")
]
MaxSurge = Annotated[
    int, typer.Option(min=0, help="Replicas there may be beyond `replicas` during a rollout.")
]
Downtime = Annotated[
    bool | None,
    typer.Option(
        "--allow-downtime/--no-downtime", help="Whether a rollout may stop every replica at once."
    ),
]
Queue = Annotated[
    QueuePolicy | None,
    typer.Option(help="`latest_wins`: a new deployment cancels those that still wait."),
]


def endpoint_create(
    session: Session,
    endpoint: EndpointId,
    *,
    arch: Annotated[str, typer.Option(metavar="ARCH", help="The architecture it serves.")],
    org: OrgName = None,
    replicas: Replicas = 1,
    max_unavailable: MaxUnavailable = 0,
    max_surge: MaxSurge = 1,
    allow_downtime: Downtime = None,
    queue_policy: Queue = None,
) -> None:
    """Create an endpoint; it answers once a version is deployed to it."""
    shape = session.client.admin.endpoints.create(
        endpoint,
        org_name=session.org(org),
        model_arch_id=arch,
        replicas=replicas,
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        allow_downtime=bool(allow_downtime),
        queue_policy=queue_policy or QueuePolicy.FIFO,
    )
    _show_shape(session, shape)


def endpoint_list(session: Session, org: OrgName = None) -> None:
    """List endpoints: all with an admin key, else those of the org."""
    if session.connection.admin_key is not None and org is None:
        shapes = session.client.admin.endpoints.list()
        rows = [
            (item.endpoint_id, item.org_name, item.model_arch_id, item.replicas, item.serving)
            for item in shapes
        ]
        view = table(("ENDPOINT", "ORG", "ARCHITECTURE", "REPLICAS", "SERVING"), rows)
        session.output.show({"endpoints": [item.raw for item in shapes]}, view)
        return
    found = session.client.endpoints.list(session.org(org))
    summary = [(item.endpoint_id, item.org_name, item.model_arch_id) for item in found]
    session.output.show(
        {"endpoints": [item.raw for item in found]},
        table(("ENDPOINT", "ORG", "ARCHITECTURE"), summary),
    )


def endpoint_show(session: Session, endpoint: EndpointId) -> None:
    """Show an endpoint: its deployments with a management key, its shape with an admin key only."""
    if session.connection.api_key is None and session.connection.admin_key is not None:
        _show_shape(session, session.client.admin.endpoints.get(endpoint))
        return
    found = session.client.endpoints.get(endpoint)
    rows = [
        (
            item.id,
            item.version,
            item.version_alias,
            item.state,
            fraction(item),
            moment(item.created),
        )
        for item in found.deployed_models
    ]
    columns = ("DEPLOYMENT", "VERSION", "ASKED AS", "STATE", "REPLICAS", "CREATED")
    session.output.show(found.raw, table(columns, rows))


def endpoint_scale(
    session: Session,
    endpoint: EndpointId,
    *,
    replicas: Annotated[
        int | None, typer.Option(min=0, help="Replicas when no rollout is going on.")
    ] = None,
    max_unavailable: Annotated[
        int | None, typer.Option(min=0, help="Replicas that may be missing during a rollout.")
    ] = None,
    max_surge: Annotated[
        int | None, typer.Option(min=0, help="Replicas beyond `replicas` during a rollout.")
    ] = None,
    replicas_max: Annotated[
        int | None, typer.Option(min=0, help="How far its org may scale it; 0: not at all.")
    ] = None,
    allow_downtime: Downtime = None,
    queue_policy: Queue = None,
) -> None:
    """Change how many replicas an endpoint has; with an admin key, the rules of its rollouts too."""
    operators = (max_unavailable, max_surge, replicas_max, allow_downtime, queue_policy)
    only_replicas = all(value is None for value in operators)
    if replicas is None and only_replicas:
        raise UsageError(
            "Say what to change: --replicas, or as its operator --max-unavailable, --max-surge, "
            "--replicas-max, --allow-downtime or --queue-policy."
        )
    if replicas is not None and only_replicas and session.connection.admin_key is None:
        scaling = session.client.endpoints.scale(endpoint, replicas)
        session.output.show(scaling.raw, plain(scaling.message))
        return
    shape = session.client.admin.endpoints.update(
        endpoint,
        replicas=replicas,
        max_unavailable=max_unavailable,
        max_surge=max_surge,
        replicas_max=replicas_max,
        allow_downtime=allow_downtime,
        queue_policy=queue_policy,
    )
    _show_shape(session, shape)


def endpoint_delete(session: Session, endpoint: EndpointId, yes: Yes = False) -> None:
    """Delete an endpoint and stop its replicas."""
    session.confirm(f"Delete endpoint {endpoint}? Its clients will be refused.", yes=yes)
    session.output.show(
        session.client.admin.endpoints.delete(endpoint), f"Endpoint {endpoint} is deleted."
    )


def deploy(
    session: Session,
    endpoint: EndpointId,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A version's number, alias or whole name.")
    ],
    *,
    traffic_percent: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=99,
            help="Canary: stop at this share of replicas and requests until it is promoted.",
        ),
    ] = None,
    wait: Wait = False,
    timeout: TimeoutS = ROLLOUT_TIMEOUT_S,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would happen.")
    ] = False,
) -> None:
    """Deploy a version to an endpoint as a rolling update."""
    name = _deployable(session, endpoint, version)
    if dry_run:
        calls = session.client.endpoints
        forecast = calls.forecast(endpoint, name, traffic_percent=traffic_percent)
        session.output.show(forecast.raw, forecast_view(forecast))
        return
    deployment = session.client.endpoints.deploy(endpoint, name, traffic_percent=traffic_percent)
    _follow(session, endpoint, deployment, wait=wait, timeout_s=timeout)


def rollback(
    session: Session,
    endpoint: EndpointId,
    wait: Wait = False,
    timeout: TimeoutS = ROLLOUT_TIMEOUT_S,
) -> None:
    """Return an endpoint to the version that served before, as a rolling update."""
    deployment = session.client.endpoints.rollback(endpoint)
    _follow(session, endpoint, deployment, wait=wait, timeout_s=timeout)


def install(program: typer.Typer) -> None:
    panel = "Endpoints and rollouts"
    program.command("deploy", rich_help_panel=panel)(with_session(deploy))
    program.command("rollback", rich_help_panel=panel)(with_session(rollback))
    endpoint = typer.Typer(no_args_is_help=True)
    endpoint.command("create")(with_session(endpoint_create))
    endpoint.command("list")(with_session(endpoint_list))
    endpoint.command("show")(with_session(endpoint_show))
    endpoint.command("scale")(with_session(endpoint_scale))
    endpoint.command("rollback")(with_session(rollback))
    endpoint.command("limit")(with_session(endpoint_limit))
    endpoint.command("gateway")(with_session(endpoint_gateway))
    endpoint.command("gate")(with_session(endpoint_gate))
    endpoint.command("force-drain")(with_session(endpoint_force_drain))
    endpoint.command("delete")(with_session(endpoint_delete))
    program.add_typer(
        endpoint,
        name="endpoint",
        help="Create, show, scale, limit and delete endpoints; how the gateway treats their requests.",
        rich_help_panel=panel,
    )
    program.add_typer(endpoint, name="endpoints", hidden=True)
    deployments.install(program, panel)


def _deployable(session: Session, endpoint: str, version: str) -> VersionName:
    """A bare number or alias means the endpoint's own org and architecture."""
    if "/" in version:
        return session.version_name(version, None)
    found = session.client.endpoints.get(endpoint)
    org = found.managing_org_name or session.org(None)
    return VersionName(org, found.model_arch_id, version)


def _follow(
    session: Session, endpoint: str, deployment: Deployment, *, wait: bool, timeout_s: float
) -> None:
    if wait:
        with RolloutView(session) as view:
            deployment = wait_for_deployment(
                session.client, endpoint, deployment.id, on_progress=view, timeout_s=timeout_s
            )
    show_deployment(session, deployment)
    if not wait:
        session.output.note(f"Follow it with: weighbridge deployment watch {deployment.id}")


def _show_shape(session: Session, shape: EndpointShape) -> None:
    view = facts(
        {
            "endpoint": shape.endpoint_id,
            "org": shape.org_name,
            "architecture": shape.model_arch_id,
            "replicas": shape.replicas,
            "max unavailable": shape.max_unavailable,
            "max surge": shape.max_surge,
            "its org may have": shape.replicas_max,
            "downtime": "allowed" if shape.allow_downtime else None,
            "queue": shape.queue_policy,
            "serving": f"version {shape.serving}" if shape.serving is not None else "nothing yet",
            "created": moment(shape.created),
        }
    )
    session.output.show(shape.raw, view)
