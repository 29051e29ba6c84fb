"""What callers may ask of model architectures, model versions and aliases."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from weighbridge.accounts.model import Org
from weighbridge.accounts.names import quoted
from weighbridge.engines.base import EngineSettings
from weighbridge.errors import ConflictError, NotFoundError
from weighbridge.registry import alias_store, architecture_store, store
from weighbridge.registry.model import (
    AliasCause,
    AliasChange,
    Architecture,
    ModelVersion,
    SyncStatus,
)
from weighbridge.registry.names import (
    WeightUri,
    check_aliases,
    check_arch_id,
    check_suffix,
    is_arch_id,
)
from weighbridge.storage.database import Transaction
from weighbridge.weights.tensors import TensorSpec

FINGERPRINT_CHARS = 20
USES_SHOWN_MAX = 5


def fingerprint(digest: str, suffix: str | None) -> str:
    """The `system_fingerprint` of what a version answers: tells its bytes apart, ends in its suffix."""
    base = f"fp_{digest[:FINGERPRINT_CHARS]}"
    return base if suffix is None else f"{base}-{suffix}"


async def upload(  # noqa: PLR0917 - the order of the public call's own members
    tx: Transaction,
    org: Org,
    arch_id: str,
    weight_uri: str,
    aliases: Sequence[str],
    suffix: str | None,
    *,
    version_id: str,
    now: datetime,
    key_id: str | None = None,
) -> ModelVersion:
    """A new queued version; all or nothing: a taken alias leaves no version behind.

    `key_id`, here and below, is the key that asks: it stands in the history of aliases.
    """
    WeightUri.parse(weight_uri)
    names = check_aliases(aliases)
    if suffix is not None:
        check_suffix(suffix)
    await visible_architecture(tx, org.id, arch_id)
    number = await store.next_number(tx, org.id, arch_id)
    version = ModelVersion(
        id=version_id,
        org_id=org.id,
        arch_id=arch_id,
        number=number,
        weight_uri=weight_uri,
        fingerprint_suffix=suffix,
        aliases=names,
        status=SyncStatus.QUEUED,
        step="",
        error_code=None,
        error_message=None,
        manifest_digest=None,
        bytes_total=0,
        bytes_done=0,
        files_total=0,
        files_done=0,
        created_at=now,
        updated_at=now,
        revision=1,
    )
    await _refuse_taken(tx, version, names)
    await store.insert_version(tx, version)
    before = replace(version, aliases=())
    await _give_aliases(tx, before, names, AliasCause.UPLOAD, key_id=key_id, now=now)
    return version


async def _give_aliases(
    tx: Transaction,
    version: ModelVersion,
    names: Sequence[str],
    cause: AliasCause,
    *,
    key_id: str | None,
    now: datetime,
) -> None:
    """Replace what `version` holds by `names`, and write down each alias that it lost or got."""
    lost = [name for name in version.aliases if name not in names]
    got = [name for name in names if name not in version.aliases]
    number = version.number
    changes = [
        *(AliasChange(name, number, None, cause, key_id, now) for name in lost),
        *(AliasChange(name, None, number, cause, key_id, now) for name in got),
    ]
    await alias_store.replace_aliases(tx, version, names)
    await alias_store.record(tx, version.org_id, version.arch_id, changes)


async def visible_architecture(tx: Transaction, org_id: str, arch_id: str) -> Architecture:
    """The architecture, if the org may upload versions of it; it stays registered until commit."""
    architecture_ = (
        await architecture_store.find(tx, arch_id, lock=True) if is_arch_id(arch_id) else None
    )
    if architecture_ is None or (architecture_.org_ids and org_id not in architecture_.org_ids):
        raise _architecture_not_found(arch_id)
    return architecture_


def _architecture_not_found(arch_id: str) -> NotFoundError:
    return NotFoundError(
        f"Model architecture {quoted(arch_id)} does not exist or you do not have access to it.",
        code="model_architecture_not_found",
        param="model_arch_id",
    )


async def _refuse_taken(tx: Transaction, version: ModelVersion, names: Sequence[str]) -> None:
    taken = await alias_store.holder(tx, version.org_id, version.arch_id, names, but=version.id)
    if taken is not None:
        alias, holder = taken
        raise ConflictError(
            f"Alias '{alias}' is held by version {holder} of {version.arch_id}; "
            "take it off that version first, or move it with :move.",
            code="alias_taken",
            param="version_aliases",
        )


async def resolve(
    tx: Transaction, org_id: str, arch_id: str, ref: int | str, *, lock: bool = False
) -> ModelVersion:
    """The version behind a number or alias; deleted ones and other orgs' are absent (T2, V7)."""
    version = await store.find(tx, org_id, arch_id, ref, lock=lock) if is_arch_id(arch_id) else None
    if version is None:
        raise NotFoundError(
            f"Version {quoted(str(ref))} of {quoted(arch_id)} does not exist "
            "or you do not have access to it.",
            code="model_version_not_found",
            param="version_id",
        )
    return version


