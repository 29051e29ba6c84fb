"""The weight store on one file system: blobs by digest, manifests, and version directories made of hard links.

Order against power cuts (W2): a file is fsynced, renamed, and its directory fsynced; a version directory
is built aside and renamed whole; its manifest comes last and is what says that the version is there.
Blobs are shared by whoever publishes equal bytes; no call tells one org that another has them (W4).
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from weighbridge.errors import NotFoundError
from weighbridge.weights.digest import content_digest
from weighbridge.weights.manifest import MANIFEST_FILE, FileEntry, Manifest, is_digest, safe_path

TEMPORARY_PREFIX = "tmp-"
STAGING_GRACE_S = 3600.0
"""Age from which something temporary that nobody owns any more is removed."""
READ_ONLY = 0o444
LOCKS_MAX = 4096
BATCH_BLOBS_MIN = 8
"""From this many blobs on, syncing the whole file system costs less than each file by itself."""

_libc = ctypes.CDLL(None, use_errno=True)


class FilesystemStore:
    """Blocking calls, safe to repeat and to interrupt anywhere; several processes may use one root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._blobs = root / "blobs"
        self._manifests = root / "manifests"
        self._versions = root / "versions"
        self._staging = root / "staging"
        self._locks = root / "locks"
        self._aside = root / "aside"
        for directory in (
            self._blobs,
            self._manifests,
            self._versions,
            self._staging,
            self._locks,
            self._aside,
        ):
            directory.mkdir(parents=True, exist_ok=True)

    def has_blob(self, digest: str) -> bool:
        return self.blob_path(digest).is_file()

    def blob_path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._blobs / digest[:2] / digest

    def put_bytes(self, content: bytes) -> tuple[str, int]:
        """Store small content; returns (digest, size_bytes)."""
        digest = content_digest(content)
        if not self.has_blob(digest):
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
        if _ensure_directory(blob.parent):
            _fsync_directory(self._blobs)
        if blob.exists() and staged.exists() and blob.stat().st_size == staged.stat().st_size:
            staged.unlink()  # W7: written once; the second writer uses the first one's
        elif staged.exists() or not blob.exists():
            staged.chmod(READ_ONLY)
            _fsync_file(staged)
            staged.replace(blob)
        _fsync_directory(blob.parent)

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
        _sync_file_system(self._root)
        for path, digest in staged.items():
            blob = self.blob_path(digest)
            if path.exists() and blob.exists() and blob.stat().st_size == path.stat().st_size:
                path.unlink()
            elif path.exists() or not blob.exists():
                path.replace(blob)
        _sync_file_system(self._root)

    def publish(self, manifest: Manifest) -> str:
        """Present the manifest's files as `version_dir(digest)`; MissingBlobError names a blob that is not there."""
        digest = manifest.digest
        target = self._versions / digest
        if not target.is_dir():
            with self._temporary_directory() as building:
                for entry in manifest.files:
                    self._link(entry, building)
                _write_durably(building / MANIFEST_FILE, manifest.encode())
                for directory, _, _ in os.walk(building):
                    _fsync_directory(Path(directory))
                _rename_directory(building, target)
        _fsync_directory(self._versions)
        recorded = self._manifest_path(digest)
        if not recorded.is_file():
            with self._temporary_directory() as building:
                _write_durably(building / recorded.name, manifest.encode())
                (building / recorded.name).replace(recorded)
        _fsync_directory(self._manifests)
        return digest

    def manifest(self, digest: str) -> Manifest:
        """NotFoundError when no version with this digest is published."""
        try:
            return Manifest.decode(self._manifest_path(digest).read_bytes())
        except FileNotFoundError as error:
            raise _not_published(digest) from error

    def version_dir(self, digest: str) -> Path:
        """The directory an engine loads; NotFoundError when the version is not published (W1)."""
        path = self._versions / digest
        if not (self._manifest_path(digest).is_file() and path.is_dir()):
            raise _not_published(digest)
        return path

    def try_lock(self, name: str) -> "FileLock | None":
        """Exclusive among all processes that use this root; None while another has it. Ends with its process."""
        return FileLock.take(self._lock_path(name), wait=False)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Wait for a lock that others hold only briefly."""
        lock = FileLock.take(self._lock_path(name), wait=True)
        assert lock is not None
        try:
            yield
        finally:
            lock.release()

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

    def delete_version(self, digest: str) -> None:
        """Remove a version and the blobs that nothing else names; the caller knows that nobody uses it. Repeatable.

        What an engine has open stays readable to it.
        """
        entries: tuple[FileEntry, ...] = ()
        with contextlib.suppress(NotFoundError):
            entries = self.manifest(digest).files
        self._manifest_path(digest).unlink(missing_ok=True)
        _fsync_directory(self._manifests)
        with self._temporary_directory() as trash, contextlib.suppress(FileNotFoundError):
            (self._versions / digest).rename(trash / "version")
        self._collect(self.blob_path(entry.digest) for entry in entries)

    def collect_blobs(self, *, age_min_s: float = STAGING_GRACE_S) -> int:
        """Remove the blobs that no manifest names and nothing touched for `age_min_s`; returns how many."""
        latest = time.time() - age_min_s
        old = []
        for blob in self._blobs.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                if blob.stat().st_ctime <= latest:
                    old.append(blob)
        return self._collect(iter(old))

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
                    _remove(path)

    def remove_staging(self, owner: str) -> None:
        assert safe_path(owner), owner
        _remove(self._staging / owner)

    def _manifest_path(self, digest: str) -> Path:
        assert is_digest(digest), digest
        return self._manifests / f"{digest}.json"

    def _lock_path(self, name: str) -> Path:
        """One of LOCKS_MAX files, never removed; two names that share one only wait for each other."""
        number = int(content_digest(name.encode())[:8], 16) % LOCKS_MAX
        return self._locks / f"{number:03x}"

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

    def _collect(self, blobs: Iterator[Path]) -> int:
        named = {entry.digest for digest in self.published() for entry in self._entries(digest)}
        removed = 0
        for blob in blobs:
            with contextlib.suppress(FileNotFoundError):
                # A second link is a version directory, perhaps one being built at this moment.
                if blob.name not in named and blob.stat().st_nlink == 1:
                    blob.unlink()
                    removed += 1
        return removed

    def _entries(self, digest: str) -> tuple[FileEntry, ...]:
        try:
            return self.manifest(digest).files
        except NotFoundError:
            return ()

    @contextmanager
    def _temporary_directory(self) -> Iterator[Path]:
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=self._staging))
        path.chmod(0o755)
        try:
            yield path
        finally:
            _remove(path)


class FileLock:
    """An flock(2) on a file of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, wait: bool) -> "FileLock | None":
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


class MissingBlobError(NotFoundError):
    """A manifest names a blob that the store does not hold whole; fetching it again is right."""

    code = "missing_blob"

    def __init__(self, digest: str) -> None:
        super().__init__(f"The weight store has no blob {digest}.")
        self.digest = digest


def _not_published(digest: str) -> NotFoundError:
    return NotFoundError(f"The weight store has no version {digest}.", code="weights_missing")


def _ensure_directory(path: Path) -> bool:
    """True when it was made now, so that its parent needs an fsync."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _rename_directory(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        # Somebody published the same bytes first: theirs is as good.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(READ_ONLY)


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(path: Path) -> None:
    """syncfs(2): everything written to this file system is durable, and a failed write is reported (Linux 5.8)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
