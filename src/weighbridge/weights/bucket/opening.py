"""Opens the weight store that the settings name: on this machine's file system, or in a bucket of the operator's."""

from collections.abc import Callable, Collection

from weighbridge.settings import Settings
from weighbridge.weights.base import WeightStore
from weighbridge.weights.bucket.objects import Bucket
from weighbridge.weights.bucket.store import BucketStore
from weighbridge.weights.filesystem import FilesystemStore
from weighbridge.weights.node.cache import NodeCache
from weighbridge.weights.node.marks import LoadMarks


def open_store(
    settings: Settings, name: str, marks: LoadMarks, in_use: Callable[[], Collection[str]]
) -> WeightStore:
    """`name` is this control process's own; `in_use` gives the manifests that its cache must keep."""
    local = FilesystemStore(settings.paths.store, marks)
    if settings.store_url is None:
        return local
    cache = NodeCache(local, in_use=in_use, free_min_share=settings.disk_free_min_share)
    return BucketStore(_bucket(settings, settings.store_url), cache, name)


def _bucket(settings: Settings, url: str) -> Bucket:
    secret = settings.store_secret_access_key
    return Bucket.at(
        url,
        endpoint_url=settings.store_endpoint_url,
        region=settings.store_region,
        key_id=settings.store_access_key_id,
        secret=None if secret is None else secret.get_secret_value(),
    )
