"""The connection pool: one Database per process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from weighbridge.errors import SetupError, UnavailableError

POOL_CONNECTIONS = 8
POOL_OVERFLOW = 8
POOL_WAIT_S = 10.0
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 10_000

Transaction = AsyncConnection
"""What store functions take first: an open transaction that somebody above will commit."""


def driver_url(url: str) -> URL:
    """The same database through psycopg; SetupError unless it begins with postgresql:// or postgres://."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        # The URL itself is not shown: it may hold a password.
        raise SetupError(
            "WEIGHBRIDGE_DATABASE_URL is not the address of a PostgreSQL database; "
            "it reads postgresql://user:password@host/database.",
            code="database_url",
        )
    return parsed.set(drivername="postgresql+psycopg")


class Database:
    """Short transactions on PostgreSQL; raises UnavailableError when the server cannot be reached (D8)."""

    def __init__(self, url: str, *, schema: str | None = None) -> None:
        options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
        if schema is not None:
            options += f" -c search_path={schema}"
        self._engine = create_async_engine(
            driver_url(url),
            pool_size=POOL_CONNECTIONS,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_WAIT_S,
            pool_pre_ping=True,
            connect_args={
                "options": options,
                "application_name": "weighbridge",
                "connect_timeout": 5,
            },
        )

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """One unit of work: committed at the end of the block, rolled back by an exception."""
        try:
            async with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if error.connection_invalidated or _is_connect_failure(error):
                raise UnavailableError(
                    "The database cannot be reached; nothing was changed. Try again shortly.",
                    code="database_unavailable",
                ) from error
            raise

    async def ping(self) -> None:
        async with self.begin() as tx:
            await tx.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self._engine.dispose()


def _is_connect_failure(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    # No SQLSTATE: the server never answered. 57P0x: it is shutting down or starting. 25006: read-only.
    return state is None or state.startswith("57P0") or state in {"25006", "53300"}
