"""The weight store's notes about its blobs in the bucket, for every node."""

from collections.abc import Collection
from pathlib import PurePosixPath

from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.disk.notes import SUFFIX, Notes
from weighbridge.weights.manifest import is_digest


class BucketNotes(Notes):
    """`folder` is a key's beginning, with its slash."""

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self._bucket = bucket
        self._folder = folder

    def known(self) -> set[str]:
        names = (PurePosixPath(item.key).stem for item in self._bucket.list(self._folder))
        return {name for name in names if is_digest(name)}

    def read(self, digest: str) -> bytes | None:
        return self._bucket.get(self._key(digest))

    def write(self, digest: str, content: bytes) -> None:
        self._bucket.put(self._key(digest), content)

    def remove(self, digests: Collection[str]) -> None:
        self._bucket.delete([self._key(digest) for digest in digests])

    def _key(self, digest: str) -> str:
        assert is_digest(digest), digest
        return f"{self._folder}{digest}{SUFFIX}"
