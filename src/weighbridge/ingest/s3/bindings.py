"""Which org has proven that it may read a bucket (T7): SQL only, nothing here commits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from weighbridge.ingest.s3.faults import SourceError
from weighbridge.ingest.s3.policies import Reader, bucket_policy, trust_policy
from weighbridge.storage.database import Transaction


@dataclass(frozen=True, slots=True)
class Binding:
    """`role_arn` is the org's own role that read the bucket; None when it was the shared one."""

    bucket: str
    org_name: str
    role_arn: str | None
    bound_at: datetime


async def require(tx: Transaction, reader: Reader, org_id: str) -> None:
    """SourceError BUCKET_BOUND where the shared role would read another org's bucket for this one."""
    if reader.shared and await _owner(tx, reader.source.bucket) not in (None, org_id):
        raise bucket_bound(reader)


async def needs_proof(tx: Transaction, reader: Reader, org_id: str) -> bool:
    """Whether the org has yet to show that the reader is let in for it alone; with one org there is nobody else."""
    if await _owner(tx, reader.source.bucket) == org_id:
        return False
    orgs = await tx.execute(text("SELECT count(*) FROM orgs"))
    return int(orgs.scalar_one()) > 1


async def bind(tx: Transaction, reader: Reader, org_id: str) -> None:
    """Record that the org's reader has read the bucket; the first org keeps it. SourceError BUCKET_BOUND."""
    await tx.execute(
        text(
            """
            INSERT INTO bucket_bindings (bucket, org_id, role_arn, bound_at)
            VALUES (:bucket, :org, :role, clock_timestamp()) ON CONFLICT (bucket) DO NOTHING
            """
        ),
        {
            "bucket": reader.source.bucket,
            "org": org_id,
            "role": None if reader.shared else reader.role_arn,
        },
    )
    await require(tx, reader, org_id)


async def bound_to(tx: Transaction, reader: Reader, org_id: str) -> bool:
    return await _owner(tx, reader.source.bucket) == org_id


async def bindings(tx: Transaction) -> Sequence[Binding]:
    """By bucket."""
    rows = await tx.execute(
        text(
            """
            SELECT b.bucket, o.name AS org_name, b.role_arn, b.bound_at
            FROM bucket_bindings b JOIN orgs o ON o.id = b.org_id ORDER BY b.bucket
            """
        )
    )
    return [Binding(**row) for row in rows.mappings()]


async def release(tx: Transaction, bucket: str) -> bool:
    """Let the next org that reads the bucket have it; False when it was nobody's."""
    result = await tx.execute(
        text("DELETE FROM bucket_bindings WHERE bucket = :bucket"), {"bucket": bucket}
    )
    return result.rowcount == 1


def unproven(reader: Reader) -> SourceError:
    """The bucket, or the role, lets others in who are not this org."""
    if reader.role_arn is not None and not reader.shared:
        return SourceError(
            f"The role {reader.role_arn} can be assumed with a wrong external id, so others could read through it. "
            f"Its trust policy must be: {json.dumps(trust_policy(reader))}",
            code="ROLE_OPEN",
        )
    how = (
        f"Replace what its policy allows {reader.role_arn} by: {json.dumps(bucket_policy(reader))}"
        if reader.role_arn is not None
        else "Ask your operator to set a role of your own that the bucket's owner lets in."
    )
    return SourceError(
        f"Nothing shows that the bucket {reader.source.bucket} is your organization's: other organizations of this "
        f"server are let in like you. {how}",
        code="BUCKET_UNPROVEN",
    )


def bucket_bound(reader: Reader) -> SourceError:
    return SourceError(
        f"The bucket {reader.source.bucket} belongs to another organization of this server. To read it for yours, "
        "ask your operator to set a role of your own that the bucket's owner lets in.",
        code="BUCKET_BOUND",
    )


async def _owner(tx: Transaction, bucket: str) -> str | None:
    return (
        await tx.execute(
            text("SELECT org_id FROM bucket_bindings WHERE bucket = :bucket"), {"bucket": bucket}
        )
    ).scalar_one_or_none()
