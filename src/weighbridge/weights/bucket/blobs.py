"""The weight store's bucket as a node reads it: manifests, and ranges of blobs."""

from weighbridge.weights.base import not_published
from weighbridge.weights.bucket.collection import blob_key
from weighbridge.weights.bucket.objects import Bucket, BucketError
from weighbridge.weights.manifest import Manifest, is_digest
from weighbridge.weights.node.source import Check, WeightSource

PIECE_BYTES = 1024 * 1024


class BucketBlobs:
    """A source for a node's cache."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def manifest(self, digest: str) -> Manifest:
        content = self._bucket.get(manifest_key(digest))
        if content is None:
            raise not_published(digest)
        return Manifest.decode(content)

    def read_into(self, digest: str, start: int, target: memoryview, check: Check) -> None:
        key = blob_key(digest)
        at = 0
        with self._bucket.open(key, start, start + len(target)) as body:
            while at < len(target) and (piece := body.read(min(PIECE_BYTES, len(target) - at))):
                check()
                target[at : at + len(piece)] = piece
                at += len(piece)
        if at != len(target):
            raise BucketError("GetObject", key, f"{at} bytes instead of {len(target)}")

    def close(self) -> None:
        """Its connections are the client's."""


def opened(source: WeightSource) -> BucketBlobs:
    """The bucket that it names."""
    bucket = Bucket.at(
        source.url,
        endpoint_url=source.endpoint_url,
        region=source.region,
        key_id=source.access_key_id,
        secret=source.secret_access_key,
    )
    return BucketBlobs(bucket)


def manifest_key(digest: str) -> str:
    assert is_digest(digest), digest
    return f"manifests/{digest}.json"
