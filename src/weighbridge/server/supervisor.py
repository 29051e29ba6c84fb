"""The supervisor behind `weighbridge up`: starts the services, restarts them, stops them in order.

It knows nothing of models or endpoints. Services outlive it (D3): each has a session of its own and
a lock, by which the next supervisor finds and adopts it.
"""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from weighbridge.clock import new_short_id
from weighbridge.errors import SetupError
from weighbridge.runtimes.processes import (
    HeldLock,
    Mark,
    ProcessIdentity,
    hold_lock,
    identify,
    is_alive,
    lock_holder,
    mark_of,
    send_signal,
)
from weighbridge.server.service_logs import cap_log, last_lines
from weighbridge.server.services import (
    SERVICE_ROLE,
    RestartPolicy,
    Service,
    ServiceEvent,
    ServiceEventKind,
    fingerprint,
)
from weighbridge.server.stopping import (
    SUPERVISOR,
    Stoppable,
    all_marked,
    leftovers,
    main_process,
    stop_leftovers,
    stop_process,
    stop_rest,
    wait_until,
    write_services,
)

POLL_S = 0.25
"""How late the death of an adopted service, which is no child of ours, is seen."""
READY_POLL_S = 0.05
LATE_AFTER_S = 30.0
LOG_CHECK_PERIOD_S = 30.0
LOG_LINES_SHOWN = 15
LEAVE_WAIT_S = 60.0
"""A supervisor that is just stopping a service looks up when that has ended."""


@dataclass(slots=True)
class _Watched:
    """One service and its present process, if it has one."""

    service: Service
    process: ProcessIdentity | None = None
    follows: ProcessIdentity | None = None
    """The living process that `process` is to take over from."""
    child: subprocess.Popen[bytes] | None = None
    began_s: float = 0.0
    start_at_s: float = 0.0
    log_start_bytes: int = 0
    is_ready: bool = False
    is_late: bool = False
    was_ready_once: bool = False
    exits_s: list[float] = field(default_factory=list)


