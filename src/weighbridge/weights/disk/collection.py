"""Removal of blobs that nobody needs, in an order that can never take one that somebody does (W8).

A blob is set aside first, and only then is asked once more who names or leases it. Whoever leases a blob
before that question keeps it: it is put back. Whoever leases it after finds it gone when it looks, and
fetches it again; that is why a sync leases first and looks second.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

Leased = Callable[[], Collection[str]]
"""The digests that syncs count on, as they are now."""


def nothing_leased() -> Collection[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as a store lists it; `modified_s` is wall clock: when it came, or was last wanted again."""

    digest: str
    size_bytes: int
    modified_s: float


class Collector:
    """Blocking. Safe beside other collectors, and repeatable after a crash anywhere."""

    def __init__(self, blobs: Path, aside: Path, named: Callable[[], Collection[str]]) -> None:
        aside.mkdir(parents=True, exist_ok=True)
        self._blobs = blobs
        self._aside = aside
        self._named = named

    def unused(self, blobs: Iterable[Path], leased: Leased, *, older_than: float) -> list[Path]:
        """Those that nothing names or leases now, and nothing touched since `older_than` (wall clock)."""
        kept = set(leased()) | set(self._named())
        found = []
        for blob in blobs:
            with contextlib.suppress(FileNotFoundError):
                state = blob.stat()
                # A second link is a version directory, perhaps one being built at this moment.
                if blob.name not in kept and state.st_nlink == 1 and state.st_ctime <= older_than:
                    found.append(blob)
        return found

    def collect(self, blobs: Iterable[Path], leased: Leased) -> int:
        """Remove those of `blobs` that nothing names or leases; returns how many."""
        began = time.time()
        for blob in self.unused(blobs, leased, older_than=began):
            with contextlib.suppress(FileNotFoundError):
                blob.rename(self._aside / blob.name)
        aside = list(self._aside.iterdir())
        kept = set(leased()) | set(self._named()) if aside else set()
        removed = 0
        for path in aside:
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if path.name in kept or state.st_nlink > 1 or state.st_mtime > began:
                    self._put_back(path)
                else:
                    path.unlink()
                    removed += 1
        return removed

    def _put_back(self, path: Path) -> None:
        blob = self._blobs / path.name[:2] / path.name
        # Somebody may have published the same bytes meanwhile; either file is as good.
        path.replace(blob)
