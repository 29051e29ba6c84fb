"""The stores' Database over rows in memory: what each statement costs in time, and when the database is away."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import cast
from weakref import WeakKeyDictionary

from sqlalchemy import TextClause
from sqlalchemy.sql import dml
from sqlalchemy.sql.base import Executable

from simulation.memory.answers import Result
from simulation.memory.shape import UnknownStatementError, shape_of
from simulation.memory.statements import NOTHING, Answer, Records, Run, compile_statement
from simulation.memory.store import BlockedError, Memory
from simulation.memory.store import Transaction as Rows
from simulation.memory.texts import hosts, known, routes, syncs, usage
from simulation.scheduler import Process, SimLoop, current_process
from simulation.steps import Steps
from weighbridge.errors import UnavailableError
from weighbridge.storage.database import Database, Transaction

LOCK_WAIT_S = 10.0
BROKEN_CONNECTION_S = 0.5
"""How long the server may take to notice that a client has died."""
CONNECT_S = 5.0
"""As `connect_timeout`: for how long a client on another machine tries."""
TEXTS = (hosts, known, routes, syncs, usage)
"""They register what they know when they are read."""


class Prepared:
    """One statement, with the values that it was put together with and the names of those that a call gives."""

    __slots__ = ("_asked", "_run", "_sets", "_values")

    def __init__(self, statement: Executable) -> None:
        key, binds = shape_of(statement)
        run = _compiled.get(key)
        if run is None:
            run = _compiled[key] = compile_statement(statement, binds)
        self._run: Run = run
        self._values = [bind.value for bind in binds]
        self._asked = [(place, bind.key) for place, bind in enumerate(binds) if bind.required]
        self._sets = isinstance(statement, dml.Update) and not statement._values  # noqa: SLF001
        """Whether a call's values also name the columns that are set."""

    def __call__(self, rows: Rows, parameters: object) -> Answer:
        """Raises BlockedError when the statement has to wait for other transactions."""
        if not self._asked or not isinstance(parameters, Mapping):
            return self._run(rows, self._values, _records(parameters))
        values = self._values.copy()
        for place, name in self._asked:
            values[place] = parameters[name]
        return self._run(rows, values, (parameters,) if self._sets else NOTHING)


class PreparedText:
    """A text() statement."""

    __slots__ = ("_run", "_text")

    def __init__(self, statement: TextClause) -> None:
        self._text = statement.text
        self._run = known.find(statement.text)

    def __call__(self, rows: Rows, parameters: object) -> Answer:
        if parameters is None or isinstance(parameters, Mapping):
            return self._run(rows, parameters or {})
        raise UnknownStatementError(f"not for many rows at once: {self._text}")


_compiled: dict[tuple[object, ...], Run] = {}
_prepared: WeakKeyDictionary[Executable, Prepared | PreparedText] = WeakKeyDictionary()


def prepare(statement: Executable) -> Prepared | PreparedText:
    """Raises UnknownStatementError for anything that the stores have not used so far."""
    return PreparedText(statement) if isinstance(statement, TextClause) else Prepared(statement)


def _records(parameters: object) -> Records:
    if parameters is None:
        return NOTHING
    if isinstance(parameters, Mapping):
        return (parameters,)
    assert isinstance(parameters, Sequence)
    return parameters


class Executor:
    """Executes statements; one that also asks PostgreSQL stands in for it in the test of fidelity."""

    def begin(self, memory: Memory) -> Rows:
        return memory.begin()

    def furnished(self, memory: Memory) -> None:
        """The world's first rows are there."""

    def finished(self, memory: Memory) -> None:
        """The world is over; nothing is open any more."""

    def execute(self, rows: Rows, statement: Executable, parameters: object) -> Answer:
        """Raises BlockedError when the statement has to wait for other transactions."""
        prepared = _prepared.get(statement)
        if prepared is None:
            prepared = _prepared[statement] = prepare(statement)
        return prepared(rows, parameters)

    def commit(self, rows: Rows) -> None:
        rows.commit()

    def rollback(self, rows: Rows) -> None:
        rows.end()


class Server:
    """The database server of a world: one for all its clients.

    `away` refuses everybody; `lose_commits` makes the next commits end without an answer: done or not done, as
    chance will have it.
    """

    def __init__(
        self, loop: SimLoop, memory: Memory, chance: Random, executor: Executor, steps: Steps
    ) -> None:
        self.loop = loop
        self.steps = steps
        self.memory = memory
        self.chance = chance
        self.executor = executor
        self.away = False
        self.lose_commits = 0
        self.open: dict[Rows, Process | None] = {}

    def round_trip(self) -> Awaitable[object]:
        return self.loop.pause(0.0002 + 0.0018 * self.chance.random())

    def died(self, process: Process) -> None:
        """Its transactions are rolled back once the server has noticed."""
        for rows, owner in self.open.items():
            if owner is process:
                delay_s = self.chance.uniform(0.0, BROKEN_CONNECTION_S)
                self.loop.later(delay_s, self._abandon, rows)

    def cut_off(self, process: Process) -> None:
        """Its connections are broken, and nothing that goes on in them is committed."""
        for rows, owner in list(self.open.items()):
            if owner is process:
                self._abandon(rows)

    def _abandon(self, rows: Rows) -> None:
        if self.open.pop(rows, self) is not self:
            self.executor.rollback(rows)

    def shut(self) -> None:
        """Every open transaction is over, and nobody gets a new one."""
        self.away = True
        for rows in list(self.open):
            self._abandon(rows)


