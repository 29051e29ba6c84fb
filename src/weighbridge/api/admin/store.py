"""Admin routes of the weight store: what it holds, its verification and its collection."""

from pydantic import Field

from weighbridge.api.admin.router import Body, admin_router
from weighbridge.api.answers import Answer
from weighbridge.api.deps import Control, Parts
from weighbridge.ingest import store as syncs
from weighbridge.ingest.upkeep import StoreUpkeep, Usage, upkeep_of

router = admin_router()


class DamagedBlob(Answer):
    digest: str
    found_digest: str = Field(description="What its bytes hash to, or `unreadable`.")
    versions: list[str] = Field(
        description="`org/architecture/number` of each version that was withdrawn for it."
    )
    found: int


class StoreAnswer(Answer):
    free_bytes: int
    total_bytes: int
    blobs: int
    blob_bytes: int
    versions: int = Field(description="Published, those of base models included.")
    unused_blobs: int = Field(description="What a collection would remove now.")
    unused_bytes: int
    due_blobs: int = Field(description="Still to be hashed again.")
    due_bytes: int
    damaged: list[DamagedBlob]


class CollectRequest(Body):
    dry_run: bool = False


class Collected(Answer):
    dry_run: bool
    blobs: int
    size_bytes: int


@router.get("/store", operation_id="get_store")
async def get(control: Control) -> StoreAnswer:
    """Show what the weight store holds, what is due to be verified, and what is damaged."""
    return await _answer(control, await _upkeep(control).usage())


@router.post("/store:verify", operation_id="verify_store")
async def verify(control: Control) -> StoreAnswer:
    """Make every blob due: the server hashes them again in the background, at its bounded rate."""
    control.store.verifications.ask()
    control.wake("ingest")
    return await _answer(control, await _upkeep(control).usage())


@router.post("/store:collect", operation_id="collect_store")
async def collect(body: CollectRequest, control: Control) -> Collected:
    """Remove the blobs that no version names, no sync counts on and nothing touched for an hour."""
    upkeep = _upkeep(control)
    usage = await upkeep.usage()
    if body.dry_run:
        return Collected(dry_run=True, blobs=usage.unused_blobs, size_bytes=usage.unused_bytes)
    removed = await upkeep.collect()
    after = await upkeep.usage()
    return Collected(
        dry_run=False, blobs=removed, size_bytes=max(0, usage.blob_bytes - after.blob_bytes)
    )


def _upkeep(control: Parts) -> StoreUpkeep:
    settings = control.settings
    return upkeep_of(
        control.database,
        control.store,
        verify_days=settings.store_verify_days,
        bytes_per_s=settings.store_verify_bytes_per_s,
    )


async def _answer(control: Parts, usage: Usage) -> StoreAnswer:
    digests = {version for damage in usage.damages for version in damage.versions}
    async with control.database.begin() as tx:
        names = await syncs.version_names(tx, sorted(digests))
    return StoreAnswer(
        free_bytes=usage.free_bytes,
        total_bytes=usage.total_bytes,
        blobs=usage.blobs,
        blob_bytes=usage.blob_bytes,
        versions=usage.versions,
        unused_blobs=usage.unused_blobs,
        unused_bytes=usage.unused_bytes,
        due_blobs=usage.due_blobs,
        due_bytes=usage.due_bytes,
        damaged=[
            DamagedBlob(
                digest=damage.digest,
                found_digest=damage.found_digest,
                versions=sorted(
                    name for version in damage.versions for name in names.get(version, ())
                ),
                found=int(damage.at_s),
            )
            for damage in usage.damages
        ],
    )
