"""Backup and restore on a real database: all of it or nothing, and no version number is given twice (V1)."""

import stat
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from control_world import PEPPER
from weighbridge.accounts import service as accounts
from weighbridge.clock import Clock
from weighbridge.engines.base import EngineSettings
from weighbridge.errors import SetupError
from weighbridge.registry import service as registry
from weighbridge.registry.store import next_number
from weighbridge.replicas.routes_store import next_generation
from weighbridge.routing.hosts import store as hosts
from weighbridge.routing.hosts.identity import HostIdentity
from weighbridge.routing.hosts.model import HostReport
from weighbridge.routing.model import RouteTable
from weighbridge.routing.published import ROUTES, Published, heads
from weighbridge.routing.tokens import load_pepper, store_pepper
from weighbridge.server.rescue.backup import backup
from weighbridge.server.rescue.programs import environment
from weighbridge.server.rescue.restore import NUMBERS_SKIPPED, restore
from weighbridge.settings import Settings
from weighbridge.storage import lease
from weighbridge.storage.database import Database, driver_url
from weighbridge.storage.schema.migrate import migrate
from weighbridge.weights.tensors import TensorSpec

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=10)


@pytest.fixture
def urls(database_url: str, worker_id: str) -> Iterator[list[str]]:
    """Two databases: one with our schema, one empty."""
    names = [f"rescue_{kind}_{worker_id}" for kind in ("from", "to")]
    admin = create_engine(driver_url(database_url), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for name in names:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}"))
    made = [database_url.replace("/postgres?", f"/{name}?") for name in names]
    migrate(made[0])
    yield made
    with admin.connect() as connection:
        for name in names:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def settings_of(url: str, directory: Path) -> Settings:
    return Settings(data_dir=directory, database_url=url)


async def furnish(url: str, org: str = "acme", arch: str = "tiny") -> str:
    database = Database(url)
    async with database.begin() as tx:
        made = await accounts.create_org(
            tx, org, org_id=f"org_{org}", s3_external_id=f"x-{org}", now=NOON
        )
        await registry.register(
            tx,
            arch,
            source_uri="/base",
            base_digest="b" * 64,
            tensors=(TensorSpec("w", "F32", (2, 3)),),
            engine=EngineSettings(),
            org_ids=frozenset({made.id}),
            now=NOON,
        )
    await database.close()
    return made.id


async def numbers(url: str, count: int, org: str = "org_acme", arch: str = "tiny") -> list[int]:
    """As many version numbers as uploads would be given."""
    database = Database(url)
    given = []
    for _ in range(count):
        async with database.begin() as tx:
            given.append(await next_number(tx, org, arch))
    await database.close()
    return given


async def test_no_number_given_after_the_backup_is_given_again(
    urls: list[str], tmp_path: Path
) -> None:
    source = settings_of(urls[0], tmp_path / "a")
    await furnish(urls[0])
    before = await numbers(urls[0], 3)
    backup(source, tmp_path / "b.backup", with_secrets=False, now=NOON)
    lost = await numbers(urls[0], 5)
    await furnish(urls[0], "other", "late")
    lost_elsewhere = await numbers(urls[0], 5, "org_other", "late")
    target = settings_of(urls[1], tmp_path / "c")
    done = restore(target, tmp_path / "b.backup", replace=False, now=LATER)
    assert done.numbers_floor == 3 + NUMBERS_SKIPPED + 600
    fresh = await numbers(urls[1], 3)
    assert min(fresh) > max(*before, *lost)
    # What was made only after the backup, and is made again, begins above the floor too.
    await furnish(urls[1], "other", "late")
    assert min(await numbers(urls[1], 3, "org_other", "late")) > max(lost_elsewhere)
    # The same old backup once more: what was given meanwhile is not given again either.
    again = restore(target, tmp_path / "b.backup", replace=True, now=LATER)
    assert again.numbers_floor >= max(fresh)
    assert min(await numbers(urls[1], 3)) > max(fresh)


