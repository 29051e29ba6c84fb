"""The Ray actor that brings one version to its node, and ends with the driver that started it."""

import os
import tempfile
import threading
from pathlib import Path

import msgspec

from weighbridge.errors import UnavailableError, WeighbridgeError
from weighbridge.runtimes.base import FetchStatus, Weights
from weighbridge.runtimes.ray.node_dir import WEIGHTS_DIR, node_dir
from weighbridge.weights.node.pull import Pull
from weighbridge.weights.node.puller import NodePuller

PAUSE_S = 5.0


class FetchActor:
    """Waits for a source that is away. A node without room has it once a replica has left: that is not waited for."""

    def __init__(self) -> None:
        home = node_dir(os.environ, Path(tempfile.gettempdir()), os.geteuid())
        self._puller = NodePuller(home / WEIGHTS_DIR)
        self._pull: Pull | None = None
        self._thread: threading.Thread | None = None
        self._error = ""

    def fetch(self, text: bytes) -> bytes:
        """How far it is, as a FetchStatus without its node; a second call changes nothing."""
        if self._thread is None:
            weights = msgspec.json.decode(text, type=Weights)
            assert weights.source is not None
            self._pull = Pull(weights.digest, weights.size_bytes, weights.source)
            self._thread = threading.Thread(target=self._bring, args=(self._pull,), daemon=True)
            self._thread.start()
        assert self._pull is not None
        done = not self._thread.is_alive()
        words = self._pull.words() if not done else self._error
        return msgspec.json.encode(FetchStatus("", done, words))

    def _bring(self, pull: Pull) -> None:
        while True:
            try:
                self._puller.bring_once(pull)
            except UnavailableError as error:
                pull.trouble = f"{error.message} ({error.code})"
                pull.wait(PAUSE_S)
                continue
            except WeighbridgeError as error:
                self._error = f"{error.message} ({error.code})"
            return


def decode_fetch(text: bytes) -> FetchStatus:
    return msgspec.json.decode(text, type=FetchStatus)
