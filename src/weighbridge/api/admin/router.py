"""What every admin route shares: the prefix, the key it asks for, and strict bodies."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from weighbridge.api.access import BEARER, AdminRoute

PREFIX = "/admin/v1"


def admin_router() -> APIRouter:
    return APIRouter(prefix=PREFIX, tags=["admin"], route_class=AdminRoute, dependencies=[BEARER])


class Body(BaseModel):
    """Unknown members are refused, and nothing is taken for another type (T6)."""

    model_config = ConfigDict(extra="forbid", strict=True)
