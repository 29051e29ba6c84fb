"""The connection pool: one Database per process."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from sqlalchemy import event, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from weighbridge.clock import monotonic_s
from weighbridge.errors import SetupError, UnavailableError

POOL_CONNECTIONS = 8
POOL_OVERFLOW = 8
POOL_WAIT_S = 10.0
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 10_000
IDLE_TIMEOUT_MS = 5_000
"""A process that is frozen within a transaction loses its locks after this time: less than is left of a lease."""
PING_IDLE_S = 1.0
_IDLE_SINCE = "idle_since_s"
LISTEN_PING_S = 20.0
PING_TIMEOUT_S = 5.0
CONNECTION = {
    "application_name": "weighbridge",
    "connect_timeout": 5,
    # A server that is gone without a word counts as away within this time, not when TCP gives up.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}

Transaction = AsyncConnection
"""What store functions take first: an open transaction that somebody above will commit."""


_SEVERAL_HOSTS = re.compile(
    r"(?P<begin>\w+://(?:[^@/?]*@)?)(?P<hosts>[^@/?]+,[^@/?]+)(?P<path>(?:/[^?]*)?)(?:\?(?P<query>.*))?"
)


def driver_url(url: str) -> URL:
    """The same database through psycopg; SetupError unless it begins with postgresql:// or postgres://.

    Of several hosts (`postgresql://user@one:5432,two:5432/main`) the one that takes writes is used, whichever
    it is at the moment of a connection.
    """
    try:
        parsed = make_url(_one_host_each(url))
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        # The URL itself is not shown: it may hold a password.
        raise SetupError(
            "WEIGHBRIDGE_DATABASE_URL is not the address of a PostgreSQL database; "
            "it reads postgresql://user:password@host/database.",
            code="database_url",
        )
    hosts = parsed.query.get("host", ())
    if not isinstance(hosts, str) and len(hosts) > 1 and "target_session_attrs" not in parsed.query:
        parsed = parsed.update_query_dict({"target_session_attrs": "read-write"})
    return parsed.set(drivername="postgresql+psycopg")


def _one_host_each(url: str) -> str:
    """Several hosts as libpq writes them, in the way that SQLAlchemy reads."""
    found = _SEVERAL_HOSTS.fullmatch(url)
    if found is None:
        return url
    hosts = [host if ":" in host else f"{host}:5432" for host in found["hosts"].split(",")]
    members = [*([found["query"]] if found["query"] else []), *(f"host={host}" for host in hosts)]
    return f"{found['begin']}{found['path']}?{'&'.join(members)}"


class Database:
    """Short transactions on PostgreSQL; UnavailableError when it is away, or too busy for now (D8)."""

    def __init__(self, url: str, *, schema: str | None = None) -> None:
        options = (
            f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} "
            f"-c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS}"
        )
        if schema is not None:
            options += f" -c search_path={schema}"
        self._engine = create_async_engine(
            driver_url(url),
            pool_size=POOL_CONNECTIONS,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_WAIT_S,
            connect_args={"options": options, **CONNECTION},
        )
        _ask_idle_connections(self._engine.sync_engine)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """One unit of work: committed at the end of the block, rolled back by an exception."""
        committing = False
        try:
            async with self._engine.begin() as connection:
                yield connection
                committing = True
        except PoolTimeoutError as error:
            raise _busy() from error
        except DBAPIError as error:
            if error.connection_invalidated or _is_away(error):
                raise _unavailable(committing=committing) from error
            if isinstance(error, OperationalError):
                raise _busy() from error
            raise

    @property
    def url(self) -> URL:
        """With its password: not for a log or a message."""
        return self._engine.url

    async def ping(self) -> None:
        async with self.begin() as tx:
            await tx.execute(text("SELECT 1"))

    async def notifications(self, channel: str) -> AsyncIterator[str]:
        """Payloads that are notified on the channel, on a connection of its own; "" once it listens.

        Raises UnavailableError when the connection cannot be had or is lost.
        """
        _, arguments = self._engine.dialect.create_connect_args(self._engine.url)
        try:
            connection = await psycopg.AsyncConnection.connect(
                **{**arguments, **CONNECTION}, autocommit=True
            )
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                yield ""
                while True:
                    async for notice in connection.notifies(timeout=LISTEN_PING_S):
                        yield notice.payload
                    # Silence: only a question shows whether anybody is at the other end.
                    async with asyncio.timeout(PING_TIMEOUT_S):
                        await connection.execute("SELECT 1")
        # Any refusal: a server in recovery answers LISTEN with 25006, which is no OperationalError.
        except (psycopg.Error, TimeoutError) as error:
            raise _unavailable(committing=False) from error

    async def notify(self, channel: str, payloads: Iterable[str]) -> None:
        async with self.begin() as tx:
            for payload in payloads:
                named = {"channel": channel, "payload": payload}
                await tx.execute(text("SELECT pg_notify(:channel, :payload)"), named)

    async def close(self) -> None:
        await self._engine.dispose()


def _ask_idle_connections(engine: Engine) -> None:
    """Before one is used again, its server has to answer; one that was in use a moment ago is not asked."""

    def given_back(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = monotonic_s()

    def taken(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        since_s = record.info.get(_IDLE_SINCE)
        if since_s is None or monotonic_s() - since_s < PING_IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise DisconnectionError("its server is gone") from error

    event.listen(engine, "checkin", given_back)
    event.listen(engine, "checkout", taken)


def unreachable(url: URL, error: DBAPIError) -> UnavailableError:
    """For an operator, at a start: what was said, and of which database; without its user's name and password."""
    return UnavailableError(
        f"The database at {_place(url)} cannot be used: {_said(error)}. "
        "Check WEIGHBRIDGE_DATABASE_URL and that the database runs.",
        code="database_unreachable",
    )


def forbidden(url: URL, error: ProgrammingError) -> Exception:
    """As `unreachable`, for a user who lacks a right: a SetupError; `error` itself where it is another fault."""
    if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
        return error
    return SetupError(
        f"The database at {_place(url)} refuses its user: {_said(error)}. Grant what is missing "
        "(docs/operating/roles.md), or set another user in WEIGHBRIDGE_DATABASE_URL.",
        code="database_forbidden",
    )


def _place(url: URL) -> str:
    host = url.host or url.query.get("host") or "the local socket"
    port = f":{url.port}" if url.port else ""
    return f"{host}{port}/{url.database or ''}"


def _said(error: DBAPIError) -> str:
    return next(iter(str(error.orig).strip().splitlines()), "it gives no reason")


def _unavailable(*, committing: bool) -> UnavailableError:
    done = "whether the change was stored is not known" if committing else "nothing was changed"
    return UnavailableError(
        f"The database cannot be reached; {done}. Try again shortly.", code="database_unavailable"
    )


def _busy() -> UnavailableError:
    """Locks held too long, statements cut off, deadlocks and a pool run dry pass by themselves."""
    return UnavailableError(
        "The database is busy; nothing was changed. Try again shortly.", code="database_busy"
    )


def _is_away(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # the server never answered, or the driver refused a value before asking
        return isinstance(error, OperationalError | InterfaceError)
    # 57P0x: it is shutting down or starting. 25006: read-only. 53300: it has no connection left.
    return state.startswith("57P0") or state in {"25006", "53300"}
