"""Gateways on hosts of their own: processes with a data directory, a database's URL and a copy of the pepper."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from installation import LIMIT_S, PROGRAM, QUICK, environment, processes_of, until
from separate_roles import SeparateRoles
from sqlalchemy import create_engine, make_url, text

from weighbridge.cli.demo.process import free_ports
from weighbridge.sdk import Client
from weighbridge.settings import DataDir
from weighbridge.storage.database import driver_url

DATABASE_ROLE = "weighbridge_gateway"
GRANTS = f"""
CREATE ROLE {DATABASE_ROLE} LOGIN;
GRANT SELECT ON alembic_version, gateway_tables TO {DATABASE_ROLE};
GRANT SELECT, INSERT, UPDATE ON counters, usage_hourly TO {DATABASE_ROLE};
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_hosts, usage_spools TO {DATABASE_ROLE};
GRANT INSERT ON usage_requests TO {DATABASE_ROLE};
"""
"""As docs/operating/roles.md says it."""


def restricted(url: str) -> str:
    """The URL for gateway hosts; their role is made for it."""
    engine = create_engine(driver_url(url))
    with engine.begin() as connection:
        connection.execute(text(GRANTS))
    engine.dispose()
    return make_url(url).set(username=DATABASE_ROLE).render_as_string(hide_password=False)


class GatewayHost:
    """`weighbridge serve --roles gateway` in a process group of its own."""

    def __init__(self, root: Path, site: SeparateRoles, url: str, **settings: str) -> None:
        self.root = root
        self.site = site
        self.paths = DataDir((root / "data").resolve())
        self.port, self.probe_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = environment(
            root,
            **QUICK,
            WEIGHBRIDGE_PORT=str(self.port),
            WEIGHBRIDGE_PROBE_PORT=str(self.probe_port),
            WEIGHBRIDGE_DATABASE_URL=url,
            **settings,
        )
        self.process: subprocess.Popen | None = None

    def copy_pepper(self) -> None:
        secrets = self.paths.secrets
        secrets.mkdir(parents=True, mode=0o700, exist_ok=True)
        (secrets / "pepper").write_bytes((self.site.paths.secrets / "pepper").read_bytes())
        (secrets / "pepper").chmod(0o600)

    def spawn(self, *options: str) -> subprocess.Popen:
        with (self.root / "gateway.stderr").open("ab") as sink:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", "--roles", "gateway", *options],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        return self.process

    def start(self) -> None:
        self.spawn()
        until(self.ready, what="the gateway host")

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.probe_port}/readyz").status_code == 200
        return False

    def said(self) -> str:
        return (self.root / "gateway.stderr").read_text()

    def row(self) -> dict | None:
        """What it has reported last, if it is among the hosts."""
        found = self.site.rows(
            "SELECT name, epoch, expires_at, expires_at < clock_timestamp() AS expired, "
            "routes_generation, workers, in_flight FROM gateway_hosts"
        )
        mine = [row for row in found if row.name.endswith(f":{self.paths.root}")]
        return dict(mine[0]._mapping) if mine else None

    def client(self, **options: object) -> Client:
        site = self.site
        return Client(
            self.url,
            site.management_key,
            inference_key=site.inference_key,
            retries_max=0,
            **options,
        )

    def send(self, number: int) -> None:
        """A signal to all of its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """-9 to all of it at once, as when the machine is gone."""
        assert self.process is not None
        self.send(signal.SIGKILL)
        self.process.wait(LIMIT_S)
        until(lambda: not processes_of(self.root), 10, "the end of the host")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(LIMIT_S) == 0, self.said()[-2000:]
        assert processes_of(self.root) == {}


@contextmanager
def gateway_host(
    root: Path, site: SeparateRoles, url: str, **settings: str
) -> Iterator[GatewayHost]:
    root.mkdir(parents=True, exist_ok=True)
    host = GatewayHost(root, site, url, **settings)
    host.copy_pepper()
    host.start()
    try:
        yield host
        host.stop()
    finally:
        for pid in processes_of(root):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if host.process is not None:
            host.process.wait()
