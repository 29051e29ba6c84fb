"""Settings of a Weighbridge server, from WEIGHBRIDGE_* variables or arguments."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from weighbridge.data_dir import DataDir, default_data_dir

__all__ = ["DataDir", "Settings", "unknown_names"]

PREFIX = "WEIGHBRIDGE_"
_OTHERS = frozenset(
    {
        "ADMIN_KEY",
        "API_KEY",
        "BASE_URL",
        "CONFIG",
        "DEBUG",
        "INFERENCE_KEY",
        "MARK",
        "NODE_DIR",
        "ORG",
    }
)
"""Variables of the client and of the supervisor, which are no settings of the server."""


class Settings(BaseSettings):
    """Every setting of the server; `docs/operating.md` lists them."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="What the server keeps; /var/lib/weighbridge for root, else ~/.weighbridge.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="postgresql://… of the team's own server; without it an embedded one runs.",
    )
    host: str = Field(default="127.0.0.1", description="Address the public port listens on.")
    port: int = Field(default=8080, ge=0, le=65535, description="The public port.")
    probe_host: str = Field(
        default="127.0.0.1", description="Address of /metrics, /livez, /readyz."
    )
    probe_port: int = Field(
        default=8081, ge=0, le=65535, description="Port of /metrics, /livez, /readyz."
    )
    gateway_workers: int = Field(
        default=1, ge=1, le=64, description="Gateway processes on one port."
    )
    control_urls: str = Field(default="", description="Gateways beside an api, with commas.")
    queue_wait_s: float = Field(
        default=10.0, ge=0, description="How long a request may wait for a busy endpoint."
    )
    queue_requests_max: int = Field(
        default=256,
        ge=0,
        le=100_000,
        description="Requests that may wait for one endpoint in one gateway worker; 0: none waits.",
    )
    hold_s: float = Field(
        default=50.0,
        ge=0,
        description="How long a request may wait for a replica that is replaced or restarted; 0: none waits.",
    )
    hold_requests_max: int = Field(
        default=256,
        ge=0,
        le=100_000,
        description="Requests that may wait so for one endpoint in one gateway worker.",
    )
    hold_bytes_max: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="Bytes of all requests that wait so in one gateway worker.",
    )
    hold_head_s: float = Field(
        default=10.0,
        ge=0,
        description="A stream that waits so gets its head and comments after this long.",
    )
    stream_keepalive_s: float = Field(
        default=15.0,
        ge=0,
        description="A stream that has begun gets a comment when nothing else came for so long; 0: never.",
    )
    stream_idle_s: float = Field(
        default=120.0,
        gt=0,
        description="A stream is ended with an error event this long after its engine's last event.",
    )
    usage_requests_keep_s: float = Field(
        default=3600.0,
        ge=0,
        description="How long single requests are kept for the metrics; 0 keeps sums alone.",
    )
    receipt_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Signs the receipts of deployments; without it nothing does.",
    )
    state_vocabulary: Literal["enum", "example"] = Field(
        default="enum",
        description="Words for final states: `done`/`error`, or `complete`/`failed` as in the published example.",
    )

    s3_endpoint_url: str | None = Field(
        default=None,
        description="An S3-compatible service instead of AWS; operator's choice, never a request's (T8).",
    )
    s3_region: str = Field(
        default="us-east-1", description="Region for STS and for buckets that do not say."
    )
    s3_role_arn: str | None = Field(
        default=None,
        description="Role assumed to read customers' buckets; an org's own role replaces it.",
    )
    s3_bucket_owner: Literal["proven", "first"] = Field(
        default="proven",
        description="Which org may read a bucket, where there are several: one that is let in alone, or the first.",
    )
    s3_role_session_s: int = Field(
        default=3600, ge=900, le=43200, description="Lifetime asked of STS."
    )

    store_url: str | None = Field(
        default=None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?$",
        description="s3://bucket/prefix of the operator's own for the weight store; `store/` is then its cache.",
    )
    store_endpoint_url: str | None = Field(
        default=None, description="An S3-compatible service instead of AWS for that bucket."
    )
    store_region: str = Field(default="us-east-1", description="Region of that bucket.")
    store_access_key_id: str | None = Field(
        default=None, description="Key for that bucket; without it the server's own AWS identity."
    )
    store_secret_access_key: SecretStr | None = Field(
        default=None, description="The secret of that key."
    )

    sync_parts_parallel: int = Field(
        default=16,
        ge=1,
        le=64,
        description="Ranged GETs in flight per sync at most; how many is found by trying.",
    )
    sync_part_bytes: int = Field(
        default=16 * 1024 * 1024, ge=1024 * 1024, description="Size of one ranged GET."
    )
    sync_org_bytes_per_s: int = Field(
        default=0, ge=0, description="Most bytes per second that one org's syncs read; 0 is no cap."
    )
    syncs_parallel: int = Field(
        default=4, ge=1, le=64, description="Weight syncs at once on this node."
    )
    sync_bytes_max: int = Field(
        default=4 * 1024**4, ge=1, description="Largest version that is accepted."
    )
    sync_stall_s: float = Field(
        default=900.0, gt=0, description="A sync ends when no byte came for this long (W5)."
    )
    sync_total_s: float = Field(
        default=86_400.0,
        gt=0,
        description="Longest work on one sync; also the longest wait for its turn.",
    )
    sync_access_retry_s: float = Field(
        default=10.0,
        ge=0,
        description="How long a refused access is tried again; raise to 600 where policies change just before uploads.",
    )
    sync_disk_wait_s: float = Field(
        default=60.0, ge=0, description="How long a sync waits for room in the weight store."
    )
    disk_free_min_share: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the disk kept free (W9)."
    )

    store_verify_days: float = Field(
        default=30.0,
        gt=0,
        description="Each blob of the weight store is hashed again this often (W11).",
    )
    store_verify_bytes_per_s: int = Field(
        default=100_000_000, ge=1, description="Most bytes per second read for that."
    )

    runtime: Literal["local", "ray"] = Field(
        default="local", description="Where replicas run: this machine, or a Ray cluster."
    )
    ray_address: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.\[\]:-]+:[0-9]{1,5}$",
        description="The cluster's head, as host:port.",
    )
    ray_namespace: str = Field(
        default="weighbridge",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="Of this installation's actors; each installation on a cluster needs one of its own.",
    )
    ray_auth: Literal["token", "off"] = Field(
        default="token", description="`off` for a cluster without authentication."
    )
    ray_auth_token: SecretStr | None = Field(
        default=None, min_length=16, description="The cluster's token; needed unless that is off."
    )
    ray_python: str | None = Field(
        default=None,
        description="Interpreter with the cluster's Ray and Python versions; the server's own.",
    )
    ray_node_ip: str | None = Field(
        default=None,
        description="Address of this machine's Ray node, where Ray would guess another.",
    )
    ray_grows: bool = Field(
        default=False,
        description="The cluster adds nodes by itself, so nothing is refused for want of a node.",
    )
    ray_weights: Literal["pull", "path"] = Field(
        default="pull",
        description="Nodes pull versions into caches of their own, or have `store/` and `cache/` on a shared path.",
    )
    weights_host: str | None = Field(
        default=None,
        description="Address the weight server listens on; without it this machine's on the way to the head.",
    )
    weights_port: int = Field(
        default=8082, ge=1, le=65535, description="Port of the weight server."
    )
    weights_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#@]+(/[^?#]*)?$",
        description="Where nodes reach the weight server, if not at that address and port.",
    )
    node_cache_bytes_max: int = Field(
        default=0,
        ge=0,
        description="Most bytes of versions that a node of the cluster keeps; 0: what its disk allows.",
    )
    node_store_access_key_id: str | None = Field(
        default=None,
        description="Key with which nodes read the weight store's bucket; without it each node's own AWS identity.",
    )
    node_store_secret_access_key: SecretStr | None = Field(
        default=None, description="The secret of that key."
    )
    replica_slots: int = Field(
        default=8, ge=1, le=1024, description="Engine processes this node may run at once."
    )
    replica_host: str = Field(default="127.0.0.1", description="Where this node's engines listen.")
    gpus: str = Field(
        default="",
        pattern=r"^([0-9]+(,[0-9]+)*)?$",
        description="Accelerators of this node to give to replicas, by their ids, as in `0,1`.",
    )
    drain_deadline_s: float = Field(
        default=1860.0, gt=0, description="Longest drain of a replica (G6)."
    )
    request_max_s: float = Field(
        default=1800.0, gt=0, description="Longest inference request (G6)."
    )
    min_ready_s: float = Field(
        default=10.0, ge=0, description="A new replica counts as available after this long ready."
    )
    bake_s: float = Field(
        default=60.0, ge=0, description="How long a finished rollout must hold before it is done."
    )
    rollout_progress_s: float = Field(
        default=1200.0, gt=0, description="A rollout without progress for this long goes back."
    )
    rollout_total_s: float = Field(
        default=21600.0, gt=0, description="A rollout that takes longer goes back."
    )
    rollback_progress_s: float = Field(
        default=2400.0, gt=0, description="A rollback without progress for this long ends in error."
    )
    capacity_wait_s: float = Field(
        default=1800.0, gt=0, description="How long a new replica may wait for a free place."
    )
    gate_requests_min: int = Field(
        default=50,
        ge=0,
        description="Requests before a new version is judged by its answers; 0: it never is.",
    )
    gate_errors_share: float = Field(
        default=0.02, ge=0, le=1, description="Share of 5xx from which a new version goes back …"
    )
    gate_errors_ratio: float = Field(
        default=3.0, ge=0, description="… if it is this many times the share of the version before."
    )
    gate_empty_share: float = Field(
        default=0.05, ge=0, le=1, description="The same for answers without a token."
    )
    gate_empty_ratio: float = Field(
        default=3.0, ge=0, description="The same for answers without a token."
    )
    gate_ttft_ratio: float = Field(
        default=3.0,
        ge=1,
        description="Time to first token (95th percentile), in times of the version before, that is too long …",
    )
    gate_ttft_min_s: float = Field(default=1.0, ge=0, description="… if it is longer than this.")
    gate_ttft_max_s: float = Field(
        default=60.0, gt=0, description="The longest one where no version is there to compare with."
    )
    deployment_queue_max: int = Field(
        default=16, ge=1, le=1000, description="Deployments that may wait on one endpoint (R1)."
    )
    probe_period_s: float = Field(
        default=2.0, gt=0, description="How often a ready replica is probed."
    )
    probe_start_period_s: float = Field(
        default=0.15, gt=0, description="How often a starting replica is probed."
    )
    probe_timeout_s: float = Field(
        default=5.0, gt=0, description="A probe without an answer for this long has failed."
    )
    probe_generate_s: float = Field(
        default=30.0,
        gt=0,
        description="How often an idle replica must produce a real token, and how long that may take.",
    )
    probe_failures_max: int = Field(
        default=3, ge=1, description="Probes that must fail in a row before a replica is given up."
    )
    replica_stop_grace_s: float = Field(
        default=30.0, gt=0, description="From SIGTERM to SIGKILL of a replica that has drained."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def nodes_pull(self) -> bool:
        """Whether nodes of a cluster bring versions into caches of their own."""
        return self.runtime == "ray" and self.ray_weights == "pull"

    @property
    def paths(self) -> DataDir:
        return DataDir(self.data_dir.expanduser().resolve())


def unknown_names(names: Iterable[str]) -> dict[str, str | None]:
    """The WEIGHBRIDGE_* among variable names that mean nothing, each with the one it may have been meant for."""
    known = {name.upper() for name in Settings.model_fields} | _OTHERS
    given = sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))
    unknown = {
        name: difflib.get_close_matches(name, known, n=1) for name in given if name not in known
    }
    return {PREFIX + name: PREFIX + close[0] if close else None for name, close in unknown.items()}
