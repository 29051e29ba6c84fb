"""pg_dump, pg_restore and psql; the database's address goes by the environment, where no password shows."""

import os
import subprocess
from pathlib import Path

from psycopg import pq
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from weighbridge.errors import SetupError
from weighbridge.storage import embedded
from weighbridge.storage.database import driver_url

SAID_LINES_MAX = 5


def run(program: str, *arguments: object, url: str | None = None) -> None:
    """SetupError with what the program said when it fails."""
    result = subprocess.run(
        [embedded.client_programs() / program, *map(str, arguments)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**_own(), "LC_ALL": "C", **({} if url is None else environment(url))},
    )
    if result.returncode != 0:
        said = " ".join(result.stderr.strip().splitlines()[-SAID_LINES_MAX:])
        raise SetupError(f"{program} failed: {said}", code="database_program")


def _own() -> dict[str, str]:
    """What the operator has set for libpq (certificates, TLS mode) holds for these programs as for the server."""
    return {name: value for name, value in os.environ.items() if name.startswith("PG")}


def environment(url: str) -> dict[str, str]:
    """The variables of libpq that say what the URL says. SetupError for a part that has none."""
    dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its dialects untyped
    _, arguments = dialect.create_connect_args(driver_url(url))  # type: ignore[no-untyped-call]
    names = {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar
    }
    missing = sorted(set(arguments) - set(names))
    if missing:
        raise SetupError(
            f"{missing[0]} in WEIGHBRIDGE_DATABASE_URL cannot be passed on to PostgreSQL's programs.",
            code="database_url",
        )
    return {names[name]: str(value) for name, value in arguments.items()}


def dump(url: str, target: Path) -> None:
    """One consistent snapshot of the database, in pg_dump's own format."""
    run("pg_dump", "-Fc", "--no-owner", "--no-privileges", "-f", target, url=url)


def script(source: Path, target: Path) -> None:
    """The SQL that makes what a dump holds."""
    run("pg_restore", "--no-owner", "--no-privileges", "-f", target, source)


def play(url: str, *sources: Path) -> None:
    """All of the scripts, one after the other, in one transaction, or nothing."""
    files = [word for source in sources for word in ("-f", source)]
    run("psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", *files, url=url)
