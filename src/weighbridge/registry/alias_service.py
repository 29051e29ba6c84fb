"""What callers may ask of a single alias: move it from one version to another, and see where it pointed."""

from collections.abc import Sequence
from datetime import datetime

from weighbridge.errors import ConflictError, InvalidError
from weighbridge.registry import alias_store, service, store
from weighbridge.registry.model import AliasCause, AliasChange, ModelVersion
from weighbridge.registry.names import ALIASES_MAX, check_alias, is_arch_id
from weighbridge.storage.database import Transaction


async def move(
    tx: Transaction,
    org_id: str,
    arch_id: str,
    alias: str,
    to: int | str,
    *,
    expected: int | str | None,
    now: datetime,
    key_id: str | None = None,
) -> tuple[ModelVersion | None, ModelVersion]:
    """Point an alias at version `to`, if `expected` holds it now (None: nobody); the holders before and after.

    The caller names the holder, so nothing is taken unawares (V5). ConflictError says who holds it when that
    is another version. Every change of an alias holds the counter, so nothing moves in between.
    """
    check_alias(alias, param="alias")
    if is_arch_id(arch_id):
        await store.lock_counter(tx, org_id, arch_id)
    target = await service.resolve(tx, org_id, arch_id, to)
    wanted = None if expected is None else await service.resolve(tx, org_id, arch_id, expected)
    holder = await store.find(tx, org_id, arch_id, alias)
    if (None if holder is None else holder.id) != (None if wanted is None else wanted.id):
        held = "no version" if holder is None else f"version {holder.number}"
        named = "no version" if wanted is None else f"version {wanted.number}"
        raise ConflictError(
            f"Alias '{alias}' of {arch_id} is held by {held}, not by {named} as expected; "
            "look at what changed, then move it from there.",
            code="alias_moved",
            param="expected",
        )
    if holder is not None and holder.id == target.id:
        return holder, target
    if len(target.aliases) >= ALIASES_MAX:
        raise InvalidError(
            f"Version {target.number} of {arch_id} has {ALIASES_MAX} aliases, the most a version can have; "
            "take one off it first.",
            code="too_many_aliases",
            param="to",
        )
    if holder is not None:
        rest = [name for name in holder.aliases if name != alias]
        await alias_store.replace_aliases(tx, holder, rest)
    await alias_store.replace_aliases(tx, target, [*target.aliases, alias])
    change = AliasChange(
        alias,
        None if holder is None else holder.number,
        target.number,
        AliasCause.MOVE,
        key_id,
        now,
    )
    await alias_store.record(tx, org_id, arch_id, [change])
    return holder, target


async def history(
    tx: Transaction, org_id: str, arch_id: str, alias: str, *, before: int | None, limit: int
) -> Sequence[AliasChange]:
    """Where an alias pointed, newest change first; versions that are deleted by now keep their numbers in it.

    `before` is the sequence of the last change of the page before. NotFoundError for an architecture the org
    neither may use nor has versions of; an alias that never was has no changes.
    """
    check_alias(alias, param="alias")
    found = (
        await alias_store.history(tx, org_id, arch_id, alias, before=before, limit=limit)
        if is_arch_id(arch_id)
        else []
    )
    if not found:
        await service.versions(tx, org_id, arch_id)
    return found