async def test_gateways_elsewhere_take_the_tables_that_are_published_after_a_restore(
    urls: list[str], tmp_path: Path
) -> None:
    """Whatever generation they had by then: the next one is above it."""
    source = settings_of(urls[0], tmp_path / "a")
    database = Database(urls[0])
    newest, host = Published(ROUTES, RouteTable), HostIdentity("one", "one")

    async def publish(times: int) -> int:
        for _ in range(times):
            async with database.begin() as tx:
                table = RouteTable(await next_generation(tx, ROUTES, 0), ())
                await newest.put(tx, table, place="", pepper_mark="")
        return table.generation

    await publish(2)
    async with database.begin() as tx:
        await hosts.enter(tx, host, HostReport(2, 2, (), {}))
    backup(source, tmp_path / "b.backup", with_secrets=False, now=NOON)
    had = await publish(40)
    await database.close()
    restore(source, tmp_path / "b.backup", replace=True, now=LATER)
    database = Database(urls[0])
    async with database.begin() as tx:
        assert await heads(tx) == {}
        assert await hosts.hosts(tx) == []
    assert await publish(1) > had
    await database.close()


def test_a_backup_is_of_one_moment_and_for_its_owner_alone(urls: list[str], tmp_path: Path) -> None:
    source = settings_of(urls[0], tmp_path / "a")
    store_pepper(source.paths.secrets, PEPPER)
    file = tmp_path / "b.backup"
    backup(source, file, with_secrets=False, now=NOON)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.backup"]
    with tarfile.open(file) as archive:
        assert archive.getnames() == ["backup.json", "database.dump"]
    assert PEPPER not in file.read_bytes()


def test_keys_work_where_the_pepper_is_the_same_or_came_along(
    urls: list[str], tmp_path: Path
) -> None:
    source = settings_of(urls[0], tmp_path / "a")
    store_pepper(source.paths.secrets, PEPPER)
    backup(source, tmp_path / "bare", with_secrets=False, now=NOON)
    backup(source, tmp_path / "whole", with_secrets=True, now=NOON)
    target = settings_of(urls[1], tmp_path / "c")
    assert not restore(target, tmp_path / "bare", replace=False, now=NOON).keys_work
    assert restore(target, tmp_path / "whole", replace=True, now=NOON).keys_work
    assert load_pepper(target.paths.secrets) == PEPPER


async def test_a_controller_of_before_has_no_lease_and_one_that_lives_is_not_robbed(
    urls: list[str], tmp_path: Path
) -> None:
    source = settings_of(urls[0], tmp_path / "a")
    database = Database(urls[0])
    async with database.begin() as tx:
        held = await lease.acquire(tx, "controller", "one")
    assert held is not None
    file = tmp_path / "b.backup"
    backup(source, file, with_secrets=False, now=NOON)
    with pytest.raises(SetupError, match=r"A controller runs on this database \(one\)"):
        restore(source, file, replace=True, now=NOON)
    async with database.begin() as tx:
        await lease.release(tx, held)
    await database.close()
    restore(source, file, replace=True, now=NOON)
    database = Database(urls[0])
    async with database.begin() as tx:
        assert not await lease.renew(tx, held)
        after = await lease.acquire(tx, "controller", "two")
        assert after is not None
        await lease.release(tx, after)
    await database.close()
    assert after.epoch > held.epoch + 1000
    restore(source, file, replace=True, now=NOON + timedelta(minutes=1))
    database = Database(urls[0])
    async with database.begin() as tx:
        again = await lease.acquire(tx, "controller", "three")
    await database.close()
    assert again is not None
    assert again.epoch > after.epoch + 1


def test_what_is_no_backup_or_would_overwrite_is_refused_and_nothing_is_changed(
    urls: list[str], tmp_path: Path
) -> None:
    source = settings_of(urls[0], tmp_path / "a")
    file = tmp_path / "b.backup"
    backup(source, file, with_secrets=False, now=NOON)
    with pytest.raises(SetupError, match="has data in it"):
        restore(source, file, replace=False, now=NOON)
    (tmp_path / "text").write_text("no backup")
    for name in ("text", "missing"):
        with pytest.raises(SetupError, match=name):
            restore(source, tmp_path / name, replace=True, now=NOON)
    with pytest.raises(SetupError, match="The database is empty"):
        backup(settings_of(urls[1], tmp_path / "c"), file, with_secrets=False, now=Clock().now())
    with pytest.raises(SetupError, match="cannot be written"):
        backup(source, tmp_path / "none" / "b", with_secrets=False, now=NOON)


def test_a_password_reaches_the_programs_and_no_command_line() -> None:
    url = "postgresql://me:secret@db.example:6432/main?sslmode=require"
    assert environment(url) == {
        "PGHOST": "db.example",
        "PGPORT": "6432",
        "PGUSER": "me",
        "PGPASSWORD": "secret",
        "PGDATABASE": "main",
        "PGSSLMODE": "require",
    }
