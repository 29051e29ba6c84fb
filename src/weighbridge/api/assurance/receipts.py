"""The management route of a deployment's receipt."""

import re

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field

from weighbridge.accounts.names import quoted
from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer
from weighbridge.api.deps import Control, Management
from weighbridge.errors import NotFoundError
from weighbridge.receipts import service
from weighbridge.rollouts import service as rollouts

router = APIRouter(
    prefix="/management/v1", tags=["endpoints"], route_class=ManagementRoute, dependencies=[BEARER]
)

DEPLOYMENT_ID = re.compile(r"[0-9a-f-]{1,64}", re.ASCII)


class ReceiptEntry(Answer):
    sequence: int
    payload: dict[str, object] = Field(description="What happened; `event` names it.")
    previous: str = Field(description="The hash of the entry before; 64 zeros for the first.")
    hash: str


class ReceiptAnswer(Answer):
    format: str
    schema_version: int = Field(alias="schema")
    algorithm: str
    deployment_id: str
    head: str = Field(description="The hash of the last entry.")
    sealed: bool = Field(description="The deployment has ended and nothing is added any more.")
    entries: list[ReceiptEntry]
    signature: str | None = Field(
        default=None, description="HMAC-SHA-256 with the operator's key, where there is one."
    )


@router.get(
    "/deployments/{deployment_id}/receipt",
    operation_id="get_deployment_receipt",
    response_model=ReceiptAnswer,
)
async def receipt(deployment_id: str, caller: Management, control: Control) -> JSONResponse:
    """Retrieve the hash-chained record of a deployment, as far as it goes."""
    if not DEPLOYMENT_ID.fullmatch(deployment_id):
        raise NotFoundError(f"{quoted(deployment_id)} is not a deployment's id.")
    async with control.database.begin() as tx:
        await rollouts.deployment(tx, deployment_id, org_id=caller.org.id)
        stored = await service.read(tx, deployment_id)
    if stored is None:
        raise NotFoundError(
            f"Deployment {deployment_id} has no receipt: it is older than receipts are.",
            code="no_receipt",
        )
    # As it was hashed: a null that went missing on the way would break the chain.
    return JSONResponse(stored.document())
