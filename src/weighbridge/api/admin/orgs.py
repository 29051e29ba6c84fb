"""Admin routes of organizations."""

from typing import Self

from weighbridge.accounts import service
from weighbridge.accounts.model import Org
from weighbridge.api.admin.router import Body, admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control

router = admin_router()


class OrgRequest(Body):
    org_name: str
    s3_role_arn: str | None = None


class OrgChange(Body):
    s3_role_arn: str | None


class OrgAnswer(Answer):
    id: str
    org_name: str
    s3_external_id: str
    s3_role_arn: str | None
    created: int

    @classmethod
    def of(cls, org: Org) -> Self:
        return cls(
            id=org.id,
            org_name=org.name,
            s3_external_id=org.s3_external_id,
            s3_role_arn=org.s3_role_arn,
            created=unix_s(org.created_at),
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
    """Set the IAM role that is assumed to read the organization's buckets; null for the server's own."""
    async with control.database.begin() as tx:
        org = await service.set_s3_role(tx, org_name, body.s3_role_arn)
    control.wake("routes")
    return OrgAnswer.of(org)
