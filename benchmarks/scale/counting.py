"""What a pass costs: time and CPU here, CPU of the database's processes, its statements and their rows."""

import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import event

from weighbridge.runtimes.processes import child_pids
from weighbridge.storage.database import Database

_MEMORY = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cost:
    """`statements` without BEGIN and COMMIT; `rows` are those that came or were written."""

    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    database_cpu_ms: float = 0.0
    statements: float = 0.0
    rows: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))


class Meter:
    """Of one Database in this process, and of the PostgreSQL whose data lies in `postgres`."""

    def __init__(self, database: Database, postgres: Path) -> None:
        self._postgres = postgres
        self._statements = 0
        self._rows = 0
        engine = database._engine.sync_engine  # noqa: SLF001 - nobody else counts
        event.listen(engine, "after_cursor_execute", self._count)

    def _count(self, _connection: object, cursor: Any, *_: object) -> None:
        self._statements += 1
        self._rows += max(0, cursor.rowcount)

    async def measure(self, step: Callable[[], Awaitable[object]]) -> Cost:
        statements, rows = self._statements, self._rows
        database_ms = database_cpu_ms(self._postgres)
        cpu_s, wall_s = time.process_time(), time.monotonic()
        await step()
        cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
        return Cost(
            wall_ms=wall_s * 1000,
            cpu_ms=cpu_s * 1000,
            database_cpu_ms=database_cpu_ms(self._postgres) - database_ms,
            statements=self._statements - statements,
            rows=self._rows - rows,
        )


def database_cpu_ms(postgres: Path) -> float:
    """Of the server and its children that live, in user and system mode."""
    postmaster = int((postgres / "postmaster.pid").read_text().split("\n", 1)[0])
    return sum(map(_run_ms, [postmaster, *child_pids(postmaster)]))


def _run_ms(task: int | Path) -> float:
    try:
        return int(Path(f"/proc/{task}/schedstat").read_text().split()[0]) / 1e6
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def process_cpu_ms(pid: int) -> float:
    """Of all its threads that live."""
    threads = [one.name for one in Path(f"/proc/{pid}/task").iterdir()]
    return sum(_run_ms(Path(f"{pid}/task/{thread}")) for thread in threads)


def memory_mib(pid: int | None = None) -> tuple[float, float]:
    """Resident now, and at most so far."""
    found = dict(_MEMORY.findall(Path(f"/proc/{pid or os.getpid()}/status").read_text()))
    return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024