@dataclass(slots=True)
class Way:
    """The network between one machine and the server."""

    cut: bool = False


OPEN = Way()
"""On one machine."""


class SimDatabase(Database):
    """As `Database`: short transactions; UnavailableError when the server is away, or the way to it is cut."""

    def __init__(self, server: Server, way: Way = OPEN) -> None:  # no engine, no pool
        self._server = server
        self._way = way

    def begin(self) -> "Unit":  # type: ignore[override]  # a class costs less than a generator
        return Unit(self._server, self._way)

    async def ping(self) -> None:
        async with self.begin():
            pass

    async def close(self) -> None:
        pass


class Unit:
    """One unit of work: committed at the end of its block, rolled back by an exception."""

    __slots__ = ("_rows", "_server", "_way")
    _rows: Rows

    def __init__(self, server: Server, way: Way) -> None:
        self._server = server
        self._way = way

    async def __aenter__(self) -> Transaction:
        server, way = self._server, self._way
        await server.round_trip()
        if server.away or way.cut:
            if way is not OPEN:
                await server.loop.pause(server.chance.uniform(0.0, CONNECT_S))
            raise _away()
        self._rows = rows = server.executor.begin(server.memory)
        server.open[rows] = current_process()
        # The stores call `execute` alone, and read what `Result` offers.
        return cast("Transaction", Connection(server, rows))

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        server, rows = self._server, self._rows
        try:
            if error is None:
                await self._commit()
        finally:
            server.open.pop(rows, None)
            if not rows.ended:
                server.executor.rollback(rows)

    async def _commit(self) -> None:
        server, rows = self._server, self._rows
        await server.round_trip()
        _require_open(server, rows)
        lost = server.lose_commits > 0
        if lost:
            server.lose_commits -= 1
        if not lost or server.chance.random() < 0.5:
            await self._make_durable()
        else:
            server.executor.rollback(rows)  # whoever asked for it may die before it hears nothing
        del server.open[rows]
        await server.round_trip()
        if lost or self._way.cut:
            raise _away()

    async def _make_durable(self) -> None:
        server, rows = self._server, self._rows
        if not rows.changed:
            server.executor.commit(rows)
            return
        step = server.steps.begin(f"commit {' '.join(rows.changed)}")
        if step is None:
            await server.round_trip()  # from which a dead process does not come back
            return
        server.executor.commit(rows)
        server.steps.end(step)


class Connection:
    """An open transaction, as the stores use it."""

    __slots__ = ("_rows", "_server")

    def __init__(self, server: Server, rows: Rows) -> None:
        self._server = server
        self._rows = rows

    async def execute(self, statement: Executable, parameters: object = None) -> Result:
        server, rows = self._server, self._rows
        await server.round_trip()
        limit_s = server.loop.time() + LOCK_WAIT_S
        while True:
            _require_open(server, rows)
            try:
                return Result(server.executor.execute(rows, statement, parameters))
            except BlockedError as blocked:
                await _wait(server, rows, blocked.holders, limit_s)


class CircleError(Exception):
    """Transactions wait for each other: PostgreSQL would end one of them, and nothing is written so as to need it."""


async def _wait(server: Server, rows: Rows, holders: list[Rows], end_s: float) -> None:
    """Until one of the holders has ended. A wait that is too long ends this transaction; a circle, the world."""
    if any(holder.waits_for(rows) for holder in holders):
        server.loop.broken.append(CircleError([rows.held, *(one.held for one in holders)]))
        raise _busy()
    ended = asyncio.get_running_loop().create_future()
    for holder in holders:
        holder.waiters.append(ended)
    rows.blocked_by = holders
    try:
        async with asyncio.timeout(end_s - server.loop.time()):
            await ended
    except TimeoutError:
        raise _busy() from None
    finally:
        rows.blocked_by = []


def _require_open(server: Server, rows: Rows) -> None:
    if server.away or rows not in server.open:
        raise _away()


def _away() -> UnavailableError:
    return UnavailableError("the database cannot be reached", code="database_unavailable")


def _busy() -> UnavailableError:
    return UnavailableError("the database is busy", code="database_busy")
