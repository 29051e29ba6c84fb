"""The end of a server's processes: one service, what a service left behind, or everything."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weighbridge.runtimes.processes import (
    ProcessIdentity,
    Remembered,
    find_marked,
    identify,
    is_alive,
    lock_holder,
    send_signal,
)
from weighbridge.server.services import SERVICE_ROLE, ServiceEvent, ServiceEventKind

SUPERVISOR = "supervisor"
SERVICES_FILE = "services.json"
DEFAULT_GRACE_S = 10.0
KILL_WAIT_S = 5.0
REST_WAIT_S = 15.0
"""What engines get whose node agent was killed: their shims are at it already."""
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Stoppable:
    """What a supervisor writes down of a service, for whoever must stop it later."""

    name: str
    stop_grace_s: float


def down(run_dir: Path, on_event: Callable[[ServiceEvent], None] = lambda _: None) -> list[str]:
    """Stop everything that runs on this data directory; returns the names of what was stopped.

    Works whether the supervisor lives or not, and leaves no process of it behind. An embedded
    database is the caller's to stop, afterwards.
    """
    run_dir = run_dir.resolve()
    everything = all_marked(run_dir)
    services = read_services(run_dir)
    stopped = []
    supervisor = lock_holder(run_dir / f"{SUPERVISOR}.lock")
    if supervisor:
        grace_s = sum(service.stop_grace_s + KILL_WAIT_S for service in services) + REST_WAIT_S
        stopped += [service.name for service in services if main_process(run_dir, service.name)]
        stop_process(supervisor, grace_s)
        stopped.append(SUPERVISOR)
    for service in reversed(services):
        main = main_process(run_dir, service.name)
        if main:
            began_s = time.monotonic()
            on_event(ServiceEvent(ServiceEventKind.STOPPING, service.name, main.pid))
            stop_process(main, service.stop_grace_s)
            after_s = time.monotonic() - began_s
            on_event(ServiceEvent(ServiceEventKind.STOPPED, service.name, main.pid, after_s))
            stopped.append(service.name)
        stop_leftovers(run_dir, service.name, service.stop_grace_s)
    stop_rest(everything)
    return stopped


def main_process(run_dir: Path, service: str) -> ProcessIdentity | None:
    """The living main process of a service: it holds the lock, or is about to take it."""
    holder = lock_holder(run_dir / f"{service}.lock")
    if holder:
        return holder
    leaders = [p for p in leftovers(run_dir, service) if _is_session_leader(p.pid)]
    return min(leaders, key=lambda p: p.start_ticks, default=None)


def leftovers(run_dir: Path, service: str) -> list[ProcessIdentity]:
    """The processes of a service, by the mark that its main handed down."""
    return [
        process.identity
        for process in find_marked(run_dir)
        if process.mark.role == SERVICE_ROLE and process.mark.name == service
    ]


def stop_process(
    process: ProcessIdentity, grace_s: float, is_hurried: Callable[[], bool] = lambda: False
) -> None:
    """SIGTERM, the grace, SIGKILL; returns once it is dead, or cannot be killed within 5 s."""
    send_signal(process, signal.SIGTERM)
    if not wait_until(lambda: is_hurried() or not is_alive(process), grace_s) or is_alive(process):
        send_signal(process, signal.SIGKILL)
        wait_until(lambda: not is_alive(process), KILL_WAIT_S)


def stop_leftovers(run_dir: Path, service: str, grace_s: float) -> None:
    """End the children that a service's main process has not taken with it."""
    left = Remembered(lambda: leftovers(run_dir, service))
    for process in left.living():
        send_signal(process, signal.SIGTERM)
    if not wait_until(lambda: not left.living(), grace_s):
        for process in left.living():
            send_signal(process, signal.SIGKILL)
        wait_until(lambda: not left.living(), KILL_WAIT_S)


def all_marked(run_dir: Path) -> Remembered:
    """Whatever carries the mark of this server, or did when it was looked for, which is now."""
    marked = Remembered(lambda: [process.identity for process in find_marked(run_dir)])
    marked.living()
    return marked


def stop_rest(rest: Remembered, limit_s: float = REST_WAIT_S) -> None:
    """Wait until all of it is dead, then kill it."""
    if wait_until(lambda: not rest.living(), limit_s):
        return

    def killed() -> bool:
        left = rest.living()
        for process in left:
            send_signal(process, signal.SIGKILL)
        return not left

    wait_until(killed, KILL_WAIT_S)


def write_services(run_dir: Path, services: list[Stoppable]) -> None:
    rows = [{"name": s.name, "stop_grace_s": s.stop_grace_s} for s in services]
    fresh = run_dir / f"{SERVICES_FILE}.new"
    fresh.write_text(json.dumps(rows))
    fresh.replace(run_dir / SERVICES_FILE)


def read_services(run_dir: Path) -> list[Stoppable]:
    """In the order of their start; from the locks, in no order, when the list is gone."""
    try:
        rows = json.loads((run_dir / SERVICES_FILE).read_text())
        return [Stoppable(row["name"], row["stop_grace_s"]) for row in rows]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        names = sorted(path.stem for path in run_dir.glob("*.lock"))
        return [Stoppable(name, DEFAULT_GRACE_S) for name in names if name != SUPERVISOR]


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _is_session_leader(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid and identify(pid) is not None
    except ProcessLookupError:
        return False
