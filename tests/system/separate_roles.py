"""A Weighbridge whose roles are processes of their own on a shared PostgreSQL, as a service manager runs them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from installation import LIMIT_S, PROGRAM, Installation, until, weighbridge
from sqlalchemy import create_engine, text

from s3 import S3Server
from weighbridge.settings import DataDir
from weighbridge.storage import embedded
from weighbridge.storage.database import driver_url

ROLES: Mapping[str, str] = {
    "agent": "agent",
    "gateway": "gateway",
    "api-1": "api",
    "api-2": "api",
    "ctl-1": "controller",
    "ctl-2": "controller",
}


class SeparateRoles(Installation):
    """`database_url` is a PostgreSQL that nobody here starts or stops; `roles` by the processes' names."""

    def __init__(
        self,
        root: Path,
        s3: S3Server | None,
        database_url: str,
        roles: Mapping[str, str] = ROLES,
        **settings: str,
    ) -> None:
        super().__init__(root, s3, WEIGHBRIDGE_DATABASE_URL=database_url, **settings)
        self.roles = roles
        self.database_url = database_url
        self.paths = DataDir((root / "data").resolve())
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        migrated = weighbridge(self.env, "migrate")
        assert migrated.returncode == 0, migrated.stderr
        made = weighbridge(self.env, "new-admin-key", "--json")
        assert made.returncode == 0, made.stderr
        self.admin_key = json.loads(made.stdout)["key"]
        for name in self.roles:
            self.serve(name)
        until(self.answers, what="every role")

    def serve(self, name: str) -> None:
        named = [] if self.roles[name] == name else ["--name", name]
        with (self.root / f"{name}.stderr").open("ab") as sink:
            self.processes[name] = subprocess.Popen(
                [*PROGRAM, "serve", "--roles", self.roles[name], *named],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def answers(self) -> bool:
        for name, process in self.processes.items():
            assert process.poll() is None, (self.root / f"{name}.stderr").read_text()
        with self.client() as client:
            status = client.admin.status()
            return bool(status.gateways) and status.raw["runtime"] == "ok"

    def stop(self) -> None:
        for name in reversed(self.roles):
            self.processes[name].send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            code = process.wait(LIMIT_S)
            assert code == 0, f"{name} ended with {code}: {self.said(name)[-2000:]}"
        self.assert_nothing_left()

    def said(self, name: str) -> str:
        return (self.root / f"{name}.stderr").read_text()

    def kill_role(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def leader(self) -> str:
        """The name of the controller that has the lease now; empty when none has."""
        rows = self.rows(
            "SELECT holder FROM leases WHERE name = 'controller' AND expires_at > clock_timestamp()"
        )
        return rows[0][0].rpartition(":")[2] if rows else ""

    def rows(self, query: str) -> list:
        engine = create_engine(driver_url(self.database_url))
        try:
            with engine.connect() as connection:
                return list(connection.execute(text(query)))
        finally:
            engine.dispose()


@contextmanager
def separate(
    root: Path,
    s3: S3Server | None,
    database_url: str,
    roles: Mapping[str, str] = ROLES,
    **settings: str,
) -> Iterator[SeparateRoles]:
    site = SeparateRoles(root, s3, database_url, roles, **settings)
    try:
        site.start()
        yield site
        site.stop()
    finally:
        for process in site.processes.values():
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
                process.wait()
        site.kill_all()


@contextmanager
def own_postgres(directory: Path) -> Iterator[str]:
    """A PostgreSQL that a test may kill; its directory is outside the data directory of the server."""
    url = embedded.start(directory)
    try:
        yield url
    finally:
        embedded.stop(directory)


def kill_postgres(directory: Path) -> None:
    """-9 to the postmaster; its children end by themselves."""
    pid = int((directory / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + LIMIT_S
    while embedded.is_running(directory):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
