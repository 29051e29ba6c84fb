"""Admin routes of endpoints."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field

from weighbridge.accounts import service as accounts
from weighbridge.api.admin.limits import LimitsAnswer, LimitsChange
from weighbridge.api.admin.router import Body, admin_router
from weighbridge.api.admin.traffic import GatewayAnswer, GatewayChange
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.assurance.gate_shapes import GateAnswer, GateChange
from weighbridge.api.deps import Control
from weighbridge.endpoints import service
from weighbridge.endpoints.model import Endpoint, QueuePolicy
from weighbridge.storage.database import Transaction

COUNT_MAX = 1_000_000
"""Far beyond what is possible: the endpoint's own rules give the better message."""

router = admin_router()


class EndpointRequest(Body):
    endpoint_id: str
    org_name: str
    model_arch_id: str
    replicas: int = Field(default=1, ge=-COUNT_MAX, le=COUNT_MAX)
    max_unavailable: int = Field(default=0, ge=-COUNT_MAX, le=COUNT_MAX)
    max_surge: int = Field(default=1, ge=-COUNT_MAX, le=COUNT_MAX)
    replicas_max: int | None = Field(
        default=None,
        ge=-COUNT_MAX,
        le=COUNT_MAX,
        description="How far its organization may scale it; null: not at all.",
    )
    allow_downtime: bool = Field(
        default=False, description="Whether a rollout may stop every replica at once."
    )
    queue_policy: QueuePolicy = Field(
        default=QueuePolicy.FIFO,
        strict=False,
        description="`latest_wins`: a new deployment cancels those that still wait.",
    )


class EndpointChange(Body):
    replicas: int | None = Field(default=None, ge=-COUNT_MAX, le=COUNT_MAX)
    max_unavailable: int | None = Field(default=None, ge=-COUNT_MAX, le=COUNT_MAX)
    max_surge: int | None = Field(default=None, ge=-COUNT_MAX, le=COUNT_MAX)
    replicas_max: int | None = Field(
        default=None,
        ge=-COUNT_MAX,
        le=COUNT_MAX,
        description="Null takes scaling away from the organization again.",
    )
    allow_downtime: bool | None = None
    queue_policy: QueuePolicy | None = Field(default=None, strict=False)
    limits: LimitsChange | None = None
    gateway: GatewayChange | None = None
    gate: GateChange | None = None


class EndpointAnswer(Answer):
    endpoint_id: str
    org_name: str
    model_arch_id: str
    replicas: int
    max_unavailable: int
    max_surge: int
    replicas_max: int | None = Field(description="How far its organization may scale it.")
    allow_downtime: bool
    queue_policy: QueuePolicy
    limits: LimitsAnswer = Field(description="Over all keys together.")
    gateway: GatewayAnswer = Field(description="How the gateway treats its requests.")
    gate: GateAnswer = Field(description="When its gate turns a rollout back.")
    created: int
    updated: int
    serving: int | None = Field(description="Number of the version last deployed with success.")

    @classmethod
    def of(cls, endpoint: Endpoint, org_name: str, serving: int | None) -> Self:
        return cls(
            endpoint_id=endpoint.id,
            org_name=org_name,
            model_arch_id=endpoint.arch_id,
            replicas=endpoint.replicas,
            max_unavailable=endpoint.max_unavailable,
            max_surge=endpoint.max_surge,
            replicas_max=endpoint.replicas_max,
            allow_downtime=endpoint.allow_downtime,
            queue_policy=endpoint.queue_policy,
            limits=LimitsAnswer.of(endpoint.limits),
            gateway=GatewayAnswer.of(endpoint.gateway),
            gate=GateAnswer.of(endpoint.gate),
            created=unix_s(endpoint.created_at),
            updated=unix_s(endpoint.updated_at),
            serving=serving,
        )


class Endpoints(Answer):
    endpoints: list[EndpointAnswer]


async def _answers(tx: Transaction, endpoints: Sequence[Endpoint]) -> list[EndpointAnswer]:
    names = {org.id: org.name for org in await accounts.orgs(tx)}
    serving = await service.base_versions(tx, endpoints)
    return [
        EndpointAnswer.of(endpoint, names[endpoint.org_id], serving.get(endpoint.id))
        for endpoint in endpoints
    ]


def _wake(control: Control) -> None:
    control.wake("rollouts")
    control.wake("replicas")


@router.post("/endpoints", operation_id="create_endpoint")
async def create(body: EndpointRequest, control: Control) -> EndpointAnswer:
    """Create an endpoint for an organization; it serves once a version is deployed to it."""
    async with control.database.begin() as tx:
        org = await accounts.org_by_name(tx, body.org_name)
        endpoint = await service.create(
            tx,
            org,
            body.endpoint_id,
            body.model_arch_id,
            replicas=body.replicas,
            max_unavailable=body.max_unavailable,
            max_surge=body.max_surge,
            replicas_max=body.replicas_max,
            allow_downtime=body.allow_downtime,
            queue_policy=body.queue_policy,
            now=control.clock.now(),
        )
        (answer,) = await _answers(tx, [endpoint])
    _wake(control)
    return answer


@router.get("/endpoints", operation_id="list_all_endpoints")
async def list_all(control: Control) -> Endpoints:
    """List the endpoints of every organization by id."""
    async with control.database.begin() as tx:
        found = await _answers(tx, await service.list_of(tx, None))
    return Endpoints(endpoints=found)


@router.get("/endpoints/{endpoint_id}", operation_id="get_endpoint")
async def get(endpoint_id: str, control: Control) -> EndpointAnswer:
    """Retrieve one endpoint."""
    async with control.database.begin() as tx:
        (answer,) = await _answers(tx, [await service.get(tx, endpoint_id, org_id=None)])
    return answer


@router.patch("/endpoints/{endpoint_id}", operation_id="update_endpoint")
async def update(endpoint_id: str, body: EndpointChange, control: Control) -> EndpointAnswer:
    """Change an endpoint's shape, limits or options; rollouts that have begun keep the shape they began with."""
    async with control.database.begin() as tx:
        endpoint = await service.update(
            tx,
            endpoint_id,
            replicas=body.replicas,
            max_unavailable=body.max_unavailable,
            max_surge=body.max_surge,
            allow_downtime=body.allow_downtime,
            queue_policy=body.queue_policy,
            change_limits=body.limits,
            change_gateway=body.gateway,
            change_gate=body.gate,
            change_replicas_max=(
                (lambda _: body.replicas_max) if "replicas_max" in body.model_fields_set else None
            ),
            now=control.clock.now(),
        )
        (answer,) = await _answers(tx, [endpoint])
    _wake(control)
    control.wake("routes")
    return answer


@router.delete("/endpoints/{endpoint_id}", operation_id="delete_endpoint")
async def delete(endpoint_id: str, control: Control) -> EndpointAnswer:
    """Take an endpoint out of service; its id is not given out again."""
    async with control.database.begin() as tx:
        endpoint = await service.delete(tx, endpoint_id, now=control.clock.now())
        (answer,) = await _answers(tx, [endpoint])
    _wake(control)
    return answer
