"""A worker's counters, the file it shares them in, and their Prometheus text."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from weighbridge.routing.acks import WORKERS_MAX, process_start_ticks

Labels = tuple[str, str, int]
"""Route, endpoint id ('' when it is not a known one) and status: bounded by what the operator has made."""


class RequestFigures(msgspec.Struct):
    """Sums over the requests of one label set since the worker started."""

    route: str
    endpoint_id: str
    status: int
    requests: int = 0
    duration_s: float = 0.0
    first_bytes: int = 0
    first_byte_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class HoldFigures(msgspec.Struct):
    """Sums over the requests of one endpoint that found no ready replica, since the worker started.

    Of those `held`, `streams` were streamed ones; `released` went on to a replica. `refused` counts also those that
    found no room; who left by itself is in neither.
    """

    endpoint_id: str
    waiting: int = 0
    held: int = 0
    streams: int = 0
    released: int = 0
    refused: int = 0
    held_s: float = 0.0


class WorkerFigures(msgspec.Struct):
    """What a worker tells its parent, once a second."""

    worker: int
    pid: int
    ready: bool
    in_flight: int
    routes_generation: int
    keys_generation: int
    requests: list[RequestFigures]
    holds: list[HoldFigures] = []


@dataclass(slots=True)
class Figures:
    """A worker's own counters; changed on its event loop only."""

    rows: dict[Labels, RequestFigures] = field(default_factory=dict)

    def count(
        self,
        labels: Labels,
        duration_s: float,
        first_byte_s: float | None,
        prompt_tokens: int,
        completion_tokens: int,
    ) -> None:
        row = self.rows.get(labels)
        if row is None:
            row = self.rows[labels] = RequestFigures(*labels)
        row.requests += 1
        row.duration_s += duration_s
        row.prompt_tokens += prompt_tokens
        row.completion_tokens += completion_tokens
        if first_byte_s is not None:
            row.first_bytes += 1
            row.first_byte_s += first_byte_s


def figures_file(run: Path, worker: int) -> Path:
    return run / f"gateway-{worker}.json"


def write_figures(run: Path, figures: WorkerFigures) -> None:
    """Renamed into place, not fsynced: it is worth nothing after a crash of the machine."""
    path = figures_file(run, figures.worker)
    temporary = path.with_name(f".{path.name}.{figures.pid}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(figures))
    temporary.rename(path)


def read_figures(run: Path) -> Sequence[WorkerFigures]:
    """Those of the workers that live; a dead one's file may still lie there."""
    found = []
    for worker in range(WORKERS_MAX):
        try:
            text = figures_file(run, worker).read_bytes()
            figures = msgspec.json.decode(text, type=WorkerFigures)
        except (FileNotFoundError, msgspec.MsgspecError):
            continue
        if process_start_ticks(figures.pid) is not None:
            found.append(figures)
    return found


def prometheus_text(workers: Iterable[WorkerFigures]) -> str:
    """Text format 0.0.4. Series are per worker, so that a restarted one resets its own only."""
    samples: dict[str, list[str]] = defaultdict(list)
    for figures in workers:
        for name, labels, value in _samples(figures):
            pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
            samples[name].append(f"weighbridge_gateway_{name}{{{pairs}}} {value}")
    lines: list[str] = []
    for name, rows in samples.items():
        kind = "counter" if name.endswith(("_total", "_sum", "_count")) else "gauge"
        lines += [f"# TYPE weighbridge_gateway_{name} {kind}", *rows]
    return "\n".join(lines) + "\n"


def _samples(figures: WorkerFigures) -> Iterator[tuple[str, dict[str, str], float]]:
    worker = {"worker": str(figures.worker)}
    yield "ready", worker, int(figures.ready)
    yield "in_flight", worker, figures.in_flight
    yield "routes_generation", worker, figures.routes_generation
    yield "keys_generation", worker, figures.keys_generation
    for row in figures.requests:
        labels = {
            **worker,
            "route": row.route,
            "endpoint": row.endpoint_id,
            "status": str(row.status),
        }
        yield "requests_total", labels, row.requests
        yield "request_seconds_sum", labels, row.duration_s
        yield "first_byte_seconds_sum", labels, row.first_byte_s
        yield "first_byte_seconds_count", labels, row.first_bytes
        yield "prompt_tokens_total", labels, row.prompt_tokens
        yield "completion_tokens_total", labels, row.completion_tokens
    for hold in figures.holds:
        endpoint = {**worker, "endpoint": hold.endpoint_id}
        yield "holding", endpoint, hold.waiting
        yield "held_requests_total", endpoint, hold.held
        yield "held_streams_total", endpoint, hold.streams
        yield "held_released_total", endpoint, hold.released
        yield "held_refused_total", endpoint, hold.refused
        yield "held_seconds_sum", endpoint, hold.held_s


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
