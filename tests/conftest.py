"""One embedded PostgreSQL for the whole run, one schema per worker, empty tables for each test."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from weighbridge.storage import embedded
from weighbridge.storage.database import Database
from weighbridge.storage.schema.migrate import migrate
from weighbridge.storage.tables import metadata

URL_VARIABLE = "WEIGHBRIDGE_TEST_DATABASE_URL"


@pytest.fixture(scope="session")
def database_url() -> str:
    return os.environ[URL_VARIABLE]


@pytest.fixture(scope="session")
def database_schema(database_url: str, worker_id: str) -> str:
    schema = f"test_{worker_id}"
    migrate(database_url, schema=schema)
    return schema


@pytest.fixture
async def database(database_url: str, database_schema: str) -> AsyncIterator[Database]:
    """A Database on this worker's schema, every table empty."""
    db = Database(database_url, schema=database_schema)
    names = ", ".join(table.name for table in metadata.sorted_tables)
    async with db.begin() as tx:
        await tx.execute(text(f"TRUNCATE {names}"))
    yield db
    await db.close()


@pytest.fixture
def public_tmp_path() -> Iterator[Path]:
    """A directory that other users can enter, as the embedded database needs when tests run as root."""
    path = _public_directory("wb-")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def make_public_directory() -> Iterator[Callable[[], Path]]:
    """As public_tmp_path, for fixtures that live longer than a test."""
    made: list[Path] = []

    def make() -> Path:
        made.append(_public_directory("wb-"))
        return made[-1]

    yield make
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    directory = _public_directory("wb-pg-")
    config.stash[_DIRECTORY] = directory
    os.environ[URL_VARIABLE] = embedded.start(directory / "postgres")


def pytest_unconfigure(config: pytest.Config) -> None:
    directory = config.stash.get(_DIRECTORY, None)
    if directory is not None:
        embedded.stop(directory / "postgres")
        shutil.rmtree(directory, ignore_errors=True)


def _public_directory(prefix: str) -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    parent = next((path for path in candidates if embedded.reachable(path)), candidates[0])
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    path.chmod(0o755)
    return path


_DIRECTORY = pytest.StashKey[Path]()
