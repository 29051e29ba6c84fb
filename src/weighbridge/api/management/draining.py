"""The management route that ends an endpoint's drains early."""

from collections.abc import Sequence
from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control, Management
from weighbridge.replicas.model import Replica
from weighbridge.rollouts.drains import service
from weighbridge.rollouts.drains.service import AFTER_S_MAX
from weighbridge.routing.hosts.view import Acks

router = APIRouter(
    prefix="/management/v1", tags=["endpoints"], route_class=ManagementRoute, dependencies=[BEARER]
)


class ForceDrainRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    after_s: float = Field(
        default=0.0,
        ge=0,
        le=AFTER_S_MAX,
        allow_inf_nan=False,
        description="How long their requests may still take.",
    )


class DrainingReplica(Answer):
    replica_id: str
    version_id: int
    requests: int | None = Field(
        default=None, description="In flight now; absent where no gateway runs that counts them."
    )
    deadline: int = Field(description="When what is left of them is cut, in unix seconds.")


class ForcedDrains(Answer):
    endpoint_id: str
    replicas: list[DrainingReplica] = Field(description="Those that drain now.")
    message: str

    @classmethod
    def of(cls, endpoint_id: str, forced: Sequence[Replica], acks: Acks) -> Self:
        counted = acks.routes_acked() is not None
        in_flight = acks.counter()
        shown = [
            DrainingReplica(
                replica_id=one.id,
                version_id=one.version_number,
                requests=in_flight(one.slot) if counted else None,
                deadline=unix_s(one.drain_deadline),
            )
            for one in forced
            if one.drain_deadline is not None
        ]
        many = f"{len(shown)} replica" if len(shown) == 1 else f"{len(shown)} replicas"
        words = f"{many} will end at the deadline, whatever is still in flight."
        return cls(
            endpoint_id=endpoint_id,
            replicas=shown,
            message=words if shown else "No replica of this endpoint drains now.",
        )


@router.post("/endpoints/{endpoint_id}:forceDrain", operation_id="force_drain_endpoint")
async def force_drain(
    endpoint_id: str, body: ForceDrainRequest, caller: Management, control: Control
) -> ForcedDrains:
    """End the drains under way: after `after_s` seconds their requests are cut, with an error event."""
    async with control.database.begin() as tx:
        forced = await service.force(
            tx,
            endpoint_id,
            org_id=caller.org.id,
            after_s=body.after_s,
            now=control.clock.now(),
            asked_by=caller.key.id,
        )
        acks = await control.gateways.look(tx)
    control.wake("replicas")
    return ForcedDrains.of(endpoint_id, forced, acks)
