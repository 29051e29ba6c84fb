"""Management routes of endpoints: see them, deploy to them, take them back."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import (
    DeployOperation,
    Endpoints,
    EndpointStatus,
    EndpointSummary,
    unix_s,
)
from weighbridge.api.deps import AtMostOnce, Control, Management
from weighbridge.api.management.forecast import DeployForecast, forecast
from weighbridge.api.management.room import check_room, nodes_now
from weighbridge.api.versions import own_org
from weighbridge.endpoints import service
from weighbridge.registry.names import VersionName
from weighbridge.rollouts import service as rollouts

router = APIRouter(
    prefix="/management/v1", tags=["endpoints"], route_class=ManagementRoute, dependencies=[BEARER]
)


class DeployRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(
        description="orgs/<org_name>/models/<model_arch_id>/versions/<number or alias>."
    )
    traffic_percent: int | None = Field(
        default=None,
        ge=1,
        le=99,
        description="Extension: bring up a share of the replicas, send them this percentage of the requests, "
        "and stay so until the deployment is promoted or cancelled.",
    )
    dry_run: bool = Field(
        default=False,
        description="Change nothing; answer what would happen, or the error that would be answered.",
    )


@router.get("/orgs/{org_name}/endpoints", operation_id="list_endpoints")
async def list_endpoints(org_name: str, caller: Management, control: Control) -> Endpoints:
    """List the endpoints that the organization manages."""
    org = own_org(caller, org_name)
    async with control.database.begin() as tx:
        endpoints = await service.list_of(tx, org.id)
    return Endpoints(
        endpoints=[
            EndpointSummary(
                endpoint_id=endpoint.id,
                model_arch_id=endpoint.arch_id,
                created=unix_s(endpoint.created_at),
                updated=unix_s(endpoint.updated_at),
                org_name=org.name,
            )
            for endpoint in endpoints
        ]
    )


@router.get(
    "/endpoints/{endpoint_id}",
    operation_id="get_endpoint_status_route_management_v1_endpoints__endpoint_id__get",
)
async def endpoint_status(endpoint_id: str, caller: Management, control: Control) -> EndpointStatus:
    """Retrieve an endpoint with its deployments and how far their rollouts have come."""
    async with control.database.begin() as tx:
        endpoint = await service.get(tx, endpoint_id, org_id=caller.org.id)
        deployments = await rollouts.deployments_of(tx, endpoint_id)
    return EndpointStatus.of(endpoint, deployments, caller.org, control.settings.state_vocabulary)


@router.post(
    "/endpoints/{endpoint_id}:deployModel",
    operation_id="deploy_model_to_endpoint_route_management_v1_endpoints__endpoint_id__deployModel_post",
)
async def deploy_model(
    endpoint_id: str, body: DeployRequest, caller: Management, control: Control, once: AtMostOnce
) -> DeployOperation | DeployForecast:
    """Queue the rollout of a model version to an endpoint of the same architecture."""
    name = VersionName.parse(body.model)
    if body.dry_run:
        return await forecast(
            control, caller, endpoint_id, name, traffic_percent=body.traffic_percent
        )
    nodes = await nodes_now(control)
    async with control.database.begin() as tx:
        if (before := await once.answer(tx, DeployOperation)) is not None:
            return before
        deployment = await rollouts.deploy(
            tx,
            caller.org,
            endpoint_id,
            name,
            deployment_id=control.clock.new_uuid(),
            now=control.clock.now(),
            queue_max=control.settings.deployment_queue_max,
            traffic_percent=body.traffic_percent,
            asked_by=caller.key.id,
        )
        # Last, so that what is wrong with the request itself is said first; the transaction goes with it.
        await check_room(tx, nodes, endpoint_id, org_id=caller.org.id)
        answer = DeployOperation.of(deployment, caller.org)
        await once.keep(tx, answer)
    wake_rollouts(control)
    return answer


def wake_rollouts(control: Control) -> None:
    control.wake("rollouts")
    control.wake("replicas")


@router.post("/endpoints/{endpoint_id}:rollback", operation_id="rollback_endpoint")
async def rollback(
    endpoint_id: str, caller: Management, control: Control, once: AtMostOnce
) -> DeployOperation:
    """Queue the rollout back to the version that served before the present one."""
    async with control.database.begin() as tx:
        if (before := await once.answer(tx, DeployOperation)) is not None:
            return before
        deployment = await rollouts.rollback(
            tx,
            caller.org,
            endpoint_id,
            deployment_id=control.clock.new_uuid(),
            now=control.clock.now(),
            queue_max=control.settings.deployment_queue_max,
            asked_by=caller.key.id,
        )
        answer = DeployOperation.of(deployment, caller.org)
        await once.keep(tx, answer)
    wake_rollouts(control)
    return answer