async def versions(tx: Transaction, org_id: str, arch_id: str) -> Sequence[ModelVersion]:
    """Ascending by number. NotFoundError for an architecture the org neither may use nor has versions of."""
    found = await store.versions(tx, org_id, arch_id) if is_arch_id(arch_id) else []
    if not found:
        await visible_architecture(tx, org_id, arch_id)
    return found


async def set_aliases(
    tx: Transaction,
    org_id: str,
    arch_id: str,
    ref: int | str,
    aliases: Sequence[str],
    *,
    now: datetime,
    key_id: str | None = None,
) -> ModelVersion:
    """Replace a version's whole set of aliases; nothing is taken from another version (V5)."""
    names = check_aliases(aliases)
    if is_arch_id(arch_id):
        await store.lock_counter(tx, org_id, arch_id)
    version = await resolve(tx, org_id, arch_id, ref, lock=True)
    await _refuse_taken(tx, version, names)
    await _give_aliases(tx, version, names, AliasCause.REPLACE, key_id=key_id, now=now)
    return replace(version, aliases=names)


async def delete(
    tx: Transaction,
    org_id: str,
    arch_id: str,
    ref: int | str,
    *,
    now: datetime,
    key_id: str | None = None,
) -> ModelVersion:
    """Take a version out of sight, for good; ConflictError names who uses it (V6)."""
    if is_arch_id(arch_id):
        # Endpoints before versions: a deploy locks in this order too.
        await store.lock_endpoints(tx, org_id, arch_id)
        await store.lock_counter(tx, org_id, arch_id)
    version = await resolve(tx, org_id, arch_id, ref, lock=True)
    uses = await store.uses(tx, version.id)
    if uses:
        more = len(uses) - USES_SHOWN_MAX
        listed = "; ".join(uses[:USES_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
        raise ConflictError(
            f"Version {version.number} of {arch_id} is in use: {listed}. "
            "Deploy another version there first.",
            code="model_version_in_use",
            param="version_id",
        )
    await _give_aliases(tx, version, (), AliasCause.DELETE, key_id=key_id, now=now)
    await store.bury(tx, version, now)
    return version


async def architecture(tx: Transaction, arch_id: str, *, lock: bool = False) -> Architecture:
    """`lock` keeps it registered until commit."""
    found = await architecture_store.find(tx, arch_id, lock=lock) if is_arch_id(arch_id) else None
    if found is None:
        raise _architecture_not_found(arch_id)
    return found


async def architectures(tx: Transaction, org_id: str | None) -> Sequence[Architecture]:
    """By id; those an org may use, or all."""
    return await architecture_store.architectures_of(tx, org_id)


async def register(
    tx: Transaction,
    arch_id: str,
    *,
    source_uri: str,
    base_digest: str,
    tensors: Sequence[TensorSpec],
    engine: EngineSettings,
    org_ids: frozenset[str],
    now: datetime,
) -> Architecture:
    """Register what weights must fit. The same content again is fine and sets source and orgs anew.

    ConflictError for other content under a registered id: versions were verified against the old one.
    """
    wanted = Architecture(
        id=check_arch_id(arch_id),
        source_uri=source_uri,
        base_digest=base_digest,
        tensors=tuple(sorted(tensors)),
        engine=engine,
        org_ids=org_ids,
        created_at=now,
        updated_at=now,
    )
    await architecture_store.lock(tx, arch_id)
    present = await architecture_store.find(tx, arch_id)
    if present is not None:
        same = replace(wanted, created_at=present.created_at, updated_at=present.updated_at)
        if same == present:
            return present
        if replace(same, source_uri=present.source_uri, org_ids=present.org_ids) != present:
            raise ConflictError(
                f"Model architecture {arch_id} is registered with other files, tensors or engine settings; "
                "register the new content under a new id.",
                code="model_architecture_exists",
                param="model_arch_id",
            )
        wanted = replace(wanted, created_at=present.created_at)
    await architecture_store.save(tx, wanted)
    return wanted


async def delete_architecture(tx: Transaction, arch_id: str, *, now: datetime) -> Architecture:
    """ConflictError while versions or endpoints use it."""
    if is_arch_id(arch_id):
        await architecture_store.lock(tx, arch_id)
    found = await architecture(tx, arch_id)
    endpoints = await architecture_store.endpoints_of(tx, arch_id)
    if endpoints:
        raise ConflictError(
            f"Model architecture {arch_id} is in use by endpoint {endpoints[0]}; delete its endpoints first.",
            code="model_architecture_in_use",
            param="model_arch_id",
        )
    if await store.has_versions(tx, arch_id):
        raise ConflictError(
            f"Model architecture {arch_id} has model versions; delete them first.",
            code="model_architecture_in_use",
            param="model_arch_id",
        )
    await architecture_store.bury(tx, arch_id, now)
    return found
