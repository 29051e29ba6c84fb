"""The management route that says in which tensors two versions differ."""

import asyncio
import math
from functools import partial
from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import Field

from weighbridge.accounts.model import Org
from weighbridge.api.access import BEARER, ManagementRoute
from weighbridge.api.answers import Answer, version_name
from weighbridge.api.deps import Control, Management, Parts
from weighbridge.api.versions import VERSIONS, own_org
from weighbridge.errors import ConflictError
from weighbridge.registry import service
from weighbridge.registry.model import ModelVersion
from weighbridge.registry.names import parse_ref
from weighbridge.weights.diff.compare import Difference, TensorChange, compare, tensors_of
from weighbridge.weights.diff.shelf import TensorShelf

router = APIRouter(
    prefix="/management/v1/orgs/{org_name}",
    tags=["models"],
    route_class=ManagementRoute,
    dependencies=[BEARER],
)

CHANGES_MAX = 100


class ChangedTensor(Answer):
    name: str
    change: str = Field(description="changed, reshaped, added or removed.")
    relative_change: float | None = Field(
        default=None,
        description="Length of the difference by the length of the earlier tensor; absent where not measured.",
    )

    @classmethod
    def of(cls, change: TensorChange) -> Self:
        amount = change.relative_change
        finite = None if amount is None or not math.isfinite(amount) else amount
        return cls(name=change.name, change=change.change.value, relative_change=finite)


class VersionsDiff(Answer):
    """`differing` of `tensors` differ; `changes` are the largest of them, at most 100."""

    from_version: str
    to_version: str
    tensors: int
    differing: int
    measured: int
    summary: str
    changes: list[ChangedTensor]

    @classmethod
    def of(cls, names: tuple[str, str], difference: Difference) -> Self:
        return cls(
            from_version=names[0],
            to_version=names[1],
            tensors=difference.tensors,
            differing=len(difference.changes),
            measured=difference.measured,
            summary=summary(difference),
            changes=[ChangedTensor.of(change) for change in difference.changes[:CHANGES_MAX]],
        )


def summary(difference: Difference) -> str:
    """As in `41 of 291 tensors differ, largest change in model.layers.3.mlp.up_proj.weight (0.8 %)`."""
    text = f"{len(difference.changes)} of {difference.tensors} tensors differ"
    largest = next(iter(difference.changes), None)
    if largest is None or largest.relative_change is None:
        return text
    amount = f"{largest.relative_change * 100:.3g} %"
    if math.isinf(largest.relative_change):
        amount = "it was zero"
    return f"{text}, largest change in {largest.name} ({amount})"


@router.get(f"{VERSIONS}:diff", operation_id="diff_versions")
async def diff(
    org_name: str,
    model_arch_id: str,
    caller: Management,
    control: Control,
    *,
    # Empty rather than required: whose org it is comes before what is asked (T2).
    from_: Annotated[str, Query(alias="from")] = "",
    to: str = "",
) -> VersionsDiff:
    """In which tensors one version differs from another, and by how much."""
    org = own_org(caller, org_name)
    before = await _synced(control, org, model_arch_id, from_)
    after = await _synced(control, org, model_arch_id, to)
    with control.diff_calls.turn(org.id, control.clock.monotonic()):
        difference = await asyncio.to_thread(partial(_difference, control, before, after))
    return VersionsDiff.of((version_name(before, org), version_name(after, org)), difference)


async def _synced(control: Parts, org: Org, arch_id: str, text: str) -> ModelVersion:
    ref = parse_ref(text)
    async with control.database.begin() as tx:
        version = await service.resolve(tx, org.id, arch_id, ref)
    if version.manifest_digest is None or not version.succeeded:
        raise ConflictError(
            f"Version {version.number} of {arch_id} is {version.status.value}: its weights are not here.",
            code="model_version_not_synced",
        )
    return version


def _difference(control: Parts, before: ModelVersion, after: ModelVersion) -> Difference:
    shelf = TensorShelf(control.store.tensor_notes)
    tensors = [
        tensors_of(control.store, shelf, version.manifest_digest or "")
        for version in (before, after)
    ]
    return compare(tensors[0], tensors[1], control.store.read_blob, control.clock.monotonic)
