"""What a weight store is, wherever its blobs lie: on a file system, or in a bucket with a cache on each node."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from weighbridge.errors import NotFoundError
from weighbridge.weights.disk.collection import Blob, Leased, nothing_leased
from weighbridge.weights.disk.locks import Locks
from weighbridge.weights.disk.notes import Notes
from weighbridge.weights.disk.quarantine import Damage
from weighbridge.weights.disk.verification import Readable, Verifications
from weighbridge.weights.manifest import Manifest

STAGING_GRACE_S = 3600.0
"""Age from which something temporary, or a blob, that nobody owns any more is removed."""


class WeightStore(Protocol):
    """Blocking calls, safe to repeat and to interrupt anywhere; several processes may use one store.

    What is written goes through `staging_file`, a place on this node. A store that cannot be reached raises OSError.
    """

    @property
    def locks(self) -> Locks:
        """Among the processes of this node."""

    @property
    def verifications(self) -> Verifications: ...

    @property
    def keeps_here(self) -> bool:
        """Whether blobs stay on this node for good; else they may be dropped once they are published."""

    @property
    def tensor_notes(self) -> Notes:
        """Where the digests of blobs' tensors lie, for every process that uses the store."""

    def has_blob(self, digest: str) -> bool: ...

    def blob_size(self, digest: str) -> int | None:
        """None for a blob that is not there."""

    def open_blob(self, digest: str) -> Readable:
        """FileNotFoundError for a blob that is not there."""

    def read_blob(self, digest: str, start: int, end: int) -> bytes:
        """The bytes [start, end) of a blob, of this node's copy where it has one. FileNotFoundError as above."""

    def blob_path(self, digest: str) -> Path:
        """Where the blob lies on this node once `version_dir` has been asked for a version that names it."""

    def put_bytes(self, content: bytes) -> tuple[str, int]:
        """Store small content; returns (digest, size_bytes)."""

    def staging_file(self, name: str) -> Path: ...

    def publish_blobs(self, staged: Mapping[Path, str]) -> None:
        """Make staged files the blobs of their digests, durably; the caller vouches for the digests. Repeatable."""

    def publish(self, manifest: Manifest) -> str:
        """Make the manifest's version known; MissingBlobError names a blob that is not there. Repeatable."""

    def manifest(self, digest: str) -> Manifest:
        """NotFoundError when no version with this digest is published."""

    def version_dir(self, digest: str) -> Path:
        """The directory an engine loads, brought to this node; NotFoundError when it is not published (W1)."""

    def make_room(self, needed_bytes: int) -> None:
        """Drop from this node what is kept for speed alone, if that is needed for so many bytes more."""

    def damaged_here(self, digest: str, found_digest: str) -> bool:
        """Stop using this node's copy of a blob (W11); True when `version_dir` will bring another one."""

    def take_away(self, digest: str, found_digest: str) -> Damage:
        """Quarantine a blob whose bytes hash to `found_digest`, and withdraw the versions that name it (W11)."""

    def damages(self) -> Sequence[Damage]: ...

    def withdrawn(self) -> set[str]:
        """Versions that are not served because a blob of theirs is damaged."""

    def published(self) -> set[str]: ...

    def age_s(self, digest: str) -> float:
        """Since the version was published; 0 when it is not."""

    def delete_version(self, digest: str, *, leased: Leased = nothing_leased) -> None:
        """Remove a version and blobs that nothing else names or leases; the caller knows that nobody uses it."""

    def blobs(self) -> Iterator[Blob]: ...

    def unused_blobs(
        self, *, age_min_s: float = STAGING_GRACE_S, leased: Leased = nothing_leased
    ) -> Sequence[Blob]:
        """What `collect_blobs` would remove now."""

    def collect_blobs(
        self, *, age_min_s: float = STAGING_GRACE_S, leased: Leased = nothing_leased
    ) -> int:
        """Remove the blobs that no manifest names and no sync leases, from that age on; returns how many (W8)."""

    def free_bytes(self) -> int:
        """On this node."""

    def total_bytes(self) -> int: ...

    def staging_owners(self) -> set[str]: ...

    def sweep_staging(self, live: set[str], *, among: Collection[str] | None = None) -> None: ...

    def remove_staging(self, owner: str) -> None: ...

    def close(self) -> None:
        """End what is under way in other threads, soon; the store is not used afterwards."""


class MissingBlobError(NotFoundError):
    """A manifest names a blob that the store does not hold whole; fetching it again is right."""

    code = "missing_blob"

    def __init__(self, digest: str) -> None:
        super().__init__(f"The weight store has no blob {digest}.")
        self.digest = digest


def not_published(digest: str) -> NotFoundError:
    return NotFoundError(f"The weight store has no version {digest}.", code="weights_missing")
