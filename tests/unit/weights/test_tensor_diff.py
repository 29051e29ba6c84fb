"""In which tensors two versions differ: hashing in the background, comparing, and the size of a change."""

import io
import math
import threading
from pathlib import Path

import numpy as np
import pytest

from safetensors_files import encode, header_of, safetensors_file
from weighbridge.errors import UnavailableError
from weighbridge.weights.diff.change import decoded
from weighbridge.weights.diff.compare import Change, Difference, compare, tensors_of
from weighbridge.weights.diff.reconciler import IDLE_S, PASSES_BETWEEN_TRIES, TensorDigestReconciler
from weighbridge.weights.diff.shelf import StoppedError, TensorShelf, hash_tensors
from weighbridge.weights.disk.notes import FolderNotes
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.tensors import TensorSpec

A, B = TensorSpec("a", "F32", (4,)), TensorSpec("b", "F32", (2,))


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path)


@pytest.fixture
def shelf(tmp_path: Path) -> TensorShelf:
    return TensorShelf(FolderNotes(tmp_path / "tensors"))


def file_of(a: list[float], b: list[float]) -> bytes:
    return encode(header_of([A, B]), np.array([*a, *b], "<f4").tobytes())


def publish(store: FilesystemStore, **files: bytes) -> str:
    entries = [(f"{name}.safetensors", store.put_bytes(content)) for name, content in files.items()]
    return store.publish(
        Manifest.of(FileEntry(path, size, digest) for path, (digest, size) in entries)
    )


async def hash_all(store: FilesystemStore, shelf: TensorShelf) -> None:
    reconciler = TensorDigestReconciler(store, shelf)
    while await reconciler.reconcile() == 0.0:
        pass
    await reconciler.close()


def difference(store: FilesystemStore, shelf: TensorShelf, before: str, after: str) -> Difference:
    tensors = [tensors_of(store, shelf, digest) for digest in (before, after)]
    return compare(tensors[0], tensors[1], store.read_blob, lambda: 0.0)


async def test_equal_tensors_are_not_read_and_the_others_are_measured(
    store: FilesystemStore, shelf: TensorShelf
) -> None:
    one = publish(store, m=file_of([3, 0, 0, 4], [1, 1]))
    two = publish(store, m=file_of([3, 0, 0, 4.5], [1, 1]))
    await hash_all(store, shelf)
    found = difference(store, shelf, one, two)
    assert (found.tensors, found.measured) == (2, 1)
    (change,) = found.changes
    assert (change.name, change.change) == ("a", Change.CHANGED)
    assert change.relative_change == pytest.approx(0.1)
    assert difference(store, shelf, one, one).changes == []


async def test_every_kind_of_change_is_told(store: FilesystemStore, shelf: TensorShelf) -> None:
    c, d = TensorSpec("c", "F32", (2,)), TensorSpec("a", "F32", (2, 2))
    one = publish(store, m=file_of([1, 2, 3, 4], [0, 0]))
    two = publish(store, m=safetensors_file([d, c]))
    await hash_all(store, shelf)
    kinds = {change.name: change.change for change in difference(store, shelf, one, two).changes}
    assert kinds == {"a": Change.RESHAPED, "b": Change.REMOVED, "c": Change.ADDED}


async def test_tensors_may_move_between_files(store: FilesystemStore, shelf: TensorShelf) -> None:
    data = np.array([1, 2, 3, 4], "<f4").tobytes(), np.array([5, 6], "<f4").tobytes()
    one = publish(store, m=file_of([1, 2, 3, 4], [5, 6]))
    two = publish(store, x=encode(header_of([B]), data[1]), y=encode(header_of([A]), data[0]))
    await hash_all(store, shelf)
    assert difference(store, shelf, one, two).changes == []


async def test_what_came_from_nothing_is_the_largest_change(
    store: FilesystemStore, shelf: TensorShelf
) -> None:
    one = publish(store, m=file_of([1, 0, 0, 0], [0, 0]))
    two = publish(store, m=file_of([1, 1, 0, 0], [0, 1]))
    await hash_all(store, shelf)
    changes = difference(store, shelf, one, two).changes
    assert [(change.name, change.relative_change) for change in changes] == [
        ("b", math.inf),
        ("a", 1.0),
    ]


