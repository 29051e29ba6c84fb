"""Weight syncs as values: where weights come from, what is pinned there, and the limits of a sync."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from weighbridge.errors import InvalidError
from weighbridge.registry.model import SyncStatus
from weighbridge.weights.strict_json import shown
from weighbridge.weights.tensors import TensorSpec

_URI = re.compile(r"s3://([^/]*)/(.*)", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS = re.compile(r"[0-9.]+")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()@=+,:$&;~ -]+")
PREFIX_BYTES_MAX = 700


@dataclass(frozen=True, slots=True)
class S3Prefix:
    """A folder of a bucket. `prefix` has neither a leading nor a trailing slash; `parse` takes no empty one."""

    bucket: str
    prefix: str

    @staticmethod
    def parse(uri: str) -> "S3Prefix":
        """`s3://bucket/prefix` and nothing else (T8); InvalidError BAD_WEIGHT_URI."""
        match = _URI.fullmatch(uri)
        bucket, prefix = match.groups() if match else ("", "")
        prefix = prefix.removesuffix("/")
        segments = prefix.split("/")
        if (
            not _BUCKET.fullmatch(bucket)
            or _IP_ADDRESS.fullmatch(bucket)
            or ".." in bucket
            or len(prefix) > PREFIX_BYTES_MAX
            or any(part in (".", "..") or not _SEGMENT.fullmatch(part) for part in segments)
        ):
            raise InvalidError(
                f"{shown(uri)} is not the S3 URI of a folder; write s3://<bucket>/<prefix>.",
                code="BAD_WEIGHT_URI",
                param="weight_uri",
            )
        return S3Prefix(bucket, prefix)

    @property
    def folder(self) -> str:
        """What every key of the folder starts with."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def parent(self) -> str:
        """What every key beside the folder starts with; empty at the bucket's root."""
        above, slash, _ = self.prefix.rpartition("/")
        return above + slash

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class ListedObject:
    key: str
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """One object as it was when the sync looked: every read of it is conditional on this (W3).

    `checksum` are those that S3 states and we can verify, with a space between them: `<algorithm>:<base64>` of the
    whole object, or `<algorithm>@<bytes of a part>:<base64>-<parts>` of its parts' checksums.
    `digest` is set once the weight store holds the file.
    """

    key: str
    path: str
    size_bytes: int
    etag: str
    s3_version_id: str | None
    checksum: str | None = None
    digest: str | None = None

    @property
    def content_checksum(self) -> str | None:
        """One that equal contents share and others do not, for all that happens by chance."""
        stated = (self.checksum or "").split(" ")
        return next((one for one in stated if one.startswith(("crc64nvme:", "sha256:"))), None)

    @property
    def ident(self) -> str:
        """Names this revision of the object, so that staged bytes of another one are never taken for it."""
        revision = (self.key, self.s3_version_id, self.etag, self.size_bytes)
        return blake3(repr(revision).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class OpenSync:
    """A version whose sync is not final, as the reconciler sees it. `held` means another sync runs it now."""

    version_id: str
    org_id: str
    status: SyncStatus
    claim_epoch: int
    cancelled: bool
    held: bool


@dataclass(frozen=True, slots=True)
class SyncOrder:
    """All that one sync has to know; `spent_s` is the time earlier claims have worked on it."""

    version_id: str
    org_id: str
    arch_id: str
    number: int
    weight_uri: str
    external_id: str
    role_arn: str | None
    base_digest: str
    tensors: Sequence[TensorSpec]
    spent_s: float
    files: Sequence[PinnedFile]


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """The bounds of one sync (W5, W9); `docs/operating.md` names the setting of each."""

    bytes_max: int
    part_bytes: int
    parts_parallel: int
    stall_s: float
    total_s: float
    access_retry_s: float
    disk_wait_s: float
    disk_free_min_share: float
    objects_max: int = 2_000
    pages_max: int = 100
    file_tries_max: int = 3


@dataclass(frozen=True, slots=True)
class SyncFigures:
    """Of all versions that are not deleted; `bytes_per_s` is what the running syncs read together."""

    by_status: Mapping[str, int]
    by_error: Mapping[str, int]
    bytes_done: int
    files_done: int
    retries: int
    bytes_per_s: int
