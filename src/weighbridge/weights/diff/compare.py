"""The tensors in which two versions differ, and by how much; the measuring is bounded in bytes and time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.weights.base import WeightStore
from weighbridge.weights.diff.shelf import Read, TensorsByName, TensorShelf

TENSOR_SUFFIX = ".safetensors"
MEASURED_BYTES_MAX = 4 * 1024**3
MEASURED_S = 15.0


class Change(StrEnum):
    """What became of a tensor; `reshaped` is another shape or dtype."""

    CHANGED = "changed"
    RESHAPED = "reshaped"
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class TensorChange:
    """`relative_change` is None where it was not measured or is not a number."""

    name: str
    change: Change
    relative_change: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """`tensors` counts those of either side; `changes` the largest first. `measured` tensors were read."""

    tensors: int
    changes: Sequence[TensorChange]
    measured: int


class _OutOfTimeError(Exception):
    """The measuring ends, also within a large tensor."""


def tensors_of(store: WeightStore, shelf: TensorShelf, digest: str) -> TensorsByName:
    """A version's tensors with their digests; UnavailableError while they are being hashed."""
    found = {}
    for entry in store.manifest(digest).files:
        if not entry.path.endswith(TENSOR_SUFFIX):
            continue
        placed = shelf.of_blob(entry.digest)
        if placed is None:
            raise UnavailableError(
                "The tensors of these versions are still being hashed; ask again in a moment.",
                code="tensor_digests_pending",
            )
        for tensor in placed:
            found[tensor.spec.name] = (entry.digest, tensor)
    return found


def compare(
    before: TensorsByName, after: TensorsByName, read: Read, now: Callable[[], float]
) -> Difference:
    """Blocking; `read` is a store's `read_blob`.

    The smallest tensors are measured first, so that the bounds leave out few.
    """
    # Only here: numpy is a tenth of what an api takes to start, and few ask for this.
    from weighbridge.weights.diff.change import relative_change  # noqa: PLC0415

    changes = [TensorChange(name, Change.REMOVED) for name in before.keys() - after.keys()]
    changes += [TensorChange(name, Change.ADDED) for name in after.keys() - before.keys()]
    same_form = []
    for name in before.keys() & after.keys():
        old, new = before[name][1], after[name][1]
        if old.spec != new.spec:
            changes.append(TensorChange(name, Change.RESHAPED))
        elif old.digest != new.digest:
            same_form.append(name)
    until, left, measured = now() + MEASURED_S, MEASURED_BYTES_MAX, 0

    def check() -> None:
        if now() >= until:
            raise _OutOfTimeError

    for name in sorted(
        same_form, key=lambda name: (before[name][1].end - before[name][1].begin, name)
    ):
        (old_blob, old), (new_blob, new) = before[name], after[name]
        left -= 2 * (old.end - old.begin)
        if left < 0:
            changes.append(TensorChange(name, Change.CHANGED))
            continue
        try:
            amount = relative_change(read, old_blob, old, new_blob, new, check=check)
        except _OutOfTimeError:
            changes.append(TensorChange(name, Change.CHANGED))
            continue
        except FileNotFoundError as error:
            raise NotFoundError(
                "A version was deleted meanwhile.", code="weights_missing"
            ) from error
        measured += 1
        changes.append(TensorChange(name, Change.CHANGED, amount))
    return Difference(len(before.keys() | after.keys()), sorted(changes, key=_order), measured)


def _order(change: TensorChange) -> tuple[bool, float, str]:
    amount = change.relative_change
    return (amount is None, -(amount or 0.0), change.name)