async def test_time_bounds_the_measuring_but_not_the_answer(
    store: FilesystemStore, shelf: TensorShelf
) -> None:
    one = publish(store, m=file_of([1, 0, 0, 0], [1, 0]))
    two = publish(store, m=file_of([2, 0, 0, 0], [2, 0]))
    await hash_all(store, shelf)
    ticks = iter(range(0, 1000, 10))
    before, after = tensors_of(store, shelf, one), tensors_of(store, shelf, two)
    found = compare(before, after, store.read_blob, lambda: float(next(ticks)))
    assert (len(found.changes), found.measured) == (2, 1)
    assert [change.name for change in found.changes] == ["b", "a"]


async def test_the_time_ends_a_measuring_within_a_large_tensor_too(
    store: FilesystemStore, shelf: TensorShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weighbridge.weights.diff.change.PIECE_BYTES", 4)
    one = publish(store, m=file_of([1, 0, 0, 0], [1, 0]))
    two = publish(store, m=file_of([2, 0, 0, 0], [2, 0]))
    await hash_all(store, shelf)
    before, after = tensors_of(store, shelf, one), tensors_of(store, shelf, two)
    ticks = iter(range(0, 1000, 4))
    found = compare(before, after, store.read_blob, lambda: float(next(ticks)))
    assert [(change.name, change.relative_change) for change in found.changes] == [
        ("b", 1.0),
        ("a", None),
    ]
    assert found.measured == 1


def test_a_version_whose_tensors_are_not_hashed_yet_is_asked_for_later(
    store: FilesystemStore, shelf: TensorShelf
) -> None:
    one = publish(store, m=file_of([1, 2, 3, 4], [5, 6]))
    with pytest.raises(UnavailableError) as refusal:
        tensors_of(store, shelf, one)
    assert refusal.value.code == "tensor_digests_pending"


async def test_a_blob_shared_by_versions_is_hashed_once_and_kept_while_one_lives(
    store: FilesystemStore, shelf: TensorShelf
) -> None:
    common = file_of([1, 2, 3, 4], [5, 6])
    one, two = publish(store, m=common), publish(store, m=common, n=safetensors_file([B]))
    await hash_all(store, shelf)
    assert len(shelf.known()) == 2
    store.delete_version(two)
    await hash_all(store, shelf)
    assert len(shelf.known()) == 1
    assert len(tensors_of(store, shelf, one)) == 2


async def test_a_damaged_note_is_made_again(
    store: FilesystemStore, shelf: TensorShelf, tmp_path: Path
) -> None:
    one = publish(store, m=file_of([1, 2, 3, 4], [5, 6]))
    await hash_all(store, shelf)
    (note,) = (tmp_path / "tensors").glob("*.json")
    note.write_bytes(b"[[")
    with pytest.raises(UnavailableError):
        tensors_of(store, shelf, one)
    await hash_all(store, shelf)
    assert len(tensors_of(store, shelf, one)) == 2


def test_hashing_stops_when_asked() -> None:
    content = file_of([1, 2, 3, 4], [5, 6])
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        hash_tensors(io.BytesIO(content), len(content), stop)


@pytest.mark.parametrize(
    ("dtype", "content", "values"),
    [
        ("BF16", b"\x80\x3f\x00\xc0", [1.0, -2.0]),
        ("F16", b"\x00\x3c", [1.0]),
        ("F8_E4M3", b"\x38\x7e\x01\xb8", [1.0, 448.0, 2.0**-9, -1.0]),
        ("F8_E5M2", b"\x3c\x7b\x01\xbc", [1.0, 57344.0, 2.0**-16, -1.0]),
        ("I8", b"\xff", [-1.0]),
    ],
)
def test_numbers_of_every_format_are_read(dtype: str, content: bytes, values: list[float]) -> None:
    assert decoded(dtype, content).tolist() == values
    assert math.isnan(decoded("F8_E4M3", b"\x7f")[0])
    assert math.isinf(decoded("F8_E5M2", b"\x7c")[0])


async def test_a_file_that_cannot_be_read_is_tried_again_later(
    store: FilesystemStore, shelf: TensorShelf
) -> None:
    content = file_of([1, 2, 3, 4], [5, 6])
    publish(store, m=content)
    digest, _ = store.put_bytes(content)
    aside = store.blob_path(digest).rename(store.blob_path(digest).with_suffix(".aside"))
    reconciler = TensorDigestReconciler(store, shelf)
    assert [await reconciler.reconcile() for _ in range(2)] == [0.0, IDLE_S]
    aside.rename(store.blob_path(digest))
    for _ in range(PASSES_BETWEEN_TRIES):
        await reconciler.reconcile()
    await reconciler.close()
    assert shelf.known() == {digest}
