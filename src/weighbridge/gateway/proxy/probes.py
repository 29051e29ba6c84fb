"""The operator's listener, in the gateway's parent: /livez, /readyz and /metrics."""

import time
from pathlib import Path

from weighbridge.errors import WeighbridgeError
from weighbridge.gateway.courier.figures import read_courier_figures
from weighbridge.gateway.errors import error_answer
from weighbridge.gateway.metrics.figures import prometheus_text, read_figures
from weighbridge.gateway.wire.heads import RequestHead
from weighbridge.gateway.wire.visits import Visit
from weighbridge.gateway.wire.writing import AnswerWriter

_TEXT = b"content-type: text/plain; charset=utf-8\r\n"
_PROMETHEUS = b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"


CONTROL_FIGURES = "control.prom"
"""Written by the control process; `DataDir.figures_file`."""
FIGURES_AGE_MAX_S = 60.0
"""Older ones are of a control process that is gone."""


class ProbeSite:
    def __init__(self, run: Path) -> None:
        self._run = run

    def visit(self, head: RequestHead | None, client: AnswerWriter) -> Visit:
        return _ProbeVisit(self._run, "" if head is None else head.path, client)


class _ProbeVisit:
    def __init__(self, run: Path, path: str, client: AnswerWriter) -> None:
        self._run = run
        self._path = path
        self._client = client

    def accept(self) -> int:
        return 0

    def start(self, body: bytes) -> None:
        if self._path == "/livez":
            self._client.answer(200, _TEXT, b"ok\n")
            return
        workers = read_figures(self._run)
        if self._path == "/readyz" and any(figures.ready for figures in workers):
            self._client.answer(200, _TEXT, b"ready\n")
        elif self._path == "/readyz":
            self._client.answer(503, _TEXT, b"no worker has loaded its tables yet\n")
        elif self._path == "/metrics":
            text = prometheus_text(workers).encode() + read_courier_figures(self._run)
            self._client.answer(200, _PROMETHEUS, text + _control_figures(self._run))
        else:
            self._client.answer(404, _TEXT, b"")

    def refuse(self, error: WeighbridgeError) -> None:
        answer = error_answer(error)
        self._client.answer(answer.status, b"content-type: application/json\r\n", answer.body)

    def gone(self) -> None:
        """Nothing is kept of a probe."""

    def expired(self) -> None:
        """It is answered at once."""

    def held_back(self) -> None:
        """Its answer is whole in the connection's buffer."""

    def let_go(self) -> None:
        """As `held_back`."""


def _control_figures(run: Path) -> bytes:
    path = run / CONTROL_FIGURES
    try:
        fresh = time.time() - path.stat().st_mtime <= FIGURES_AGE_MAX_S
        return path.read_bytes() if fresh else b""
    except FileNotFoundError:
        return b""
