"""SQL of weight syncs: claims, pinned files, progress and final states. Nothing here commits."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import text

from weighbridge.errors import StaleError
from weighbridge.ingest.model import OpenSync, PinnedFile, SyncFigures, SyncOrder
from weighbridge.registry.model import SyncStatus
from weighbridge.storage import lease
from weighbridge.storage.database import Transaction
from weighbridge.storage.lease import Lease
from weighbridge.weights.tensors import TensorSpec

OPEN_MAX = 1_000
MESSAGE_CHARACTERS_MAX = 4_000

_USED = """
    EXISTS (SELECT 1 FROM model_versions u WHERE u.manifest_digest = {digest}
            AND (u.deleted_at IS NULL OR u.status = 'in_progress'))
    OR EXISTS (SELECT 1 FROM architectures a WHERE a.base_digest = {digest})
    OR EXISTS (SELECT 1 FROM replicas r WHERE r.digest = {digest}
               AND r.state NOT IN ('stopped', 'failed', 'lost'))
    OR EXISTS (SELECT 1 FROM deployments d WHERE d.digest = {digest}
               AND (d.status IN ('not_started', 'in_progress', 'rolling_back')
                    OR EXISTS (SELECT 1 FROM endpoints e WHERE e.deleted_at IS NULL
                               AND e.base_deployment_id = d.id)))
"""
# Asked whenever nothing is to be done, so put together once.
_OPEN = text(
    """
    SELECT v.id, v.org_id, v.status, v.claim_epoch,
           v.cancel_requested OR v.deleted_at IS NOT NULL AS cancelled,
           COALESCE(l.expires_at >= clock_timestamp() AND l.holder <> :holder, false) AS held
    FROM model_versions v LEFT JOIN leases l ON l.name = 'sync:' || v.id
    WHERE v.status IN ('queued', 'in_progress')
    ORDER BY v.created_at, v.id LIMIT :limit
    """
)


def lease_name(version_id: str) -> str:
    return f"sync:{version_id}"


def manifest_lease_name(digest: str) -> str:
    """Held while a version directory is published or deleted, so that the two never meet (W8)."""
    return f"manifest:{digest}"


async def open_syncs(tx: Transaction, holder: str) -> Sequence[OpenSync]:
    """Syncs that are not final, oldest first, at most OPEN_MAX; `held` by another holder than this one."""
    rows = await tx.execute(_OPEN, {"limit": OPEN_MAX, "holder": holder})
    return [
        OpenSync(r.id, r.org_id, SyncStatus(r.status), r.claim_epoch, r.cancelled, r.held)
        for r in rows
    ]


async def claim(tx: Transaction, version_id: str, holder: str) -> Lease | None:
    """Take a sync that is not final and not held; every later write under this claim names its epoch."""
    held = await lease.acquire(tx, lease_name(version_id), holder)
    if held is None:
        return None
    result = await tx.execute(
        text(
            """
            UPDATE model_versions
            SET status = 'in_progress', claim_epoch = :epoch, updated_at = clock_timestamp(),
                revision = revision + CASE status WHEN 'queued' THEN 1 ELSE 0 END
            WHERE id = :id AND status IN ('queued', 'in_progress')
            """
        ),
        {"id": version_id, "epoch": held.epoch},
    )
    if result.rowcount == 0:
        await lease.release(tx, held)
        return None
    return held


async def order(tx: Transaction, version_id: str) -> SyncOrder:
    row = (
        await tx.execute(
            text(
                """
                SELECT v.id, v.org_id, v.arch_id, v.number, v.weight_uri, v.sync_spent_s,
                       o.s3_external_id, o.s3_role_arn, a.base_digest, a.tensors
                FROM model_versions v JOIN orgs o ON o.id = v.org_id
                JOIN architectures a ON a.id = v.arch_id WHERE v.id = :id
                """
            ),
            {"id": version_id},
        )
    ).one()
    return SyncOrder(
        version_id=row.id,
        org_id=row.org_id,
        arch_id=row.arch_id,
        number=row.number,
        weight_uri=row.weight_uri,
        external_id=row.s3_external_id,
        role_arn=row.s3_role_arn,
        base_digest=row.base_digest,
        tensors=[TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in row.tensors],
        spent_s=row.sync_spent_s,
        files=await files(tx, version_id),
    )


async def files(tx: Transaction, version_id: str) -> Sequence[PinnedFile]:
    rows = await tx.execute(
        text(
            """
            SELECT key, path, size_bytes, etag, s3_version_id, checksum, digest
            FROM sync_files WHERE version_id = :id ORDER BY path
            """
        ),
        {"id": version_id},
    )
    return [PinnedFile(**row) for row in rows.mappings()]


async def record_snapshot(
    tx: Transaction,
    held: Lease,
    version_id: str,
    pinned: Sequence[PinnedFile],
    *,
    totals: Sequence[PinnedFile],
) -> None:
    """Store what the sync pinned (W3); `totals` are the files that count as the version's bytes."""
    await _guard(tx, held, version_id)
    await tx.execute(text("DELETE FROM sync_files WHERE version_id = :id"), {"id": version_id})
    await tx.execute(
        text(
            """
            INSERT INTO sync_files (version_id, key, path, size_bytes, etag, s3_version_id, checksum)
            VALUES (:id, :key, :path, :size, :etag, :s3_version, :checksum)
            """
        ),
        [
            {
                "id": version_id,
                "key": f.key,
                "path": f.path,
                "size": f.size_bytes,
                "etag": f.etag,
                "s3_version": f.s3_version_id,
                "checksum": f.checksum,
            }
            for f in pinned
        ],
    )
    await tx.execute(
        text("UPDATE model_versions SET bytes_total = :bytes, files_total = :files WHERE id = :id"),
        {"id": version_id, "bytes": sum(f.size_bytes for f in totals), "files": len(totals)},
    )


