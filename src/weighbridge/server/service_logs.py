"""The log files of services: bounded while the service goes on writing, and their last lines."""

import os
from pathlib import Path

SERVICE_LOG_BYTES_MAX = 16 * 1024 * 1024
TAIL_BYTES_MAX = 64 * 1024


def cap_log(path: Path, bytes_max: int = SERVICE_LOG_BYTES_MAX) -> None:
    """Move the newest half of a log that is too long to `path.1` and empty it.

    The writer keeps its descriptor, which appends; lines written between the copy and the cut are
    lost.
    """
    try:
        if path.stat().st_size <= bytes_max:
            return
        with path.open("rb") as log:
            log.seek(-(bytes_max // 2), os.SEEK_END)
            path.with_name(path.name + ".1").write_bytes(log.read(bytes_max // 2))
        os.truncate(path, 0)
    except FileNotFoundError:
        return


def last_lines(path: Path, lines_max: int, from_byte: int) -> list[str]:
    """The last lines that are not empty, looking no further back than `from_byte`."""
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(min(from_byte, end), end - TAIL_BYTES_MAX))
            text = log.read(TAIL_BYTES_MAX).decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()][-lines_max:]
