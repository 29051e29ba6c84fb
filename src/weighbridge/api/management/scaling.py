"""The management route that changes an endpoint's number of replicas."""

from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer
from weighbridge.api.deps import Control, Management
from weighbridge.api.endpoints import wake_rollouts
from weighbridge.endpoints.service import REPLICAS_MAX
from weighbridge.rollouts import service

router = APIRouter(
    prefix="/management/v1", tags=["endpoints"], route_class=ManagementRoute, dependencies=[BEARER]
)


class ScaleRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    replicas: int = Field(ge=-REPLICAS_MAX, le=1000 * REPLICAS_MAX)


class ScaledEndpoint(Answer):
    endpoint_id: str
    replicas: int
    previous_replicas: int
    replicas_max: int
    applies: str = Field(
        description="now; with_deployment: the one that waits starts with it; after_deployment: the one under way "
        "keeps the number it began with."
    )
    deployment_id: str | None = Field(
        default=None, description="The deployment `applies` is about."
    )
    message: str

    @classmethod
    def of(cls, scaling: service.Scaling) -> Self:
        after = scaling.after
        of_many = f"{after.replicas} replica" + ("s" if after.replicas > 1 else "")
        if scaling.active is not None:
            applies, deployment = "after_deployment", scaling.active
            words = (
                f"Deployment {deployment.id} keeps the {deployment.replicas} it began with; "
                f"once it has ended there will be {of_many}."
            )
        elif scaling.waiting is not None:
            applies, deployment = "with_deployment", scaling.waiting
            words = f"Deployment {deployment.id} waits and will begin with {of_many}."
        else:
            applies, deployment = "now", None
            words = f"The endpoint goes to {of_many} now; what leaves finishes its requests first."
        return cls(
            endpoint_id=after.id,
            replicas=after.replicas,
            previous_replicas=scaling.before.replicas,
            replicas_max=after.replicas_max or after.replicas,
            applies=applies,
            deployment_id=None if deployment is None else deployment.id,
            message=words,
        )


@router.post("/endpoints/{endpoint_id}:scale", operation_id="scale_endpoint")
async def scale(
    endpoint_id: str, body: ScaleRequest, caller: Management, control: Control
) -> ScaledEndpoint:
    """Change the number of replicas within the operator's replicas_max; a replica that leaves is drained."""
    async with control.database.begin() as tx:
        scaling = await service.scale(
            tx, caller.org, endpoint_id, body.replicas, now=control.clock.now()
        )
    wake_rollouts(control)
    return ScaledEndpoint.of(scaling)