async def known_digests(
    tx: Transaction, version_id: str, org_id: str, bucket: str, keys: Sequence[str]
) -> Mapping[str, str]:
    """By key, the digests this org's syncs, this one included, have found for the same content (W4: own org only).

    The same content is the same revision of the same object, or equal size and CRC64 or SHA-256 as S3 states them.
    """
    rows = await tx.execute(
        text(
            """
            SELECT DISTINCT ON (m.key) m.key, f.digest
            FROM sync_files m
            JOIN sync_files f ON f.size_bytes = m.size_bytes AND f.digest IS NOT NULL
            JOIN model_versions v ON v.id = f.version_id AND v.org_id = :org
            WHERE m.version_id = :id AND m.key = ANY(CAST(:keys AS text[]))
              AND (string_to_array(f.checksum, ' ') && ARRAY(
                       SELECT one FROM unnest(string_to_array(m.checksum, ' ')) AS one
                       WHERE one LIKE 'crc64nvme:%' OR one LIKE 'sha256:%')
                   OR (f.checksum IS NOT DISTINCT FROM m.checksum
                       AND f.key = m.key AND f.etag = m.etag
                       AND f.s3_version_id IS NOT DISTINCT FROM m.s3_version_id
                       AND split_part(v.weight_uri, '/', 3) = :bucket))
            ORDER BY m.key, f.version_id = m.version_id AND f.key = m.key DESC
            """
        ),
        {"id": version_id, "org": org_id, "bucket": bucket, "keys": list(keys)},
    )
    return {row.key: str(row.digest) for row in rows}


async def leased_digests(tx: Transaction) -> frozenset[str]:
    """What syncs that have not ended count on."""
    rows = await tx.execute(
        text(
            """
            SELECT DISTINCT f.digest FROM sync_files f JOIN model_versions v ON v.id = f.version_id
            WHERE v.status IN ('queued', 'in_progress') AND f.digest IS NOT NULL
            """
        )
    )
    return frozenset(row.digest for row in rows)


async def record_digests(
    tx: Transaction, held: Lease, version_id: str, digests: Mapping[str, str | None]
) -> None:
    """By key. A digest written here leases its blob until the sync ends: collection leaves it alone (W8)."""
    await _guard(tx, held, version_id)
    await tx.execute(
        text(
            """
            UPDATE sync_files f SET digest = d.digest
            FROM unnest(CAST(:keys AS text[]), CAST(:digests AS text[])) AS d(key, digest)
            WHERE f.version_id = :id AND f.key = d.key
            """
        ),
        {"id": version_id, "keys": list(digests), "digests": list(digests.values())},
    )


async def record_progress(
    tx: Transaction,
    held: Lease,
    version_id: str,
    *,
    step: str,
    bytes_done: int,
    files_done: int,
    spent_s: float,
    bytes_per_s: float | None,
    retries_more: int,
) -> bool:
    """Write how far the sync is and return whether it has been cancelled; the revision stays, nothing was decided."""
    await lease.require(tx, held)
    row = (
        await tx.execute(
            text(
                """
                UPDATE model_versions
                SET step = :step, bytes_done = :bytes, files_done = :files, sync_spent_s = :spent,
                    bytes_per_s = :rate, retries = retries + :retries,
                    updated_at = clock_timestamp()
                WHERE id = :id AND status = 'in_progress' AND claim_epoch = :epoch
                RETURNING cancel_requested OR deleted_at IS NOT NULL AS cancelled
                """
            ),
            {
                "id": version_id,
                "epoch": held.epoch,
                "step": step,
                "bytes": bytes_done,
                "files": files_done,
                "spent": spent_s,
                "rate": bytes_per_s,
                "retries": retries_more,
            },
        )
    ).one_or_none()
    if row is None:
        raise StaleError(f"the sync of {version_id} is no longer this claim's")
    return bool(row.cancelled)


