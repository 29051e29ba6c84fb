"""Hashes the tensors of published versions in the background, one file a pass; nothing waits for it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog

from weighbridge.errors import InvalidError, NotFoundError
from weighbridge.weights.base import WeightStore
from weighbridge.weights.diff.compare import TENSOR_SUFFIX
from weighbridge.weights.diff.shelf import StoppedError, TensorShelf, hash_tensors

log = structlog.get_logger()

IDLE_S = 5.0
PASSES_BETWEEN_TRIES = 60
"""How long a file that could not be read is left alone."""


class TensorDigestReconciler:
    """Wish: each safetensors file that a published manifest names has its tensors on the shelf."""

    def __init__(self, store: WeightStore, shelf: TensorShelf) -> None:
        self._store = store
        self._shelf = shelf
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensor-digests")
        self._unreadable: dict[str, int] = {}

    async def reconcile(self) -> float:
        """One pass hashes at most one file."""
        loop = asyncio.get_running_loop()
        hashed = await loop.run_in_executor(self._thread, self._pass)
        return 0.0 if hashed else IDLE_S

    async def close(self) -> None:
        """Stop within one read; the next process goes on."""
        self._stop.set()
        await asyncio.to_thread(self._thread.shutdown)

    def _pass(self) -> bool:
        wanted = self._wanted()
        self._shelf.sweep(wanted)
        self._unreadable = {
            digest: passes - 1 for digest, passes in self._unreadable.items() if passes > 1
        }
        missing = sorted(wanted - self._shelf.known() - self._unreadable.keys())
        if not missing:
            return False
        digest = missing[0]
        try:
            self._shelf.put(digest, hash_tensors(self._store.blob_path(digest), self._stop))
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

    def _wanted(self) -> set[str]:
        wanted = set()
        for manifest in self._store.published():
            try:
                files = self._store.manifest(manifest).files
            except NotFoundError:
                continue
            wanted |= {entry.digest for entry in files if entry.path.endswith(TENSOR_SUFFIX)}
        return wanted
