"""An event loop on virtual time: no sockets, no threads, no waiting; processes on it can be killed at any await."""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random

STEPS_MAX = 2_000_000
"""A world that needs more than this spins in place."""


class SpinError(Exception):
    """The world makes steps without end."""


class Process:
    """What dies together. A dead process never runs again: no `finally`, no `except`, as after kill -9."""

    __slots__ = ("alive", "backlog", "fuse", "name", "on_death")

    def __init__(self, name: str, on_death: Callable[["Process"], None] | None = None) -> None:
        self.name = name
        self.alive = True
        self.fuse: int | None = None
        """Steps left until it is killed; None: it is not to be."""
        self.backlog: list[Call] | None = None
        """What it would have done while it is stopped; None: it runs."""
        self.on_death = on_death

    @property
    def stopped(self) -> bool:
        return self.backlog is not None

    def pause(self) -> None:
        """As by SIGSTOP; time goes on without it."""
        if self.backlog is None:
            self.backlog = []

    def resume(self) -> None:
        backlog, self.backlog = self.backlog, None
        for call in backlog or ():
            call.again()

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            if self.on_death is not None:
                self.on_death(self)


_process: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose code runs now; None for the world's own."""
    return _process.get()


class Call(asyncio.TimerHandle):
    """A call that is due, and what waits for its turn (`ready`)."""

    __slots__ = ("ready",)

    def __init__(  # the parent's own is for loops that log and debug
        self,
        ready: "deque[Call]",
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: Context,
    ) -> None:
        self.ready = ready
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def again(self) -> None:
        """To be run as soon as possible."""
        self.ready.append(self)


class SimLoop(asyncio.AbstractEventLoop):  # what is missing here nobody asks for
    """The part of an event loop that tasks, events, timeouts and `to_thread` need.

    `time` starts at 0 and moves only when nothing is left to do at the present moment.
    """

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._now_s = 0.0
        self._context = Context()
        self._ready: deque[Call] = deque()
        self._timers: list[tuple[float, int, Call]] = []
        """A heap by time and, at the same time, by order of arrival."""
        self._numbers = 0
        self._steps = 0
        self._tasks: list[asyncio.Task[object]] = []
        self.broken: list[BaseException] = []
        """Exceptions that no task of the product kept to itself."""

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.Handle:
        call = Call(self._ready, callback, args, copy_context() if context is None else context)
        self._ready.append(call)
        return call

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> None:
        """A call of the world's own, which goes on when the process that caused it dies."""
        self.call_at(self._now_s + delay_s, callback, *args, context=self._context)

    def later_in(self, process: Process) -> Callable[..., None]:
        """As `later`, but the call waits while that process is stopped, and is not made once it is dead."""
        context = self._context.copy()
        context.run(_process.set, process)

        def later(delay_s: float, callback: Callable[..., object], *args: object) -> None:
            self.call_at(self._now_s + delay_s, callback, *args, context=context)

        return later

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._numbers = number = self._numbers + 1
        call = Call(self._ready, callback, args, copy_context() if context is None else context)
        now_s = self._now_s
        heapq.heappush(self._timers, (max(now_s, when), number, call))
        return call

    def create_future(self) -> "asyncio.Future[object]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]  # any result will do
        self,
        coro: Coroutine[object, object, object],  # type: ignore[override]  # only coroutines here
        *,
        name: object = None,
        context: Context | None = None,
    ) -> "asyncio.Task[object]":
        task = asyncio.Task(coro, loop=self, name=str(name), context=context)
        # Kept, so that a dead process's coroutine is not ended by the garbage collector in the middle of a run.
        self._tasks.append(task)
        return task

    def run_in_executor(  # type: ignore[override]  # there are no executors, only results
        self, executor: object, func: Callable[..., object], *args: object
    ) -> "asyncio.Future[object]":
        """A thread's work takes a moment, and happens as a whole at the end of it."""
        future = self.create_future()
        self.call_later(self._chance.uniform(0.0002, 0.003), self._work, future, func, args)
        return future

    def _work(
        self,
        future: "asyncio.Future[object]",
        func: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        if future.cancelled():
            return
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the thread
            future.set_exception(error)
        else:
            future.set_result(result)

    def pause(self, seconds: float) -> Awaitable[object]:
        """Let time pass; cheaper than asyncio.sleep, and on this loop alone."""
        done: asyncio.Future[object] = asyncio.Future(loop=self)
        self._numbers = number = self._numbers + 1
        call = Call(self._ready, _wake, (done,), copy_context())
        heapq.heappush(self._timers, (self._now_s + seconds, number, call))
        return done

    def call_exception_handler(self, context: dict[str, object]) -> None:
        error = context.get("exception")
        self.broken.append(
            error if isinstance(error, BaseException) else RuntimeError(str(context))
        )

    def spawn(
        self, process: Process | None, work: Coroutine[object, object, object]
    ) -> "asyncio.Task[object]":
        """Run work as a task of a process (None: of the world itself)."""
        context = copy_context()
        context.run(_process.set, process)
        return self.create_task(work, context=context)

    def run(self, until: Callable[[], bool], end_s: float) -> bool:
        """Make steps until `until` holds, looked at whenever time moves; False when `end_s` came first."""
        previous = events._get_running_loop()  # noqa: SLF001 - asyncio's way to name the running loop
        events._set_running_loop(self)  # noqa: SLF001
        try:
            return self._run(until, end_s)
        finally:
            events._set_running_loop(previous)  # noqa: SLF001

    def _run(self, until: Callable[[], bool], end_s: float) -> bool:
        ready, timers, step = self._ready, self._timers, self._step
        while True:
            while ready:
                step(ready.popleft())
            if until():
                return True
            if not timers or timers[0][0] > end_s:
                return False
            self._now_s = now_s = timers[0][0]
            while timers and timers[0][0] == now_s:
                ready.append(heapq.heappop(timers)[2])

    def _step(self, call: Call) -> None:
        # The parts of `call` are used as they are: nothing else runs as often.
        if call._cancelled:  # noqa: SLF001
            return
        process = call._context.get(_process)  # noqa: SLF001
        if process is not None:
            if process.fuse is not None:
                process.fuse -= 1
                if process.fuse < 0:
                    process.kill()
            if not process.alive:
                return
            if process.backlog is not None:
                process.backlog.append(call)
                return
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise SpinError(f"more than {STEPS_MAX} steps by {self._now_s:g} s")
        call._context.run(call._callback, *call._args)  # noqa: SLF001

    def discard(self) -> None:
        """End what is left without a trace; the world is over."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
                coroutine = task.get_coro()
                if coroutine is not None:
                    coroutine.close()
        self._tasks.clear()


def _wake(future: "asyncio.Future[object]") -> None:
    if not future.done():
        future.set_result(None)
