"""The weight store on one file system: blobs by digest, manifests, and version directories made of hard links.

Order against power cuts (W2): a file is fsynced, renamed, and its directory fsynced; a version directory
is built aside and renamed whole; its manifest comes last and is what says that the version is there.
Blobs are shared by whoever publishes equal bytes; no call tells one org that another has them (W4).
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from weighbridge.weights.base import STAGING_GRACE_S, MissingBlobError, not_published
from weighbridge.weights.digest import content_digest
from weighbridge.weights.disk.collection import Blob, Collector, Leased, nothing_leased
from weighbridge.weights.disk.durable import (
    READ_ONLY,
    ensure_directory,
    fsync_directory,
    fsync_file,
    remove,
    rename_directory,
    sync_file_system,
    write_durably,
)
from weighbridge.weights.disk.locks import Locks
from weighbridge.weights.disk.notes import FolderNotes
from weighbridge.weights.disk.quarantine import Damage, Quarantine
from weighbridge.weights.disk.verification import Verifications
from weighbridge.weights.manifest import MANIFEST_FILE, FileEntry, Manifest, is_digest, safe_path
from weighbridge.weights.node.marks import LoadMarks

TEMPORARY_PREFIX = "tmp-"
BATCH_BLOBS_MIN = 8
"""From this many blobs on, syncing the whole file system costs less than each file by itself."""


class FilesystemStore:
    """Blocking calls, safe to repeat and to interrupt anywhere; several processes may use one root."""

    keeps_here = True

    def __init__(self, root: Path, marks: LoadMarks | None = None) -> None:
        """With `marks`, what this process publishes is known to this node and not hashed again when loaded."""
        self._root = root
        self._marks = marks
        self._blobs = root / "blobs"
        self._manifests = root / "manifests"
        self._versions = root / "versions"
        self._staging = root / "staging"
        self.quarantine = Quarantine(root / "quarantine")
        self.verifications = Verifications(root / "verified")
        self.tensor_notes = FolderNotes(root / "tensors")
        self.locks = Locks(root / "locks")
        self._collector = Collector(self._blobs, root / "aside", self._named)
        made = [
            ensure_directory(directory)
            for directory in (self._blobs, self._manifests, self._versions, self._staging)
        ]
        if any(made):
            # What is published in them later is no more durable than they are.
            fsync_directory(root)
            fsync_directory(root.parent)

    def has_blob(self, digest: str) -> bool:
        return self.blob_path(digest).is_file()

    def blob_path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._blobs / digest[:2] / digest

    def blob_size(self, digest: str) -> int | None:
        try:
            return self.blob_path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open_blob(self, digest: str) -> BinaryIO:
        file = self.blob_path(digest).open("rb", buffering=0)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_NOREUSE)
        return file

    def read_blob(self, digest: str, start: int, end: int) -> bytes:
        with self.blob_path(digest).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def put_bytes(self, content: bytes) -> tuple[str, int]:
        """Store small content; returns (digest, size_bytes)."""
        digest = content_digest(content)
        if not self._touch(digest):
            descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=self._staging)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            self.publish_blob(Path(name), digest)
        return digest, len(content)

    def staging_file(self, name: str) -> Path:
        """Where to write a file before `publish_blob`; of `owner/file`, the owner is what `sweep_staging` goes by."""
        assert safe_path(name), name
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish_blob(self, staged: Path, digest: str) -> None:
        """Make a staged file the blob `digest`, durably; the caller vouches for the digest. Repeatable."""
        blob = self.blob_path(digest)
        if ensure_directory(blob.parent):
            fsync_directory(self._blobs)
        if blob.exists() and staged.exists() and blob.stat().st_size == staged.stat().st_size:
            staged.unlink()  # W7: written once; the second writer uses the first one's
        elif staged.exists() or not blob.exists():
            staged.chmod(READ_ONLY)
            fsync_file(staged)
            staged.replace(blob)
            self._mark(blob)
        fsync_directory(blob.parent)

    def publish_blobs(self, staged: Mapping[Path, str]) -> None:
        """`publish_blob` of many: two syncs of the file system instead of two fsyncs per file. Repeatable."""
        if len(staged) < BATCH_BLOBS_MIN:
            for path, digest in staged.items():
                self.publish_blob(path, digest)
            return
        for path, digest in staged.items():
            self.blob_path(digest).parent.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                path.chmod(READ_ONLY)
        sync_file_system(self._root)
        for path, digest in staged.items():
            blob = self.blob_path(digest)
            if path.exists() and blob.exists() and blob.stat().st_size == path.stat().st_size:
                path.unlink()
            elif path.exists() or not blob.exists():
                path.replace(blob)
                self._mark(blob)
        sync_file_system(self._root)

    def publish(self, manifest: Manifest) -> str:
        """Present the manifest's files as `version_dir(digest)`; MissingBlobError names a blob that is not there."""
        digest = manifest.digest
        target = self._versions / digest
        if not target.is_dir():
            with self._temporary_directory() as building:
                for entry in manifest.files:
                    self._link(entry, building)
                write_durably(building / MANIFEST_FILE, manifest.encode())
                for directory, _, _ in os.walk(building):
                    fsync_directory(Path(directory))
                rename_directory(building, target)
        fsync_directory(self._versions)
        recorded = self._manifest_path(digest)
        if not recorded.is_file():
            with self._temporary_directory() as building:
                write_durably(building / recorded.name, manifest.encode())
                (building / recorded.name).replace(recorded)
        fsync_directory(self._manifests)
        self.quarantine.heal(digest)
        self._restore_withdrawn()
        return digest

    def take_away(self, digest: str, found_digest: str) -> Damage:
        """Quarantine a blob whose bytes hash to `found_digest`, and withdraw the versions that name it (W11).

        An engine that runs keeps what it has open; no new one starts from it. Syncing the weights again heals.
        """
        naming = [
            self._manifest_path(version)
            for version in self.published()
            if any(entry.digest == digest for entry in self._entries(version))
        ]
        return self.quarantine.take(self.blob_path(digest), found_digest, naming, self._hide)

    def damaged_here(self, digest: str, found_digest: str) -> bool:
        """There is no other copy: the blob is quarantined."""
        self.take_away(digest, found_digest)
        return False

    def damages(self) -> Sequence[Damage]:
        return self.quarantine.damages()

    def withdrawn(self) -> set[str]:
        return self.quarantine.withdrawn()

    def make_room(self, needed_bytes: int) -> None:
        """Nothing here is kept for speed alone."""

    def close(self) -> None:
        """Nothing runs beside its calls."""

    def manifest(self, digest: str) -> Manifest:
        """NotFoundError when no version with this digest is published."""
        try:
            return Manifest.decode(self._manifest_path(digest).read_bytes())
        except FileNotFoundError as error:
            raise not_published(digest) from error

    def version_dir(self, digest: str) -> Path:
        """The directory an engine loads; NotFoundError when the version is not published (W1)."""
        path = self.version_path(digest)
        if not (self._manifest_path(digest).is_file() and path.is_dir()):
            raise not_published(digest)
        return path

    def version_path(self, digest: str) -> Path:
        """Where the version's directory is, or would be."""
        return self._versions / digest

    def free_bytes(self) -> int:
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def total_bytes(self) -> int:
        disk = os.statvfs(self._root)
        return disk.f_blocks * disk.f_frsize

    def published(self) -> set[str]:
        return {path.stem for path in self._manifests.iterdir() if is_digest(path.stem)}

    def age_s(self, digest: str) -> float:
        """Since the version was published; 0 when it is not."""
        try:
            return max(0.0, time.time() - self._manifest_path(digest).stat().st_mtime)
        except FileNotFoundError:
            return 0.0

    def delete_version(self, digest: str, *, leased: Leased = nothing_leased) -> None:
        """Remove a version and the blobs that nothing else names or leases; the caller knows that nobody uses it.

        Repeatable.
        What an engine has open stays readable to it.
        """
        entries = self._entries(digest)
        self._manifest_path(digest).unlink(missing_ok=True)
        fsync_directory(self._manifests)
        self._hide(digest)
        self.quarantine.manifest_path(digest).unlink(missing_ok=True)
        self._collector.collect([self.blob_path(entry.digest) for entry in entries], leased)

    def collect_blobs(
        self, *, age_min_s: float = STAGING_GRACE_S, leased: Leased = nothing_leased
    ) -> int:
        """Remove the blobs that no manifest names and no sync leases, from that age on; returns how many."""
        return self._collector.collect(self._unused(age_min_s, nothing_leased), leased)

    def unused_blobs(
        self, *, age_min_s: float = STAGING_GRACE_S, leased: Leased = nothing_leased
    ) -> list[Blob]:
        """What `collect_blobs` would remove now."""
        return list(_listed(self._unused(age_min_s, leased)))

    def blobs(self) -> Iterator[Blob]:
        return _listed(self._blobs.glob("??/*"))

    def staging_owners(self) -> set[str]:
        """What lies in staging now, temporary things aside."""
        return {
            path.name
            for path in self._staging.iterdir()
            if not path.name.startswith(TEMPORARY_PREFIX)
        }

    def sweep_staging(self, live: set[str], *, among: Collection[str] | None = None) -> None:
        """Remove what no live owner has in staging, and temporary things older than STAGING_GRACE_S.

        Where owners may appear meanwhile, pass as `among` the `staging_owners()` read before `live` was.
        """
        candidates = self.staging_owners() if among is None else among
        for owner in sorted(set(candidates) - live):
            self.remove_staging(owner)
        latest = time.time() - STAGING_GRACE_S
        for path in self._staging.glob(f"{TEMPORARY_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= latest:
                    remove(path)

    def remove_staging(self, owner: str) -> None:
        assert safe_path(owner), owner
        remove(self._staging / owner)

    def _manifest_path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._manifests / f"{digest}.json"

    def _link(self, entry: FileEntry, directory: Path) -> None:
        path = directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = self.blob_path(entry.digest)
        try:
            path.hardlink_to(blob)
        except FileNotFoundError as error:
            raise MissingBlobError(entry.digest) from error
        if path.stat().st_size != entry.size_bytes:
            raise MissingBlobError(entry.digest)
        if not blob.exists():
            # Collected between the two calls: the link kept the bytes, so give the blob its name back.
            with contextlib.suppress(FileExistsError):
                blob.hardlink_to(path)

    def _unused(self, age_min_s: float, leased: Leased) -> list[Path]:
        latest = time.time() - age_min_s
        return self._collector.unused(self._blobs.glob("??/*"), leased, older_than=latest)

    def _mark(self, blob: Path) -> None:
        if self._marks is not None:
            with contextlib.suppress(FileNotFoundError):
                self._marks.note(blob.name, blob)

    def _touch(self, digest: str) -> bool:
        """Make a blob young again, so that it is not collected before it is named; False when it is not there."""
        blob = self.blob_path(digest)
        known = self._marks is not None and self._marks.holds(digest, blob)
        try:
            os.utime(blob)
        except FileNotFoundError:
            return False
        if known:
            self._mark(blob)
        return True

    def _restore_withdrawn(self) -> None:
        """A blob that came back makes every version whole that was withdrawn for it alone."""
        for version in self.quarantine.withdrawn():
            manifest = Manifest(self._entries(version))
            if manifest.digest == version and all(self.has_blob(e.digest) for e in manifest.files):
                self.publish(manifest)

    def _hide(self, digest: str) -> None:
        with self._temporary_directory() as trash, contextlib.suppress(FileNotFoundError):
            (self._versions / digest).rename(trash / "version")

    def _named(self) -> set[str]:
        return {
            entry.digest
            for digest in self.published() | self.quarantine.withdrawn()
            for entry in self._entries(digest)
        }

    def _entries(self, digest: str) -> tuple[FileEntry, ...]:
        for path in (self._manifest_path(digest), self.quarantine.manifest_path(digest)):
            with contextlib.suppress(FileNotFoundError):
                return Manifest.decode(path.read_bytes()).files
        return ()

    @contextmanager
    def _temporary_directory(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._staging))
        path.chmod(0o755)
        try:
            yield path
        finally:
            remove(path)


def _listed(paths: Iterable[Path]) -> Iterator[Blob]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            yield Blob(path.name, state.st_size, state.st_mtime)
