"""Management routes of deployments: list, follow and cancel them."""

import re
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import Field

from weighbridge.accounts.model import Org
from weighbridge.accounts.names import quoted
from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer, DeployedModel, Vocabulary, unix_s
from weighbridge.api.deps import Control, Management
from weighbridge.api.endpoints import wake_rollouts
from weighbridge.api.management.pages import PAGE_SIZE_DEFAULT, PageSize, PageToken, bad_token
from weighbridge.errors import NotFoundError
from weighbridge.rollouts import service
from weighbridge.rollouts.canaries import service as canaries
from weighbridge.rollouts.model import RolloutStatus

router = APIRouter(
    prefix="/management/v1/deployments",
    tags=["deployments"],
    route_class=ManagementRoute,
    dependencies=[BEARER],
)

DEPLOYMENT_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
STATUSES_MAX = len(RolloutStatus)


class ReplicaCount(Answer):
    version_id: int
    state: str = Field(description="pending, starting, warming, ready, draining, stopping, failing")
    count: int


class DeploymentStatus(DeployedModel):
    """One deployment, with what one needs to follow it."""

    base_version_id: int | None = Field(
        default=None, description="The version it started from, and goes back to."
    )
    started: int | None = None
    finished: int | None = None
    receipt_head: str | None = Field(
        default=None, description="The last hash of its receipt, once that is sealed."
    )
    replicas: list[ReplicaCount] = Field(
        description="The endpoint's replicas that have not ended, by version and state."
    )

    @classmethod
    def detailed(cls, found: service.DeploymentDetail, org: Org, vocabulary: Vocabulary) -> Self:
        deployment = found.deployment
        started, finished = deployment.started_at, deployment.finished_at
        return cls(
            **DeployedModel.of(deployment, org, vocabulary).model_dump(),
            base_version_id=found.base_version,
            started=None if started is None else unix_s(started),
            finished=None if finished is None else unix_s(finished),
            receipt_head=found.receipt_head,
            replicas=[
                ReplicaCount(version_id=number, state=state.value, count=count)
                for number, state, count in found.replicas
            ],
        )


class Deployments(Answer):
    deployments: list[DeployedModel] = Field(description="Newest first.")
    next_page_token: str | None = Field(default=None, description="Absent on the last page.")


def _check_deployment_id(text: str) -> None:
    if not DEPLOYMENT_ID.fullmatch(text):
        raise NotFoundError(f"{quoted(text)} is not a deployment's id.", param="deployment_id")


@router.get("", operation_id="list_deployments")
async def list_deployments(
    caller: Management,
    control: Control,
    *,
    endpoint_id: Annotated[str | None, Query(description="Of this endpoint only.")] = None,
    status: Annotated[
        list[RolloutStatus] | None,
        Query(max_length=STATUSES_MAX, description="In this rollout status; may be repeated."),
    ] = None,
    page_size: PageSize = PAGE_SIZE_DEFAULT,
    page_token: PageToken = None,
) -> Deployments:
    """List the organization's deployments, newest first."""
    if page_token is not None and not DEPLOYMENT_ID.fullmatch(page_token):
        raise bad_token()
    async with control.database.begin() as tx:
        found = await service.page(
            tx,
            caller.org.id,
            endpoint_id=endpoint_id,
            statuses=status or (),
            after_id=page_token,
            limit=page_size + 1,
        )
    shown = found[:page_size]
    vocabulary = control.settings.state_vocabulary
    return Deployments(
        deployments=[DeployedModel.of(one, caller.org, vocabulary) for one in shown],
        next_page_token=shown[-1].id if len(found) > page_size else None,
    )


@router.get("/{deployment_id}", operation_id="get_deployment")
async def deployment_status(
    deployment_id: str, caller: Management, control: Control
) -> DeploymentStatus:
    """Retrieve one deployment, in flight or ended, with the replicas of its endpoint."""
    _check_deployment_id(deployment_id)
    async with control.database.begin() as tx:
        found = await service.detail(tx, deployment_id, org_id=caller.org.id)
    return DeploymentStatus.detailed(found, caller.org, control.settings.state_vocabulary)


@router.post("/{deployment_id}:cancel", operation_id="cancel_deployment")
async def cancel(deployment_id: str, caller: Management, control: Control) -> DeployedModel:
    """Cancel a deployment: one that waits ends at once, one under way goes back."""
    _check_deployment_id(deployment_id)
    async with control.database.begin() as tx:
        deployment = await service.cancel(
            tx, deployment_id, org_id=caller.org.id, now=control.clock.now()
        )
    wake_rollouts(control)
    return DeployedModel.of(deployment, caller.org, control.settings.state_vocabulary)


@router.post("/{deployment_id}:promote", operation_id="promote_deployment")
async def promote(deployment_id: str, caller: Management, control: Control) -> DeployedModel:
    """Let a canary's rollout go on to all replicas."""
    _check_deployment_id(deployment_id)
    async with control.database.begin() as tx:
        deployment = await canaries.promote(
            tx, deployment_id, org_id=caller.org.id, now=control.clock.now()
        )
    wake_rollouts(control)
    control.wake("routes")
    return DeployedModel.of(deployment, caller.org, control.settings.state_vocabulary)
