"""Processes of this machine: who they are, marks to find them by, and locks that prove one lives.

A pid alone names nobody, for it is given away again: identity is pid and start time. A mark is one
environment variable that every descendant inherits, so a tree can be found again when all that knew
of it has died.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from weighbridge.errors import SetupError

MARK_VARIABLE = "WEIGHBRIDGE_MARK"
LOCK_WAIT_S = 1.0
"""A lock that is only being looked at, or whose holder is just ending, is free within this time."""
POLL_S = 0.02
LOCK_TEXT_BYTES_MAX = 4096
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    pid: int
    start_ticks: int
    """Clock ticks from boot to its start, as /proc tells."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a process is to us. `home` is the run directory of the server that it belongs to."""

    home: str
    role: str
    name: str
    incarnation: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        text = {
            "home": self.home,
            "role": self.role,
            "name": self.name,
            "incarnation": self.incarnation,
            "labels": dict(self.labels),
        }
        return {MARK_VARIABLE: json.dumps(text)}


@dataclass(frozen=True, slots=True)
class MarkedProcess:
    identity: ProcessIdentity
    mark: Mark


def identify(pid: int) -> ProcessIdentity | None:
    """None when no such process lives; one that has ended and is not reaped yet lives no more.

    One whose first thread has ended while others run, or are still ending, lives: its memory and
    its files are theirs.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, threads, start_ticks = fields[0], int(fields[17]), int(fields[19])
    return None if state in "ZX" and threads <= 1 else ProcessIdentity(pid, start_ticks)


def is_alive(process: ProcessIdentity) -> bool:
    return identify(process.pid) == process


def send_signal(process: ProcessIdentity, number: signal.Signals) -> None:
    """Signal this very process, or nobody if it has ended."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def find_marked(home: Path) -> list[MarkedProcess]:
    """Every living process of this user whose mark names `home`.

    One that is just ending is not found: the kernel takes its environment before its files, ports
    and devices. `Remembered` waits for those too.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (mark := _read_mark(entry)) and mark.home == str(home):
            identity = identify(int(entry.name))
            if identity:
                found.append(MarkedProcess(identity, mark))
    return found


class Remembered:
    """What `find` has found at any time, until it is dead.

    For whoever waits for an end: a process whose mark is gone already may still hold its port and
    its accelerator's memory (R19).
    """

    def __init__(
        self,
        find: Callable[[], Iterable[ProcessIdentity]],
        known: Iterable[ProcessIdentity] = (),
    ) -> None:
        self._find = find
        self._known = set(known)

    def living(self) -> list[ProcessIdentity]:
        """Look again; in no order."""
        self._known = {process for process in {*self._known, *self._find()} if is_alive(process)}
        return list(self._known)


def child_pids(parent: int) -> list[int]:
    """Children of `parent`, those that await reaping included."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent(entry) == parent
    ]


def mark_of(pid: int) -> Mark | None:
    return _read_mark(Path(f"/proc/{pid}"))


def reap(pid: int) -> bool:
    """Take the exit status of a child, or it stays as a zombie; False while it lives."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children instead of init's."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


class HeldLock:
    """An exclusive lock of this process; it ends with the process, or by `release`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def hold_lock(path: Path) -> HeldLock:
    """Take the lock and write who holds it: pid and start time. Keep the answer as long as you
    live.

    A process that forks without exec shares the lock with its children; close it there. The file is
    never deleted, or two processes could hold locks of the same name. Raises SetupError when
    another process holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _wait(lambda: _lock(fd, fcntl.LOCK_EX), LOCK_WAIT_S):
        os.close(fd)
        holder = lock_holder(path)
        who = f"process {holder.pid}" if holder else "another process"
        raise SetupError(f"{who} holds {path} already", code="lock_held")
    me = identify(os.getpid())
    assert me is not None
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"pid": me.pid, "start_ticks": me.start_ticks}).encode(), 0)
    return HeldLock(fd)


def lock_holder(path: Path) -> ProcessIdentity | None:
    """Who holds the lock; None when nobody does, or when only a child of its holder does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        holder: list[ProcessIdentity] = []

        def settled() -> bool:
            if _lock(fd, fcntl.LOCK_SH):
                fcntl.flock(fd, fcntl.LOCK_UN)
                return True
            holder.extend(_read_holder(fd))  # empty for the moment between its lock and its text
            return bool(holder)

        _wait(settled, LOCK_WAIT_S)
        return holder[0] if holder else None
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> list[ProcessIdentity]:
    try:
        text = json.loads(os.pread(fd, LOCK_TEXT_BYTES_MAX, 0))
        identity = ProcessIdentity(int(text["pid"]), int(text["start_ticks"]))
    except (ValueError, KeyError, TypeError):
        return []
    return [identity] if is_alive(identity) else []


def _wait(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _read_mark(entry: Path) -> Mark | None:
    prefix = f"{MARK_VARIABLE}=".encode()
    try:
        if entry.stat().st_uid != os.geteuid():
            return None
        for variable in _environment(entry).split(b"\0"):
            if variable.startswith(prefix):
                return Mark(**json.loads(variable[len(prefix) :]))
    except (OSError, ValueError, TypeError):
        return None
    return None


def _environment(entry: Path) -> bytes:
    """Of any thread: the first may have ended before the others."""
    with contextlib.suppress(ProcessLookupError):
        return (entry / "environ").read_bytes()
    for thread in (entry / "task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            return (thread / "environ").read_bytes()
    return b""


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None