class Supervisor:
    """`services` are in the order of their start; they are stopped in the reverse order.

    A service of an earlier supervisor is adopted if its command, settings and `version` of the code
    are the same, and is replaced otherwise.
    """

    def __init__(
        self,
        services: Sequence[Service],
        run_dir: Path,
        log_dir: Path,
        *,
        version: str = "",
        policy: RestartPolicy | None = None,
        on_event: Callable[[ServiceEvent], None] = lambda _: None,
    ) -> None:
        self._watched = [_Watched(service) for service in services]
        self._run_dir = run_dir.resolve()
        self._log_dir = log_dir
        self._version = version
        self._policy = policy or RestartPolicy()
        self._on_event = on_event
        self._stop_requests = 0
        self._is_leaving = False
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()  # may be put by a signal's code
        self._doomed: list[tuple[ProcessIdentity, float]] = []
        self._logs_checked_s = 0.0

    def run(self, lock: HeldLock | None = None) -> bool:
        """Block until SIGTERM, SIGINT or `request_stop`, then stop everything; or until SIGUSR1, which leaves all
        services to the next supervisor. Returns whether they were left.

        A caller with work of its own before and after, such as a database, passes the lock that it
        took by `take_supervisor_lock` and releases it itself.

        Raises SetupError when another supervisor runs here, or when a service that was never ready
        exits with code 78 (its last line is the message) or again and again. A service that was
        ready before is restarted for ever: the others must not fall with it.
        """
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = nullcontext() if lock else take_supervisor_lock(self._run_dir)
        with own, self._signals():
            services = [watched.service for watched in self._watched]
            write_services(self._run_dir, [Stoppable(s.name, s.stop_grace_s) for s in services])
            try:
                while not self._stop_requests and not self._is_leaving:
                    self._look()
                    self._sleep()
            finally:
                if not self._is_leaving:
                    self._stop_all()
        return self._is_leaving

    def request_stop(self) -> None:
        """From any thread; a second request cuts every grace short."""
        self._stop_requests += 1
        self._wakes.put(None)

    def _look(self) -> None:
        """One pass over everything; each step returns at once."""
        now_s = time.monotonic()
        for watched in self._watched:
            if watched.process is None:
                if now_s >= watched.start_at_s:
                    self._start(watched)
            elif _has_ended(watched, watched.process):
                self._note_exit(watched, watched.process)
            elif not watched.is_ready:
                self._check_ready(watched, watched.process)
        for process, kill_at_s in self._doomed:
            if now_s >= kill_at_s:
                send_signal(process, signal.SIGKILL)
        self._doomed = [(p, at_s) for p, at_s in self._doomed if is_alive(p)]
        if now_s >= self._logs_checked_s + LOG_CHECK_PERIOD_S:
            self._logs_checked_s = now_s
            for watched in self._watched:
                cap_log(self._log_path(watched))

    def _sleep(self) -> None:
        is_waiting = any(not (w.process and (w.is_ready or w.is_late)) for w in self._watched)
        with suppress(queue.Empty):
            self._wakes.get(timeout=READY_POLL_S if is_waiting else POLL_S)

    def _start(self, watched: _Watched) -> None:
        service = watched.service
        found = main_process(self._run_dir, service.name)
        mark = mark_of(found.pid) if found else None
        watched.began_s = time.monotonic()
        watched.is_ready = watched.is_late = False
        if found and mark and mark.incarnation.startswith(f"{self._fingerprint(service)}."):
            watched.process, watched.child = found, None
            self._tell(ServiceEventKind.ADOPTED, watched, found)
            return
        # It runs with other settings or another version.
        if found and service.follow_argv and watched.follows is None:
            watched.follows = found
            self._spawn(watched, service.follow_argv)
            return
        watched.follows = None
        if found:
            stop_process(found, service.stop_grace_s, self._is_hurried)
        self._doom_leftovers(service)
        self._spawn(watched)

    def _spawn(self, watched: _Watched, more_argv: Sequence[str] = ()) -> None:
        service = watched.service
        log = self._log_path(watched)
        cap_log(log)
        incarnation = f"{self._fingerprint(service)}.{new_short_id()}"
        mark = Mark(str(self._run_dir), SERVICE_ROLE, service.name, incarnation)
        with log.open("ab") as output:
            watched.log_start_bytes = output.tell()
            try:
                watched.child = subprocess.Popen(
                    [*service.argv, *more_argv],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | dict(service.env) | mark.environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise SetupError(f"{service.name} cannot be started: {error}") from error
        # A child that has ended already still has a number until it is reaped.
        process = identify(watched.child.pid) or ProcessIdentity(watched.child.pid, -1)
        watched.process = process
        self._tell(ServiceEventKind.STARTED, watched, process)

    def _check_ready(self, watched: _Watched, process: ProcessIdentity) -> None:
        age_s = time.monotonic() - watched.began_s
        check = watched.service.ready_check
        # Until it has taken over, it is the other one that answers.
        waits = watched.follows and main_process(self._run_dir, watched.service.name) != process
        if not waits and (check() if check else age_s >= self._policy.healthy_s):
            watched.is_ready = watched.was_ready_once = True
            watched.follows = None
            self._tell(ServiceEventKind.READY, watched, process, time.monotonic() - watched.began_s)
        elif age_s >= LATE_AFTER_S and not watched.is_late:
            watched.is_late = True
            self._tell(ServiceEventKind.LATE, watched, process, age_s)

    def _note_exit(self, watched: _Watched, process: ProcessIdentity) -> None:
        now_s = time.monotonic()
        exit_code = watched.child.wait() if watched.child else None
        watched.process = watched.child = None
        self._tell(ServiceEventKind.EXITED, watched, process, now_s - watched.began_s, exit_code)
        if watched.follows is not None and is_alive(watched.follows):
            # It could not take over, and nobody else serves: next time the other one is stopped first.
            watched.start_at_s = now_s
            return
        self._doom_leftovers(watched.service)
        if now_s - watched.began_s >= self._policy.healthy_s:
            watched.exits_s.clear()
        watched.exits_s.append(now_s)
        watched.exits_s = watched.exits_s[-self._policy.exits_max :]
        watched.start_at_s = now_s + self._policy.delay_s(watched.exits_s)
        if not watched.was_ready_once:
            self._refuse_hopeless(watched, exit_code, now_s)

    def _refuse_hopeless(self, watched: _Watched, exit_code: int | None, now_s: float) -> None:
        log = self._log_path(watched)
        if exit_code == os.EX_CONFIG:
            lines = last_lines(log, 1, watched.log_start_bytes)
            raise SetupError(
                "".join(lines) or f"{watched.service.name} refused to start; see {log}"
            )
        if self._policy.is_hopeless(watched.exits_s, now_s):
            lines = last_lines(log, LOG_LINES_SHOWN, 0)
            raise SetupError(
                f"{watched.service.name} ended {len(watched.exits_s)} times in a row "
                f"(last exit code {exit_code}); the end of {log}:\n" + "\n".join(lines)
            )

    def _doom_leftovers(self, service: Service) -> None:
        """A main process that was killed may have left workers: they end beside its successor."""
        for process in leftovers(self._run_dir, service.name):
            send_signal(process, signal.SIGTERM)
            self._doomed.append((process, time.monotonic() + service.stop_grace_s))

    def _stop_all(self) -> None:
        everything = all_marked(self._run_dir)
        for watched in reversed(self._watched):
            grace_s = watched.service.stop_grace_s
            if process := watched.process:
                began_s = time.monotonic()
                self._tell(ServiceEventKind.STOPPING, watched, process)
                stop_process(process, grace_s, self._is_hurried)
                exit_code = watched.child.wait() if watched.child else None
                after_s = time.monotonic() - began_s
                self._tell(ServiceEventKind.STOPPED, watched, process, after_s, exit_code)
            stop_leftovers(self._run_dir, watched.service.name, grace_s)
        stop_rest(everything)

    def _fingerprint(self, service: Service) -> str:
        return fingerprint(service, self._version)

    def _is_hurried(self) -> bool:
        return self._stop_requests > 1

    def _log_path(self, watched: _Watched) -> Path:
        return self._log_dir / f"{watched.service.name}.log"

    def _tell(
        self,
        kind: ServiceEventKind,
        watched: _Watched,
        process: ProcessIdentity,
        after_s: float = 0.0,
        exit_code: int | None = None,
    ) -> None:
        name = watched.service.name
        with suppress(OSError):  # a terminal that was closed ends the telling, not the services
            self._on_event(ServiceEvent(kind, name, process.pid, after_s, exit_code))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and a closed terminal are requests to stop; a child's end wakes us."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number in (signal.SIGCHLD, signal.SIGUSR1):
                self._is_leaving |= number == signal.SIGUSR1
                self._wakes.put(None)
            else:
                self.request_stop()

        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def ask_to_leave(run_dir: Path) -> None:
    """End the supervisor that lives on this directory, if one does; its services go on. Raises SetupError."""
    holder = lock_holder(run_dir / f"{SUPERVISOR}.lock")
    if holder is None:
        return
    send_signal(holder, signal.SIGUSR1)
    if not wait_until(lambda: not is_alive(holder), LEAVE_WAIT_S):
        raise SetupError(
            f"The `weighbridge up` that runs on {run_dir.parent} (process {holder.pid}) does not let go; kill it, its "
            "services go on.",
            code="already_running",
        )


def take_supervisor_lock(run_dir: Path) -> HeldLock:
    """Raises SetupError with the sentence to show when a supervisor lives on this directory."""
    path = run_dir / f"{SUPERVISOR}.lock"
    holder = lock_holder(path)
    if holder:
        raise SetupError(
            f"Weighbridge runs already on {run_dir.parent} (process {holder.pid}); "
            "stop it with `weighbridge down`, or follow it with `weighbridge up --take-over`.",
            code="already_running",
        )
    return hold_lock(path)


def _has_ended(watched: _Watched, process: ProcessIdentity) -> bool:
    return watched.child.poll() is not None if watched.child else not is_alive(process)
