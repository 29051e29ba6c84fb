"""Where a node gets a version that it does not have: what it is told of the place, and what every such place can do."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from weighbridge.weights.manifest import Manifest

Check = Callable[[], None]
"""Called between pieces; raises to stop."""
BUCKET_SCHEME = "s3://"


class StoppedError(OSError):
    """Nobody waits for it any more: the process ends, or the replica is stopped."""

    def __init__(self) -> None:
        super().__init__(errno.EINTR, "it was stopped")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """`url` is the weight server's, or s3://bucket/prefix of a weight store in a bucket.

    `token` opens one version at the server, for a time. The members after it are a bucket's; without a key there
    the node's own AWS identity reads. `cache_bytes_max` is the most that the node's cache may hold (0: what the
    disk allows), `free_min_share` the share of its disk that stays free (W9).
    """

    url: str
    token: str = field(default="", repr=False)
    endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    cache_bytes_max: int = 0
    free_min_share: float = 0.05


class BlobSource(Protocol):
    """Blocking, for many threads. OSError where it cannot be asked now, or does not give all that it should."""

    def manifest(self, digest: str) -> Manifest:
        """NotFoundError for a version that is not published there."""

    def read_into(self, digest: str, start: int, target: memoryview, check: Check) -> None:
        """Fill `target` with a blob's bytes from `start` on. FileNotFoundError for a blob that is not there."""

    def close(self) -> None: ...
