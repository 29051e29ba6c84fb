"""SQL of aliases and of their history."""

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from weighbridge.registry.model import AliasCause, AliasChange, ModelVersion
from weighbridge.storage.database import Transaction
from weighbridge.storage.tables import alias_history, aliases, model_versions


async def replace_aliases(tx: Transaction, version: ModelVersion, names: Sequence[str]) -> None:
    await tx.execute(delete(aliases).where(aliases.c.version_id == version.id))
    if names:
        rows = [
            {
                "org_id": version.org_id,
                "arch_id": version.arch_id,
                "alias": name,
                "version_id": version.id,
                "position": position,
            }
            for position, name in enumerate(names)
        ]
        await tx.execute(insert(aliases), rows)


async def holder(
    tx: Transaction, org_id: str, arch_id: str, names: Sequence[str], *, but: str
) -> tuple[str, int] | None:
    """The first of `names` that a version other than `but` holds, with that version's number."""
    query = (
        select(aliases.c.alias, model_versions.c.number)
        .join(model_versions, model_versions.c.id == aliases.c.version_id)
        .where(
            aliases.c.org_id == org_id,
            aliases.c.arch_id == arch_id,
            aliases.c.alias.in_(names),
            aliases.c.version_id != but,
        )
        .order_by(aliases.c.alias)
        .limit(1)
    )
    row = (await tx.execute(query)).one_or_none()
    return None if row is None else (row.alias, row.number)


async def record(
    tx: Transaction, org_id: str, arch_id: str, changes: Sequence[AliasChange]
) -> None:
    """Write changes down in their order; the caller holds the counter of org and architecture."""
    if not changes:
        return
    of_both = (alias_history.c.org_id == org_id, alias_history.c.arch_id == arch_id)
    query = select(func.coalesce(func.max(alias_history.c.sequence), 0)).where(*of_both)
    last = int((await tx.execute(query)).scalar_one())
    rows = [
        {
            "org_id": org_id,
            "arch_id": arch_id,
            "sequence": sequence,
            "alias": change.alias,
            "from_number": change.from_number,
            "to_number": change.to_number,
            "cause": change.cause.value,
            "key_id": change.key_id,
            "changed_at": change.changed_at,
        }
        for sequence, change in enumerate(changes, last + 1)
    ]
    await tx.execute(insert(alias_history), rows)


async def history(
    tx: Transaction, org_id: str, arch_id: str, alias: str, *, before: int | None, limit: int
) -> list[AliasChange]:
    """Changes of one alias, newest first; with `before` only those of a lower sequence."""
    query = (
        select(alias_history)
        .where(
            alias_history.c.org_id == org_id,
            alias_history.c.arch_id == arch_id,
            alias_history.c.alias == alias,
        )
        .order_by(alias_history.c.sequence.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(alias_history.c.sequence < before)
    return [
        AliasChange(
            alias=row.alias,
            from_number=row.from_number,
            to_number=row.to_number,
            cause=AliasCause(row.cause),
            key_id=row.key_id,
            changed_at=row.changed_at,
            sequence=row.sequence,
        )
        for row in await tx.execute(query)
    ]
