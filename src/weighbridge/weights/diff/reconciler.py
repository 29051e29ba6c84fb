"""Hashes the tensors of published versions in the background, one file a pass; nothing waits for it."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import structlog

from weighbridge.errors import InvalidError, NotFoundError
from weighbridge.weights.base import WeightStore
from weighbridge.weights.diff.compare import TENSOR_SUFFIX
from weighbridge.weights.diff.shelf import StoppedError, TensorShelf, hash_tensors
from weighbridge.weights.disk.verification import Readable

log = structlog.get_logger()

IDLE_S = 5.0
PASSES_BETWEEN_TRIES = 60
"""How long a file that could not be read is left alone."""


class TensorDigestReconciler:
    """Wish: each safetensors file that a published manifest names has its tensors on the shelf."""

    def __init__(
        self, store: WeightStore, shelf: TensorShelf, turn: Callable[[], object] = lambda: None
    ) -> None:
        """`turn` raises StaleError while another process hashes for all that use the store."""
        self._store = store
        self._shelf = shelf
        self._turn = turn
        self._files: dict[str, Mapping[str, int]] = {}
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensor-digests")
        self._unreadable: dict[str, int] = {}

    async def reconcile(self) -> float:
        """One pass hashes at most one file."""
        self._turn()
        loop = asyncio.get_running_loop()
        hashed = await loop.run_in_executor(self._thread, self._pass)
        return 0.0 if hashed else IDLE_S

    async def close(self) -> None:
        """Stop within one read; the next process goes on."""
        self._stop.set()
        await asyncio.to_thread(self._thread.shutdown)

    def _pass(self) -> bool:
        # What is known comes first: of what is noted meanwhile nothing is taken for superfluous.
        known = self._shelf.known()
        wanted = self._wanted()
        self._shelf.remove(known - wanted.keys())
        self._unreadable = {
            digest: passes - 1 for digest, passes in self._unreadable.items() if passes > 1
        }
        missing = sorted(wanted.keys() - known - self._unreadable.keys())
        if not missing:
            return False
        digest = missing[0]
        try:
            with closing(self._open(digest)) as content:
                self._shelf.put(digest, hash_tensors(content, wanted[digest], self._stop))
        except StoppedError:
            return False
        except FileNotFoundError:
            self._unreadable[digest] = PASSES_BETWEEN_TRIES  # collected meanwhile
        except (OSError, InvalidError) as error:
            self._unreadable[digest] = PASSES_BETWEEN_TRIES
            log.warning("tensors.unreadable", blob=digest, reason=str(error))
        else:
            log.info("tensors.hashed", blob=digest)
        return True

    def _open(self, digest: str) -> Readable:
        """Prefers the copy of this node."""
        try:
            return self._store.blob_path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            return self._store.open_blob(digest)

    def _wanted(self) -> Mapping[str, int]:
        """The sizes of the files whose tensors are to be known, by digest."""
        published = self._store.published()
        self._files = {digest: self._files.get(digest) or self._of(digest) for digest in published}
        return {digest: size for files in self._files.values() for digest, size in files.items()}

    def _of(self, manifest: str) -> Mapping[str, int]:
        try:
            files = self._store.manifest(manifest).files
        except NotFoundError:
            return {}
        return {
            entry.digest: entry.size_bytes for entry in files if entry.path.endswith(TENSOR_SUFFIX)
        }
