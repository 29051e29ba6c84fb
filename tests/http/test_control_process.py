"""The control process itself: who may speak to it, and what it leaves behind at an orderly end."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text

from weighbridge.server.services import accepts_unix
from weighbridge.settings import DataDir
from weighbridge.storage.database import driver_url
from weighbridge.storage.schema.migrate import migrate

WAIT_S = 30.0


@pytest.fixture
def own_database(database_url: str, worker_id: str) -> Iterator[str]:
    """A database of its own: the process uses the default schema."""
    name = f"control_{worker_id}"
    admin = create_engine(driver_url(database_url), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = database_url.replace("/postgres?", f"/{name}?")
    migrate(url)
    yield url
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def control(own_database: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], DataDir]]:
    paths = DataDir(tmp_path)
    paths.run.mkdir(mode=0o755)  # as an operator's own mkdir may have left it
    paths.run.chmod(0o755)
    environment = {
        **os.environ,
        "WEIGHBRIDGE_DATA_DIR": str(tmp_path),
        "WEIGHBRIDGE_DATABASE_URL": own_database,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "weighbridge.server.roles.launch"], env=environment
    )
    deadline_s = time.monotonic() + WAIT_S
    while not accepts_unix(paths.control_socket):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    yield process, paths
    process.kill()
    process.wait()


def test_nobody_else_can_reach_the_control_socket(
    control: tuple[subprocess.Popen[bytes], DataDir],
) -> None:
    _, paths = control
    assert stat.S_IMODE(paths.control_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700


def test_an_orderly_end_gives_the_lease_back(
    control: tuple[subprocess.Popen[bytes], DataDir], own_database: str
) -> None:
    process, _ = control
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    engine = create_engine(driver_url(own_database))
    with engine.connect() as connection:
        held = connection.execute(text("SELECT expires_at > now() FROM leases")).scalars().all()
    engine.dispose()
    assert held == [False]


def test_the_gateways_request_id_is_the_one_that_is_answered_and_logged(
    control: tuple[subprocess.Popen[bytes], DataDir],
) -> None:
    _, paths = control
    transport = httpx.HTTPTransport(uds=str(paths.control_socket))
    with httpx.Client(transport=transport, base_url="http://control") as client:
        answer = client.get("/management/v1/orgs/x/models", headers={"x-request-id": "req-abc123"})
        assert answer.headers["x-request-id"] == "req-abc123"
        odd = client.get("/management/v1/orgs/x/models", headers={"x-request-id": "a b\tc"})
        assert odd.headers["x-request-id"] not in ("", "a b\tc")
