"""The layout of a server's data directory."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DataDir:
    """Where a server keeps what it must not lose (and `run/`, `cache/`, `logs/`, which it may)."""

    root: Path

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def store(self) -> Path:
        """The weight store: blobs, manifests and version directories."""
        return self.root / "store"

    @property
    def cache(self) -> Path:
        """What can be made again, such as converted weights, by content digest."""
        return self.root / "cache"

    @property
    def usage(self) -> Path:
        """Spools: what was used and is not yet counted in the database."""
        return self.root / "usage"

    @property
    def secrets(self) -> Path:
        """Mode 700: the pepper of key digests."""
        return self.root / "secrets"

    @property
    def run(self) -> Path:
        """Locks, sockets, snapshots and acks of the running processes."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    def api_socket(self, name: str) -> Path:
        """Of the control process of that name."""
        return self.control_socket if name == "control" else self.run / f"control-{name}.sock"

    def api_sockets(self) -> list[Path]:
        """Of all control processes that serve the API here, or did."""
        return sorted(self.run.glob("control*.sock"))

    @property
    def routes_file(self) -> Path:
        return self.run / "routes.json"

    @property
    def keys_file(self) -> Path:
        return self.run / "keys.json"

    @property
    def acks_file(self) -> Path:
        return self.run / "gateway.acks"

    @property
    def figures_file(self) -> Path:
        """The control plane's figures, for the probe port."""
        return self.run / "control.prom"

    @property
    def quotas_file(self) -> Path:
        """What limited keys and endpoints have used; without it every quota begins anew."""
        return self.run / "gateway.quotas"


def default_data_dir() -> Path:
    """Root's embedded database runs as another user, who may not enter root's home."""
    return Path("/var/lib/weighbridge") if os.geteuid() == 0 else Path("~/.weighbridge")
