"""The Weighbridge server of the demo: `weighbridge up` in a directory that is removed afterwards."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from weighbridge.cli import config
from weighbridge.cli.demo.process import Child
from weighbridge.errors import SetupError
from weighbridge.sdk import Client, ClientError

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_QUICK: Mapping[str, str] = {
    "WEIGHBRIDGE_MIN_READY_S": "1",
    "WEIGHBRIDGE_BAKE_S": "2",
    "WEIGHBRIDGE_REQUEST_MAX_S": "30",
    "WEIGHBRIDGE_DRAIN_DEADLINE_S": "40",
    "WEIGHBRIDGE_REPLICA_STOP_GRACE_S": "5",
}
"""The defaults watch a rollout for minutes, as is right for large models; here a few seconds must do."""

_PROGRAM = (sys.executable, "-m", "weighbridge.cli.main")


class Server:
    """`start` returns once the server answers; `stop` leaves no process behind."""

    def __init__(self, root: Path, ports: tuple[int, int], settings: Mapping[str, str]) -> None:
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.admin_key = ""
        self.profile = root / "config.toml"
        self._root = root
        inherited = {
            name: value
            for name, value in os.environ.items()
            # Settings of another server, or credentials of the person who runs the demo, are not for it.
            if not name.startswith(("WEIGHBRIDGE_", "AWS_"))
        }
        self._env = {
            **inherited,
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
            "WEIGHBRIDGE_DATA_DIR": str(root / "data"),
            "WEIGHBRIDGE_PORT": str(ports[0]),
            "WEIGHBRIDGE_PROBE_PORT": str(ports[1]),
            **_QUICK,
            **settings,
        }
        self._child: Child | None = None
        self._keys: queue.Queue[str] = queue.Queue(1)
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self, on_progress: Callable[[str], None]) -> None:
        child = Child(
            "server", [*_PROGRAM, "up", "--json"], env=self._env, log=self._log, piped=True
        )
        self._child = child
        reader = threading.Thread(target=self._read, args=(child,), daemon=True)
        reader.start()
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._answers():
            child.require_running()
            if time.monotonic() > deadline:
                raise SetupError(
                    f"The server did not answer within {READY_TIMEOUT_S:g} s. It said:\n{child.log_tail()}"
                )
            time.sleep(0.1)
            while not self._said.empty():
                on_progress(self._said.get())

    def client(self, *, api_key: str | None = None, inference_key: str | None = None) -> Client:
        """A client that goes to this server directly, whatever proxies are configured."""
        return Client(
            self.url,
            api_key,
            admin_key=self.admin_key,
            inference_key=inference_key,
            http_transport=httpx.HTTPTransport(
                limits=httpx.Limits(max_connections=100, max_keepalive_connections=20)
            ),
        )

    def write_profile(self, org: str, *, api_key: str, inference_key: str) -> None:
        """For people who look around while it is kept running."""
        members = {"base_url": self.url, "org": org, "admin_key": self.admin_key}
        keys = {"api_key": api_key, "inference_key": inference_key}
        config.write_profile(self.profile, members | keys)

    def stop(self) -> None:
        if self._child is None:
            return
        # What `down` leaves within its time is ended afterwards.
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*_PROGRAM, "down", "--json"],
                env=self._env,
                timeout=STOP_TIMEOUT_S,
                check=False,
                capture_output=True,
            )
        self._child.stop(grace_s=STOP_TIMEOUT_S)

    @property
    def _log(self) -> Path:
        return self._root / "server.log"

    def _answers(self) -> bool:
        if not self.admin_key:
            with suppress(queue.Empty):
                self.admin_key = self._keys.get_nowait()
            return False
        with self.client() as client:
            try:
                client.admin.status()
            except ClientError:
                return False
        return True

    def _read(self, child: Child) -> None:
        assert child.process.stdout is not None
        for line in child.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "admin_key":
                self._keys.put(event["key"])
            elif event.get("event") == "progress":
                self._said.put(event["message"])
