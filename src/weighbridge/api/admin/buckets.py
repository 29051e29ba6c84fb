"""Admin routes of buckets: what a customer pastes into AWS, and which org a bucket is bound to."""

import asyncio
from typing import Annotated

from fastapi import Query
from pydantic import Field

from weighbridge.accounts import service
from weighbridge.api.admin.router import admin_router
from weighbridge.api.answers import Answer, unix_s
from weighbridge.api.deps import Control
from weighbridge.errors import InvalidError, NotFoundError
from weighbridge.ingest.model import S3Prefix
from weighbridge.ingest.s3 import bindings
from weighbridge.ingest.s3.policies import SERVER_UNKNOWN
from weighbridge.ingest.s3.setup import setup_of

router = admin_router()

KMS_KEY_ARN = r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,64}$"


class S3SetupAnswer(Answer):
    org_name: str
    bucket: str
    prefix: str
    s3_external_id: str
    server_identity: str
    trust_policy: dict[str, object] = Field(description="Of a role of the org's own.")
    role_policy: dict[str, object] = Field(description="The permissions of that role.")
    bucket_policy: dict[str, object] = Field(
        description="For who reads now: the org's role, or the server's."
    )
    key_statement: dict[str, object] | None = Field(
        description="For the policy of the KMS key, when one was named."
    )


class BucketAnswer(Answer):
    bucket: str
    org_name: str
    role_arn: str | None = Field(
        description="The org's own role that read it; null for the shared one."
    )
    bound: int


class Buckets(Answer):
    buckets: list[BucketAnswer]


class ReleasedBucket(Answer):
    bucket: str
    released: bool


@router.get("/orgs/{org_name}/s3-setup", operation_id="get_org_s3_setup")
async def s3_setup(
    org_name: str,
    bucket: str,
    control: Control,
    prefix: str = "",
    kms_key_arn: Annotated[str | None, Query(pattern=KMS_KEY_ARN)] = None,
) -> S3SetupAnswer:
    """The policies that let an org's uploads read a bucket, ready to paste."""
    source = S3Prefix.parse(f"s3://{bucket}/{prefix or 'any'}")
    if not prefix:
        source = S3Prefix(source.bucket, "")
    async with control.database.begin() as tx:
        org = await service.org_by_name(tx, org_name)
    reader = control.s3.reader(source, org.s3_role_arn, org.s3_external_id)
    identity = await asyncio.to_thread(control.s3.hurried().server_identity)
    server = identity or SERVER_UNKNOWN
    setup = setup_of(reader, server, kms_key_arn)
    return S3SetupAnswer(
        org_name=org.name,
        bucket=source.bucket,
        prefix=source.prefix,
        s3_external_id=org.s3_external_id,
        server_identity=server,
        trust_policy=dict(setup.trust_policy),
        role_policy=dict(setup.role_policy),
        bucket_policy=dict(setup.bucket_policy),
        key_statement=None if setup.key_statement is None else dict(setup.key_statement),
    )


@router.get("/buckets", operation_id="list_buckets")
async def list_all(control: Control) -> Buckets:
    """List the buckets that were read, with the org each is bound to."""
    async with control.database.begin() as tx:
        found = await bindings.bindings(tx)
    return Buckets(
        buckets=[
            BucketAnswer(
                bucket=one.bucket,
                org_name=one.org_name,
                role_arn=one.role_arn,
                bound=unix_s(one.bound_at),
            )
            for one in found
        ]
    )


@router.delete("/buckets/{bucket}", operation_id="release_bucket")
async def release(bucket: str, control: Control) -> ReleasedBucket:
    """Take a bucket off its org; the next org that reads it has it."""
    if not bucket.isascii() or not bucket.isprintable():
        raise InvalidError("A bucket's name is plain ASCII.", param="bucket")
    async with control.database.begin() as tx:
        if not await bindings.release(tx, bucket):
            raise NotFoundError("This bucket is bound to no organization.", code="bucket_not_found")
    return ReleasedBucket(bucket=bucket, released=True)
