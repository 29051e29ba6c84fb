"""Blobs whose bytes are no longer what their name says, and the versions that were withdrawn with them (W11)."""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from weighbridge.weights.disk.durable import fsync_directory, write_durably

RECORD_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Damage:
    """`versions` are the digests of the manifests that named the blob; `at_s` is wall clock."""

    digest: str
    found_digest: str
    versions: Sequence[str]
    at_s: float


class Quarantine:
    """A directory of damaged blobs with a record each, and the manifests withdrawn because of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._manifests = directory / "manifests"
        self._manifests.mkdir(parents=True, exist_ok=True)

    def damages(self) -> list[Damage]:
        """What is damaged now, oldest first."""
        found = [
            msgspec.json.decode(path.read_bytes(), type=Damage)
            for path in self._directory.glob(f"*{RECORD_SUFFIX}")
        ]
        return sorted(found, key=lambda damage: damage.at_s)

    def withdrawn(self) -> set[str]:
        """Versions that are not served for a blob of theirs is damaged; their other blobs are kept."""
        return {path.stem for path in self._manifests.glob(f"*{RECORD_SUFFIX}")}

    def manifest_path(self, digest: str) -> Path:
        return self._manifests / f"{digest}{RECORD_SUFFIX}"

    def take(
        self, blob: Path, found_digest: str, manifests: Iterable[Path], hide: Callable[[str], None]
    ) -> Damage:
        """Withdraw each version, then move the blob here. Repeatable; `hide` removes a version's directory."""
        paths = list(manifests)
        before = [
            version for d in self.damages() if d.digest == blob.name for version in d.versions
        ]
        versions = sorted({path.stem for path in paths} | set(before))
        damage = Damage(blob.name, found_digest, versions, time.time())
        record = self._directory / f"{blob.name}{RECORD_SUFFIX}"
        record.unlink(missing_ok=True)
        write_durably(record, msgspec.json.encode(damage))
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                path.replace(self.manifest_path(path.stem))
                fsync_directory(path.parent)
            hide(path.stem)
        with contextlib.suppress(FileNotFoundError):
            blob.replace(self._directory / blob.name)
            fsync_directory(blob.parent)
        fsync_directory(self._manifests)
        fsync_directory(self._directory)
        return damage

    def heal(self, version: str) -> None:
        """A version was published again, whole: forget that it was withdrawn, and what only it was damaged by."""
        withdrawn = self.manifest_path(version)
        if not withdrawn.exists():
            return
        withdrawn.unlink(missing_ok=True)
        left = self.withdrawn()
        for damage in self.damages():
            if not left & set(damage.versions):
                (self._directory / damage.digest).unlink(missing_ok=True)
                (self._directory / f"{damage.digest}{RECORD_SUFFIX}").unlink(missing_ok=True)
