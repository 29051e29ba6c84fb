"""The weight store in a bucket: the same promises as on a file system, kept with what an object store offers.

`blobs/<aa>/<digest>` is whole as soon as it is there, for S3 shows no half-written object; what is sent is
hashed on the way. `manifests/<digest>.json` comes last and says that the version is there (W2).
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from weighbridge.errors import NotFoundError
from weighbridge.weights.base import STAGING_GRACE_S, MissingBlobError, not_published
from weighbridge.weights.bucket.blobs import BucketBlobs, manifest_key
from weighbridge.weights.bucket.collection import BucketCollector, blob_key
from weighbridge.weights.bucket.notes import BucketNotes
from weighbridge.weights.bucket.objects import Body, Bucket, BucketError, StoredObject
from weighbridge.weights.bucket.transfer import send_blob
from weighbridge.weights.digest import content_digest
from weighbridge.weights.disk.collection import Blob, Leased, nothing_leased
from weighbridge.weights.disk.locks import Locks
from weighbridge.weights.disk.quarantine import Damage
from weighbridge.weights.disk.verification import Verifications
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.manifest import Manifest, is_digest
from weighbridge.weights.node.cache import NodeCache
from weighbridge.weights.node.fetch import WrongBytesError

log = structlog.get_logger()

OBJECTS_PARALLEL = 16
FILLS_MAX = 3
"""Tries to present a version whose blobs are dropped meanwhile."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class BucketStore:
    """`cache.local` is this node's part: staging, locks, and the blobs and versions that were brought here."""

    keeps_here = False

    def __init__(self, bucket: Bucket, cache: NodeCache, name: str) -> None:
        self._bucket = bucket
        self._blobs = BucketBlobs(bucket)
        self._cache = cache
        self._local: FilesystemStore = cache.local
        self._collector = BucketCollector(bucket, name, self._named)
        self._entries: dict[str, frozenset[str]] = {}
        self.tensor_notes = BucketNotes(bucket, "tensors/")

    @property
    def locks(self) -> Locks:
        return self._local.locks

    @property
    def verifications(self) -> Verifications:
        return self._local.verifications

    def has_blob(self, digest: str) -> bool:
        return self.blob_size(digest) is not None

    def blob_size(self, digest: str) -> int | None:
        """None too for one that is being collected or is damaged: then it is to be written again."""
        if self._collector.condemned(digest) or self._is_damaged(digest):
            return None
        found = self._bucket.head(blob_key(digest))
        return None if found is None else found.size_bytes

    def open_blob(self, digest: str) -> Body:
        return self._bucket.open(blob_key(digest))

    def read_blob(self, digest: str, start: int, end: int) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return self._local.read_blob(digest, start, end)
        with self._bucket.open(blob_key(digest), start, end) as body:
            return body.read(end - start)

    def blob_path(self, digest: str) -> Path:
        return self._local.blob_path(digest)

    def put_bytes(self, content: bytes) -> tuple[str, int]:
        digest = content_digest(content)
        self._collector.wait_until_spared(digest)
        self._bucket.put(blob_key(digest), content)  # always: it makes the blob young again
        self._mend(digest)
        self._local.put_bytes(content)
        return digest, len(content)

    def staging_file(self, name: str) -> Path:
        return self._local.staging_file(name)

    def publish_blobs(self, staged: Mapping[Path, str]) -> None:
        _each(lambda pair: self._publish_blob(*pair), list(staged.items()))
        self._local.publish_blobs(staged)

    def publish(self, manifest: Manifest) -> str:
        sizes = {entry.digest: entry.size_bytes for entry in manifest.files}
        for (digest, size), found in zip(
            sizes.items(), _each(self.blob_size, list(sizes)), strict=True
        ):
            if found != size:
                raise MissingBlobError(digest)
        self._bucket.put(manifest_key(manifest.digest), manifest.encode())
        self._bucket.delete([_withdrawn_key(manifest.digest)])
        self._restore_withdrawn()
        return manifest.digest

    def manifest(self, digest: str) -> Manifest:
        return self._blobs.manifest(digest)

    def version_dir(self, digest: str) -> Path:
        """While the bucket cannot be reached, what was brought here before is used as it is."""
        try:
            manifest = self.manifest(digest)
        except BucketError:
            with contextlib.suppress(NotFoundError):
                return self._held(digest)
            raise
        except NotFoundError:
            self._local.delete_version(digest)
            raise
        for _ in range(FILLS_MAX):
            with contextlib.suppress(NotFoundError):
                return self._held(digest)
            try:
                self._cache.fill(manifest, self._blobs)
            except MissingBlobError as error:
                if not self.has_blob(error.digest):
                    raise
            except WrongBytesError as error:
                self.take_away(error.digest, error.found)
                raise not_published(digest) from error
        raise not_published(digest)

    def make_room(self, needed_bytes: int) -> None:
        # What is still missing afterwards, whoever reserves will say.
        with contextlib.suppress(OSError):
            self._cache.make_room(needed_bytes)

    def damaged_here(self, digest: str, found_digest: str) -> bool:
        log.warning("cache.damaged", digest=digest, found_digest=found_digest)
        self._cache.drop_blob(digest)
        return True

    def take_away(self, digest: str, found_digest: str) -> Damage:
        """The object stays where it is, and no longer counts as the blob until it is written again."""
        naming = {v for v in self.published() if digest in self._digests(manifest_key(v))}
        known = next((d for d in self.damages() if d.digest == digest), None)
        versions = sorted(naming | set(() if known is None else known.versions))
        damage = Damage(digest, found_digest, versions, time.time())
        self._bucket.put(_damage_key(digest), msgspec.json.encode(damage))
        for version in sorted(naming):
            content = self._bucket.get(manifest_key(version))
            if content is not None:
                self._bucket.put(_withdrawn_key(version), content)
                self._bucket.delete([manifest_key(version)])
        self._cache.drop_blob(digest)
        return damage

    def damages(self) -> list[Damage]:
        found = [self._bucket.get(item.key) for item in self._bucket.list("quarantine/blobs/")]
        known = [msgspec.json.decode(text, type=Damage) for text in found if text is not None]
        return sorted(known, key=lambda damage: damage.at_s)

    def withdrawn(self) -> set[str]:
        return self._stems("quarantine/manifests/")

    def published(self) -> set[str]:
        return self._stems("manifests/")

    def age_s(self, digest: str) -> float:
        found = self._bucket.head(manifest_key(digest))
        return 0.0 if found is None else found.age_s

    def delete_version(self, digest: str, *, leased: Leased = nothing_leased) -> None:
        """Its blobs go when they are an hour old: a younger one may just have been written for another version."""
        digests = self._digests(manifest_key(digest)) | self._digests(_withdrawn_key(digest))
        self._bucket.delete([manifest_key(digest), _withdrawn_key(digest)])
        self._local.delete_version(digest)
        kept = self._named()
        heads = _each(self._bucket.head, [blob_key(d) for d in sorted(digests - kept)])
        old = [_blob(head) for head in heads if head and head.age_s > STAGING_GRACE_S]
        self._collector.collect(old, leased)

    def collect_blobs(
        self, *, age_min_s: float = STAGING_GRACE_S, leased: Leased = nothing_leased
    ) -> int:
        self._collector.sweep()
        for key, upload in self._bucket.unfinished_uploads(24 * STAGING_GRACE_S):
            self._bucket.abandon_upload(key, upload)
        for gone in self._local.published() - self.published():
            self._local.delete_version(gone)
        unused = self.unused_blobs(age_min_s=age_min_s, leased=leased)
        return self._collector.collect(unused, leased)

    def unused_blobs(
        self, *, age_min_s: float = STAGING_GRACE_S, leased: Leased = nothing_leased
    ) -> list[Blob]:
        kept = set(leased()) | self._named()
        old = (item for item in self._bucket.list("blobs/") if item.age_s >= age_min_s)
        return [blob for blob in map(_blob, old) if blob.digest not in kept]

    def blobs(self) -> Iterator[Blob]:
        return map(_blob, self._bucket.list("blobs/"))

    def free_bytes(self) -> int:
        return self._local.free_bytes()

    def total_bytes(self) -> int:
        return self._local.total_bytes()

    def staging_owners(self) -> set[str]:
        return self._local.staging_owners()

    def sweep_staging(self, live: set[str], *, among: Collection[str] | None = None) -> None:
        self._local.sweep_staging(live, among=among)

    def remove_staging(self, owner: str) -> None:
        self._local.remove_staging(owner)

    def close(self) -> None:
        self._cache.stop()

    def _publish_blob(self, staged: Path, digest: str) -> None:
        if not staged.exists():
            if not self.has_blob(digest):
                raise FileNotFoundError(staged)
            return
        self._collector.wait_until_spared(digest)
        if self.blob_size(digest) != staged.stat().st_size:  # W7
            send_blob(self._bucket, blob_key(digest), staged, digest)
            self._mend(digest)

    def _held(self, digest: str) -> Path:
        path = self._local.version_dir(digest)
        self._cache.hold(digest)
        return path

    def _is_damaged(self, digest: str) -> bool:
        return self._bucket.head(_damage_key(digest)) is not None

    def _mend(self, digest: str) -> None:
        """The blob was written anew, so it is whole."""
        self._bucket.delete([_damage_key(digest)])

    def _restore_withdrawn(self) -> None:
        """A blob that came back makes every version whole that was withdrawn for it alone."""
        for version in self.withdrawn():
            content = self._bucket.get(_withdrawn_key(version))
            if content is not None and all(map(self.has_blob, _named_in(content))):
                self._bucket.put(manifest_key(version), content)
                self._bucket.delete([_withdrawn_key(version)])

    def _named(self) -> set[str]:
        keys = [manifest_key(version) for version in self.published()]
        keys += [_withdrawn_key(version) for version in self.withdrawn()]
        self._entries = {key: known for key, known in self._entries.items() if key in set(keys)}
        return {digest for found in _each(self._digests, keys) for digest in found}

    def _digests(self, manifest_key: str) -> frozenset[str]:
        """What a manifest names; it never changes, so it is read once."""
        if manifest_key not in self._entries:
            content = self._bucket.get(manifest_key)
            if content is None:
                return frozenset()
            self._entries[manifest_key] = _named_in(content)
        return self._entries[manifest_key]

    def _stems(self, prefix: str) -> set[str]:
        names = (Path(item.key).stem for item in self._bucket.list(prefix))
        return {name for name in names if is_digest(name)}


def _withdrawn_key(digest: str) -> str:
    return f"quarantine/manifests/{digest}.json"


def _damage_key(digest: str) -> str:
    return f"quarantine/blobs/{digest}.json"


def _named_in(content: bytes) -> frozenset[str]:
    return frozenset(entry.digest for entry in Manifest.decode(content).files)


def _blob(item: StoredObject) -> Blob:
    return Blob(item.key.rpartition("/")[2], item.size_bytes, time.time() - item.age_s)


def _each(call: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    """In order, some at a time; the first failure is raised."""
    with ThreadPoolExecutor(OBJECTS_PARALLEL, thread_name_prefix="bucket") as pool:
        return list(pool.map(call, items))
