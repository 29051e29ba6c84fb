"""Run one engine and leave nothing of it behind; a program that imports the stdlib only.

Started by path as `python -I -S shim.py LIFELINE_FD STATUS_FD`, with one JSON document on standard
input: `argv`, `env`, `log`, `log_bytes_max`, `grace_s`. It detaches from its parent, adopts every
orphan of the engine (child subreaper), and copies the engine's output into a log of bounded size.

The lifeline is the read end of a pipe that the owner holds open. A line `{"stop": seconds}` on it
asks for a stop; its end means that the owner has died by any cause, and is a stop with the grace of
the document. A stop is SIGTERM to the engine's process group, the grace, then SIGKILL to everything
that is left.

The status pipe carries JSON lines to the owner: `{"shim": pid, "pid": pid}`, or `"error"` in place
of `"pid"`, then `{"exit": code}` when the engine has ended (negative: the signal), then `{"gone":
true}` when no process of its tree is left. Without the last line the shim itself was killed; the
engine then dies by its parent death signal, and the owner must look for its children.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TREE_GRACE_S = 2.0
"""What the children of an engine that has ended get before they are killed."""
KILL_PERIOD_S = 0.02
READ_BYTES = 64 * 1024
LIFELINE_BYTES_MAX = 4096
NOT_STARTED_CODE = 127
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def main() -> None:
    lifeline, status = int(sys.argv[1]), int(sys.argv[2])
    document = json.load(sys.stdin)
    if os.fork():
        os._exit(0)  # the parent reaps this process; the shim goes on as nobody's child
    for fd in (lifeline, status):
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    shim = Shim(document, lifeline, status)
    try:
        shim.run()
    except Exception as error:
        shim.report({"error": f"the shim failed: {error!r}"})
        raise


class Shim:
    def __init__(self, document: dict[str, object], lifeline: int, status: int) -> None:
        self._argv = [str(word) for word in _sequence(document["argv"])]
        self._env = {str(k): str(v) for k, v in _mapping(document["env"]).items()}
        self._grace_s = float(str(document["grace_s"]))
        self._log = CappedLog(Path(str(document["log"])), int(str(document["log_bytes_max"])))
        self._lifeline = lifeline
        self._lifeline_bytes = b""
        self._status = status
        self._engine = 0
        self._exit_code: int | None = None
        self._kill_at_s: float | None = None
        self._childless = False

    def run(self) -> None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        log_read, log_write = os.pipe()
        os.set_blocking(log_read, False)
        error = self._start_engine(log_write)
        os.close(log_write)
        first: dict[str, object] = {"error": error} if error else {"pid": self._engine}
        self.report({"shim": os.getpid()} | first)
        self._watch(wake_read, log_read)
        self.report({"gone": True})

    def report(self, line: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # an owner that has died needs no report
            os.write(self._status, json.dumps(line).encode() + b"\n")

    def _start_engine(self, output: int) -> str | None:
        """Fork and exec; returns what went wrong, as text."""
        error_read, error_write = os.pipe()
        shim = os.getpid()
        self._engine = os.fork()
        if self._engine == 0:
            try:
                become_engine(shim, output, self._argv, self._env)
            except OSError as error:
                os.write(error_write, f"{error.strerror}: {self._argv[0]}".encode())
            finally:
                os._exit(NOT_STARTED_CODE)
        os.close(error_write)
        with os.fdopen(error_read, "rb") as pipe:
            return pipe.read().decode(errors="replace") or None

    def _watch(self, wake: int, output: int) -> None:
        poller = select.poll()
        for fd in (wake, output, self._lifeline):
            poller.register(fd, select.POLLIN)
        while not self._childless:
            for fd, _ in poller.poll(self._wait_ms()):
                if fd == wake:
                    _read(wake)
                elif fd == output:
                    data = _read(output)
                    if data == b"":
                        poller.unregister(output)
                    self._log.write(data or b"")
                elif not self._read_lifeline():
                    poller.unregister(self._lifeline)
            self._reap()
            if self._kill_at_s is not None and time.monotonic() >= self._kill_at_s:
                self._signal_tree(signal.SIGKILL)
        while data := _read(output):
            self._log.write(data)

    def _wait_ms(self) -> float | None:
        if self._kill_at_s is None:
            return None
        return max(KILL_PERIOD_S, self._kill_at_s - time.monotonic()) * 1000

    def _read_lifeline(self) -> bool:
        """Obey what the owner wrote; False once it can write no more."""
        data = _read(self._lifeline)
        if data is None:
            return True
        if not data:
            self._stop(self._grace_s)
            return False
        *lines, rest = (self._lifeline_bytes + data).split(b"\n")
        self._lifeline_bytes = rest[:LIFELINE_BYTES_MAX]
        for line in lines:
            self._stop(float(json.loads(line)["stop"]))
        return True

    def _on_signal(self, number: int, frame: object) -> None:
        if number != signal.SIGCHLD:
            self._stop(self._grace_s)

    def _stop(self, grace_s: float) -> None:
        """Ask the tree to end; a second call may shorten the grace, never lengthen it."""
        kill_at_s = time.monotonic() + max(0.0, grace_s)
        if self._kill_at_s is None:
            self._kill_at_s = kill_at_s
            self._signal_tree(signal.SIGTERM)
        self._kill_at_s = min(self._kill_at_s, kill_at_s)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._engine:
                self._exit_code = os.waitstatus_to_exitcode(status)
                self.report({"exit": self._exit_code})
                if (
                    self._kill_at_s is not None
                ):  # children that had left the group heard nothing yet
                    self._signal_tree(signal.SIGTERM)
                self._stop(TREE_GRACE_S)

    def _signal_tree(self, number: int) -> None:
        """The engine's group, and every child that left it.

        Grandchildren of other groups become children of the shim when their parents die, so
        repeated SIGKILLs reach all of them. The group is only signalled while a child of ours is in
        it: its number cannot belong to anybody else then.
        """
        children = child_pids()
        groups = {_group(pid) for pid in children}
        if self._engine in groups or self._exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._engine, number)
        for pid in children:
            if _group(pid) != self._engine and pid != self._engine:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)


class CappedLog:
    """Two files, `path` and `path.1`, of half the limit each: the older half goes when the newer is
    full.

    A disk that is full or gone costs log lines, never the engine.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._half_bytes = max(1, bytes_max // 2)
        self._fd: int | None = None
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        if data:
            with contextlib.suppress(OSError):
                self._append(data[-self._half_bytes :])

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _append(self, data: bytes) -> None:
        if self._fd is not None and self._size_bytes + len(data) > self._half_bytes:
            self.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            self._size_bytes = 0
        self._size_bytes += os.write(self._fd, data)


def become_engine(shim: int, output: int, argv: list[str], env: dict[str, str]) -> None:
    """Turn this fresh child into the engine; returns only by OSError."""
    os.setpgid(0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shim:  # it died before the line above
        os._exit(NOT_STARTED_CODE)
    signal.set_wakeup_fd(-1)
    for number in (*SIGNALS, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.execvpe(argv[0], argv, env)  # noqa: S606 - the command is the operator's, and needs no shell


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def child_pids() -> list[int]:
    me = os.getpid()
    with contextlib.suppress(OSError):
        text = Path(f"/proc/self/task/{me}/children").read_text()  # needs CONFIG_PROC_CHILDREN
        return [int(word) for word in text.split()]
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _parent(p) == me]


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _read(fd: int) -> bytes | None:
    """What is there; empty at the end; None when there is nothing yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def _sequence(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


if __name__ == "__main__":
    main()
