"""Whether a program may use a schema (D9, expand/contract): each start looks, before it does anything."""

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from weighbridge.errors import SetupError, UnavailableError
from weighbridge.storage.database import Database, Transaction, forbidden, unreachable

MIGRATIONS = Path(__file__).parents[1] / "migrations"
OLDEST_PROGRAM = "schema.oldest_program"
"""The counter that says which programs may run on this schema: those whose own schema is no older."""

_HAS_ONE = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_FOUND = text("SELECT version_num FROM alembic_version")
_OLDEST = text("SELECT value FROM counters WHERE name = :name")


async def require_schema(database: Database) -> None:
    """SetupError unless this program may use the database as it is; changes nothing.

    UnavailableError when it cannot be asked now: it says why where the database cannot be reached.
    """
    try:
        async with database.begin() as tx:
            found, oldest = await _schema(tx)
    except ProgrammingError as error:
        raise forbidden(database.url, error) from error
    except UnavailableError as error:
        if error.code != "database_unavailable" or not isinstance(error.__cause__, DBAPIError):
            raise
        raise unreachable(database.url, error.__cause__) from error
    head = head_schema()
    if found is None or found < head:
        state = "empty" if found is None else f"at schema {found}"
        raise SetupError(
            f"The database is {state}, and this Weighbridge needs schema {head}. Run `weighbridge migrate` "
            "with this version first.",
            code="schema_old",
        )
    refuse_too_new(found, oldest, head)


def head_schema() -> str:
    """What this program's own migrations end at; schemas are numbers of four digits, which compare as text."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def refuse_too_new(found: str, oldest: int | None, head: str) -> None:
    """SetupError for a newer program's schema, unless that says that it still carries this one."""
    if found > head and (oldest is None or int(head) < oldest):
        raise SetupError(
            f"The database is at schema {found}, which this Weighbridge does not know: "
            "it was upgraded by a newer one. Run that version, or restore a backup.",
            code="schema_new",
        )


async def _schema(tx: Transaction) -> tuple[str | None, int | None]:
    """Which it is, and the oldest program that it carries."""
    if not (await tx.execute(_HAS_ONE)).scalar_one():
        return None, None
    found = (await tx.execute(_FOUND)).scalar_one_or_none()
    oldest = (await tx.execute(_OLDEST, {"name": OLDEST_PROGRAM})).scalar_one_or_none()
    return found, oldest
