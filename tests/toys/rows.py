"""The rows that toy machines begin with, and those that a controller writes."""

from datetime import UTC, datetime

from sqlalchemy import insert, select

from weighbridge.rollouts.model import Deployment, RolloutStatus
from weighbridge.storage.database import Database, Transaction
from weighbridge.storage.tables import (
    architectures,
    deployments,
    endpoints,
    model_versions,
    orgs,
    replicas,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def waiting(deployment_id: str, version: int) -> Deployment:
    return Deployment(
        id=deployment_id,
        endpoint_id="chat",
        org_id="org_1",
        arch_id="tiny",
        version_id=f"v{version}",
        version_number=version,
        digest=f"{version}" * 64,
        fingerprint=f"fp_{version}",
        reference=str(version),
        status=RolloutStatus.NOT_STARTED,
        reason="queued",
        error_message=None,
        base_deployment_id=None,
        replicas=0,
        max_unavailable=0,
        max_surge=0,
        updated_replicas=0,
        updated_max=0,
        failures=0,
        restored_max=0,
        restore_failures=0,
        cancel_requested=False,
        created_at=NOW,
        updated_at=NOW,
        started_at=None,
        progress_at=None,
        finished_at=None,
        revision=1,
    )


async def furnish(
    tx: Transaction, *, count: int = 2, max_unavailable: int = 0, max_surge: int = 1
) -> None:
    """An org, an architecture, an endpoint `chat` and five versions whose sync is done."""
    await tx.execute(
        insert(orgs).values(id="org_1", name="acme", s3_external_id="x1", created_at=NOW)
    )
    await tx.execute(
        insert(architectures).values(
            id="tiny",
            source_uri="/models/tiny",
            base_digest="b" * 64,
            tensors=[],
            engine={"start_timeout_s": 20.0},
            created_at=NOW,
            updated_at=NOW,
        )
    )
    await tx.execute(
        insert(model_versions),
        [
            {
                "id": f"v{n}",
                "org_id": "org_1",
                "arch_id": "tiny",
                "number": n,
                "weight_uri": f"s3://bucket/{n}",
                "status": "done",
                "manifest_digest": f"{n}" * 64,
                "created_at": NOW,
                "updated_at": NOW,
            }
            for n in range(1, 6)
        ],
    )
    await tx.execute(
        insert(endpoints).values(
            id="chat",
            org_id="org_1",
            arch_id="tiny",
            replicas=count,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            created_at=NOW,
            updated_at=NOW,
        )
    )


async def everything(database: Database) -> list[object]:
    """Every row that a controller writes, to show that nothing changed."""
    async with database.begin() as tx:
        return [
            [tuple(row) for row in await tx.execute(select(table).order_by(table.c.id))]
            for table in (deployments, replicas, endpoints)
        ]
