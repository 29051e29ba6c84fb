"""The command line of the gateway's processes: server settings, each of which an argument may replace."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weighbridge.settings import DataDir, Settings

EXIT_SETUP = 78
"""EX_CONFIG of sysexits.h: starting again without a change will not help."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a gateway process needs to know; `worker` is None in the parent.

    `listeners` are descriptors of the sockets that a worker is given; with `take_over` a parent follows a living one.
    """

    data_dir: DataDir
    pepper_dir: Path
    host: str
    port: int
    probe_host: str
    probe_port: int
    workers: int
    worker: int | None
    listeners: tuple[int, ...]
    take_over: bool
    request_max_s: float
    drain_s: float
    queue_wait_s: float
    queue_requests_max: int
    hold_requests_max: int
    hold_bytes_max: int
    hold_head_s: float
    stream_keepalive_s: float
    stream_idle_s: float
    log_level: str
    control_urls: str
    courier: bool
    """Whether the tables come from the database, by a courier."""

    def courier_argv(self) -> Sequence[str]:
        """Arguments of the courier; the database's URL is in the environment."""
        return (
            *("--data-dir", str(self.data_dir.root)),
            *("--pepper-dir", str(self.pepper_dir)),
            *("--log-level", self.log_level),
        )

    def worker_argv(self, worker: int, port: int, listeners: Sequence[int]) -> Sequence[str]:
        """Arguments of one worker process; no secret is among them (T5)."""
        return (
            *("--data-dir", str(self.data_dir.root)),
            *("--pepper-dir", str(self.pepper_dir)),
            *("--host", self.host),
            *("--port", str(port)),
            *("--workers", str(self.workers)),
            *("--worker", str(worker)),
            *("--listeners", ",".join(map(str, listeners))),
            *("--request-max-s", str(self.request_max_s)),
            *("--drain-s", str(self.drain_s)),
            *("--queue-wait-s", str(self.queue_wait_s)),
            *("--queue-requests-max", str(self.queue_requests_max)),
            *("--hold-requests-max", str(self.hold_requests_max)),
            *("--hold-bytes-max", str(self.hold_bytes_max)),
            *("--hold-head-s", str(self.hold_head_s)),
            *("--stream-keepalive-s", str(self.stream_keepalive_s)),
            *("--stream-idle-s", str(self.stream_idle_s)),
            *("--control-urls", self.control_urls),
            *("--log-level", self.log_level),
        )


def read_options(argv: Sequence[str], settings: Settings) -> Options:
    """Exits with status 2 and a usage line for arguments it does not know."""
    parser = argparse.ArgumentParser(prog="weighbridge.gateway", allow_abbrev=False)
    parser.add_argument("--data-dir", type=Path, default=settings.data_dir)
    parser.add_argument("--pepper-dir", type=Path, help="default: secrets/ in the data directory")
    parser.add_argument("--host", default=settings.host)
    parser.add_argument("--port", type=int, default=settings.port)
    parser.add_argument("--probe-host", default=settings.probe_host)
    parser.add_argument("--probe-port", type=int, default=settings.probe_port)
    parser.add_argument("--workers", type=int, default=settings.gateway_workers)
    parser.add_argument("--worker", type=int, help="set by the parent: this worker's index")
    parser.add_argument("--listeners", default="", help="set by the parent: its sockets")
    parser.add_argument(
        "--take-over", action="store_true", help="follow the gateway that serves here without a gap"
    )
    parser.add_argument("--request-max-s", type=float, default=settings.request_max_s)
    parser.add_argument("--drain-s", type=float, default=30.0, help="for streams after SIGTERM")
    parser.add_argument("--queue-wait-s", type=float, default=settings.queue_wait_s)
    parser.add_argument("--queue-requests-max", type=int, default=settings.queue_requests_max)
    parser.add_argument("--hold-requests-max", type=int, default=settings.hold_requests_max)
    parser.add_argument("--hold-bytes-max", type=int, default=settings.hold_bytes_max)
    parser.add_argument("--hold-head-s", type=float, default=settings.hold_head_s)
    parser.add_argument("--stream-keepalive-s", type=float, default=settings.stream_keepalive_s)
    parser.add_argument("--stream-idle-s", type=float, default=settings.stream_idle_s)
    parser.add_argument("--log-level", default=settings.log_level)
    parser.add_argument("--control-urls", default=settings.control_urls)
    parser.add_argument(
        "--courier", action="store_true", help="tables come from WEIGHBRIDGE_DATABASE_URL"
    )
    found = parser.parse_args(argv)
    data_dir = DataDir(found.data_dir.expanduser().resolve())
    return Options(
        data_dir=data_dir,
        pepper_dir=found.pepper_dir or data_dir.secrets,
        host=found.host,
        port=found.port,
        probe_host=found.probe_host,
        probe_port=found.probe_port,
        workers=found.workers,
        worker=found.worker,
        listeners=tuple(int(word) for word in found.listeners.split(",") if word),
        take_over=found.take_over,
        request_max_s=found.request_max_s,
        drain_s=found.drain_s,
        queue_wait_s=found.queue_wait_s,
        queue_requests_max=found.queue_requests_max,
        hold_requests_max=found.hold_requests_max,
        hold_bytes_max=found.hold_bytes_max,
        hold_head_s=found.hold_head_s,
        stream_keepalive_s=found.stream_keepalive_s,
        stream_idle_s=found.stream_idle_s,
        log_level=found.log_level,
        control_urls=found.control_urls,
        courier=found.courier,
    )
