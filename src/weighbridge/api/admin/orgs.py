"""Admin routes of organizations."""

from typing import Self

from pydantic import Field

from weighbridge.accounts import service
from weighbridge.accounts.model import Org
from weighbridge.api.admin.limits import LimitsAnswer, LimitsChange
from weighbridge.api.admin.router import Body, admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control
from weighbridge.errors import InvalidError

router = admin_router()


class OrgRequest(Body):
    org_name: str
    s3_role_arn: str | None = None


class OrgChange(Body):
    """What is left out stays as it is."""

    s3_role_arn: str | None = None
    key_limits: LimitsChange | None = None


class OrgAnswer(Answer):
    id: str
    org_name: str
    s3_external_id: str
    s3_role_arn: str | None
    created: int
    key_limits: LimitsAnswer = Field(description="Defaults for each of its keys.")

    @classmethod
    def of(cls, org: Org) -> Self:
        return cls(
            id=org.id,
            org_name=org.name,
            s3_external_id=org.s3_external_id,
            s3_role_arn=org.s3_role_arn,
            created=unix_s(org.created_at),
            key_limits=LimitsAnswer.of(org.key_limits),
        )


class Orgs(Answer):
    orgs: list[OrgAnswer]


@router.post("/orgs", operation_id="create_org")
async def create(body: OrgRequest, control: Control) -> OrgAnswer:
    """Create an organization; its s3_external_id belongs into the trust policy of its role."""
    async with control.database.begin() as tx:
        org = await service.create_org(
            tx,
            body.org_name,
            s3_role_arn=body.s3_role_arn,
            org_id=f"org_{control.clock.new_short_id()}",
            s3_external_id=control.clock.new_secret(),
            now=control.clock.now(),
        )
    control.wake("routes")
    return OrgAnswer.of(org)


@router.get("/orgs", operation_id="list_orgs")
async def list_all(control: Control) -> Orgs:
    """List the organizations by name."""
    async with control.database.begin() as tx:
        found = await service.orgs(tx)
    return Orgs(orgs=[OrgAnswer.of(org) for org in found])


@router.get("/orgs/{org_name}", operation_id="get_org")
async def get(org_name: str, control: Control) -> OrgAnswer:
    """Retrieve one organization."""
    async with control.database.begin() as tx:
        return OrgAnswer.of(await service.org_by_name(tx, org_name))


@router.patch("/orgs/{org_name}", operation_id="update_org")
async def update(org_name: str, body: OrgChange, control: Control) -> OrgAnswer:
    """Set the IAM role that reads the organization's buckets (null: the server's own), or its keys' default limits."""
    if not body.model_fields_set:
        raise InvalidError(
            "Give s3_role_arn or key_limits.", code="nothing_to_change", param="s3_role_arn"
        )
    async with control.database.begin() as tx:
        org = await service.org_by_name(tx, org_name)
        if "s3_role_arn" in body.model_fields_set:
            org = await service.set_s3_role(tx, org_name, body.s3_role_arn)
        if body.key_limits is not None:
            org = await service.change_key_defaults(tx, org_name, body.key_limits)
    control.wake("routes")
    return OrgAnswer.of(org)