async def record_manifest(tx: Transaction, held: Lease, version_id: str, digest: str) -> None:
    """Name the manifest before it is published, so that nobody collects it meanwhile."""
    await _guard(tx, held, version_id)
    await tx.execute(
        text("UPDATE model_versions SET manifest_digest = :digest WHERE id = :id"),
        {"id": version_id, "digest": digest},
    )


async def finish(
    tx: Transaction,
    held: Lease,
    version_id: str,
    status: SyncStatus,
    *,
    error_code: str | None = None,
    error_message: str | None = None,
) -> None:
    """The final state, once (W5); `done` needs a manifest recorded before, and has all bytes."""
    await lease.require(tx, held)
    # The lease before the version, as whoever writes progress locks them: the other way round the two can deadlock.
    await lease.release(tx, held)
    result = await tx.execute(
        text(
            """
            UPDATE model_versions
            SET status = :status, step = '', bytes_per_s = NULL, error_code = :code, error_message = :message,
                bytes_done = CASE WHEN :done THEN bytes_total ELSE bytes_done END,
                files_done = CASE WHEN :done THEN files_total ELSE files_done END,
                manifest_digest = CASE WHEN :done THEN manifest_digest END,
                updated_at = clock_timestamp(), revision = revision + 1
            WHERE id = :id AND status = 'in_progress' AND claim_epoch = :epoch
              AND NOT (:done AND (cancel_requested OR deleted_at IS NOT NULL))
            """
        ),
        {
            "id": version_id,
            "epoch": held.epoch,
            "status": status,
            "done": status is SyncStatus.DONE,
            "code": error_code,
            "message": error_message,
        },
    )
    if result.rowcount == 0:
        raise StaleError(f"the sync of {version_id} was cancelled or is another claim's")


async def unused_manifests(tx: Transaction, published: Sequence[str]) -> Mapping[str, bool]:
    """Those of `published` that nothing needs; True for one that a deleted version had (the others have no row)."""
    rows = await tx.execute(
        text(
            f"""
            SELECT p.digest, EXISTS (SELECT 1 FROM model_versions v
                                     WHERE v.manifest_digest = p.digest) AS deleted
            FROM unnest(CAST(:published AS text[])) AS p(digest)
            WHERE NOT ({_USED.format(digest="p.digest")})
            """  # noqa: S608 - built from constants of this file
        ),
        {"published": list(published)},
    )
    return {row.digest: row.deleted for row in rows}


async def version_names(tx: Transaction, manifests: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """By manifest digest, `org/architecture/number` of the versions that are not deleted."""
    rows = await tx.execute(
        text(
            """
            SELECT v.manifest_digest AS digest, o.name || '/' || v.arch_id || '/' || v.number AS name
            FROM model_versions v JOIN orgs o ON o.id = v.org_id
            WHERE v.manifest_digest = ANY(CAST(:digests AS text[])) AND v.deleted_at IS NULL
            ORDER BY 1, 2
            """
        ),
        {"digests": list(manifests)},
    )
    names: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        names[row.digest].append(row.name)
    return names


async def sync_figures(tx: Transaction) -> SyncFigures:
    rows = (
        await tx.execute(
            text(
                """
                SELECT status, COALESCE(error_code, '') AS code, count(*) AS syncs,
                       sum(bytes_done) AS bytes, sum(files_done) AS files, sum(retries) AS retries,
                       COALESCE(sum(bytes_per_s), 0) AS rate
                FROM model_versions WHERE deleted_at IS NULL GROUP BY 1, 2
                """
            )
        )
    ).all()
    by_status, by_error = Counter[str](), Counter[str]()
    for row in rows:
        by_status[row.status] += row.syncs
        if row.code:
            by_error[row.code] += row.syncs
    return SyncFigures(
        by_status,
        by_error,
        bytes_done=sum(int(row.bytes) for row in rows),
        files_done=sum(int(row.files) for row in rows),
        retries=sum(int(row.retries) for row in rows),
        bytes_per_s=round(sum(row.rate for row in rows)),
    )


async def _guard(tx: Transaction, held: Lease, version_id: str) -> None:
    """Lock the row under this claim; StaleError when the claim is over."""
    await lease.require(tx, held)
    row = (
        await tx.execute(
            text(
                """
                SELECT 1 FROM model_versions
                WHERE id = :id AND status = 'in_progress' AND claim_epoch = :epoch FOR UPDATE
                """
            ),
            {"id": version_id, "epoch": held.epoch},
        )
    ).one_or_none()
    if row is None:
        raise StaleError(f"the sync of {version_id} is no longer this claim's")
