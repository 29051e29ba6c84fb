"""A version is given to an engine once this node knows each byte of it: by its own write or by hashing (W11)."""

import time
from pathlib import Path
from threading import Event

import pytest

from weighbridge.errors import NotFoundError, UnavailableError
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import FileEntry, Manifest
from weighbridge.weights.node import versions as node_versions
from weighbridge.weights.node.marks import LoadMarks
from weighbridge.weights.node.versions import NodeVersions

LIMIT_S = 20.0


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of what was hashed before a load."""
    found: list[str] = []
    real = node_versions.hash_at_rate

    def note(*arguments: object) -> str:
        found.append(real(*arguments))
        return found[-1]

    monkeypatch.setattr(node_versions, "hash_at_rate", note)
    return found


def published(store: FilesystemStore, content: bytes = b"weights") -> Manifest:
    digest, size = store.put_bytes(content)
    manifest = Manifest((FileEntry("model.safetensors", size, digest),))
    store.publish(manifest)
    return manifest


def load(versions: NodeVersions, manifest: Manifest) -> Path:
    limit = time.monotonic() + LIMIT_S
    while True:
        try:
            return versions.version_dir(manifest.digest)
        except UnavailableError:
            assert time.monotonic() < limit


def test_what_the_node_has_written_is_not_hashed_again(tmp_path: Path, hashed: list[str]) -> None:
    marks = LoadMarks(tmp_path / "marks")
    store = FilesystemStore(tmp_path / "store", marks)
    manifest = published(store)
    versions = NodeVersions(store, marks)
    assert (load(versions, manifest) / "model.safetensors").read_bytes() == b"weights"
    assert hashed == []
    versions.close()


def test_what_another_node_has_written_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    manifest = published(FilesystemStore(tmp_path / "store"))
    marks = LoadMarks(tmp_path / "marks")
    versions = NodeVersions(FilesystemStore(tmp_path / "store", marks), marks)
    for _ in range(2):
        load(versions, manifest)
    assert hashed == [manifest.files[0].digest]
    versions.close()


@pytest.mark.parametrize("writer_is_here", [True, False])
def test_a_damaged_blob_is_never_loaded(
    writer_is_here: bool, tmp_path: Path, hashed: list[str]
) -> None:
    marks = LoadMarks(tmp_path / "marks")
    store = FilesystemStore(tmp_path / "store", marks)
    manifest = published(store if writer_is_here else FilesystemStore(tmp_path / "store"))
    blob = store.blob_path(manifest.files[0].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"w3ights")
    versions = NodeVersions(store, marks)
    with pytest.raises(NotFoundError) as refusal:
        load(versions, manifest)
    assert refusal.value.code == "weights_damaged"
    assert [damage.digest for damage in store.damages()] == [manifest.files[0].digest]
    assert store.published() == set()
    assert published(store) == manifest
    assert (load(versions, manifest) / "model.safetensors").read_bytes() == b"weights"
    versions.close()


def test_a_long_hashing_is_waited_for_by_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = published(FilesystemStore(tmp_path / "store"))
    marks = LoadMarks(tmp_path / "marks")
    versions = NodeVersions(FilesystemStore(tmp_path / "store", marks), marks)
    may_go_on = Event()
    real = node_versions.hash_at_rate

    def slow(*arguments: object) -> str:
        assert may_go_on.wait(LIMIT_S)
        return real(*arguments)

    monkeypatch.setattr(node_versions, "hash_at_rate", slow)
    with pytest.raises(UnavailableError) as refusal:
        versions.version_dir(manifest.digest)
    assert refusal.value.code == "weights_on_their_way"
    may_go_on.set()
    assert load(versions, manifest).is_dir()
    versions.close()


def test_what_is_not_published_is_not_given(tmp_path: Path) -> None:
    marks = LoadMarks(tmp_path / "marks")
    versions = NodeVersions(FilesystemStore(tmp_path / "store", marks), marks)
    with pytest.raises(NotFoundError) as refusal:
        versions.version_dir("0" * 64)
    assert refusal.value.code == "weights_missing"
    versions.close()
