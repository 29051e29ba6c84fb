"""Commands about deployments: list, show, watch, promote and cancel them."""

from itertools import islice
from typing import Annotated

import typer

from weighbridge.cli.output import cell, facts, moment, table
from weighbridge.cli.rollouts.live import LiveRollout, replicas_line
from weighbridge.cli.session import Session, with_session
from weighbridge.sdk import Deployment, RolloutFailedError, follow_deployment
from weighbridge.sdk.waiting import ROLLOUT_TIMEOUT_S

DeploymentId = Annotated[
    str, typer.Argument(metavar="DEPLOYMENT", help="The deployment's id, as `deploy` prints it.")
]


def deployment_list(
    session: Session,
    endpoint: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="Of this endpoint only.")
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="In this status, as in in_progress; repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Deployments shown at most.")] = 50,
) -> None:
    """List the org's deployments, newest first."""
    everything = session.client.deployments.list(endpoint_id=endpoint, statuses=status or ())
    found = list(islice(everything, limit))
    rows = [
        (
            item.id,
            item.endpoint_id,
            item.version,
            item.version_alias,
            item.state,
            fraction(item),
            moment(item.created),
        )
        for item in found
    ]
    columns = ("DEPLOYMENT", "ENDPOINT", "VERSION", "ASKED AS", "STATE", "REPLICAS", "CREATED")
    session.output.show({"deployments": [item.raw for item in found]}, table(columns, rows))


def deployment_show(session: Session, deployment: DeploymentId) -> None:
    """Show one deployment and the replicas of its endpoint."""
    detail = session.client.deployments.detail(deployment)
    view = facts(
        {
            **deployment_facts(detail.deployment),
            "from version": detail.base_version_id,
            "replicas now": replicas_line(detail) or None,
            "started": moment(detail.started),
            "finished": moment(detail.finished),
        }
    )
    session.output.show(detail.raw, view)


def cancel(session: Session, deployment: DeploymentId) -> None:
    """Cancel a deployment: one that waits ends at once, one under way goes back to what served before."""
    show_deployment(session, session.client.deployments.cancel(deployment))


def promote(session: Session, deployment: DeploymentId) -> None:
    """Let a canary's rollout go on to all replicas."""
    show_deployment(session, session.client.deployments.promote(deployment))


def deployment_watch(
    session: Session,
    deployment: DeploymentId,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Longest wait.")
    ] = ROLLOUT_TIMEOUT_S,
) -> None:
    """Follow a rollout until it ends: its steps, and the replicas by version and state."""
    detail = None
    with LiveRollout(session.output) as view:
        for detail in follow_deployment(session.client, deployment, timeout_s=timeout):
            view(detail)
    assert detail is not None, "following yields at least one answer or raises"
    if session.output.as_json:
        session.output.show(detail.raw, "")
    ended = detail.deployment
    if ended.failed:
        reason = ended.error_message or ended.reason or "the server gives no reason"
        raise RolloutFailedError(f"Deployment {deployment} ended as {ended.state}: {reason}")


def show_deployment(session: Session, deployment: Deployment) -> None:
    session.output.show(deployment.raw, facts(deployment_facts(deployment)))


def deployment_facts(deployment: Deployment) -> dict[str, object]:
    return {
        "deployment": deployment.id,
        "endpoint": deployment.endpoint_id,
        "model": deployment.model,
        "state": deployment.state,
        "updated": _counters(deployment),
        "reason": (deployment.reason or None) if not deployment.succeeded else None,
        "error": deployment.error_message,
        "created": moment(deployment.created),
    }


def _counters(deployment: Deployment) -> str | None:
    if deployment.total_replicas is None:
        return None
    return f"{cell(deployment.updated_replicas)} of {deployment.total_replicas} replicas"


def fraction(deployment: Deployment) -> str | None:
    if deployment.total_replicas is None:
        return None
    return f"{cell(deployment.updated_replicas)}/{deployment.total_replicas}"


def install(program: typer.Typer, panel: str) -> None:
    program.command("cancel", rich_help_panel=panel)(with_session(cancel))
    deployment = typer.Typer(no_args_is_help=True)
    deployment.command("list")(with_session(deployment_list))
    deployment.command("show")(with_session(deployment_show))
    deployment.command("watch")(with_session(deployment_watch))
    deployment.command("promote")(with_session(promote))
    deployment.command("cancel")(with_session(cancel))
    program.add_typer(
        deployment,
        name="deployment",
        help="List, show, watch, promote and cancel deployments.",
        rich_help_panel=panel,
    )
    program.add_typer(deployment, name="deployments", hidden=True)
