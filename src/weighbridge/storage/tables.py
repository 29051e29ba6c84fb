"""The schema, with `history_tables`. Constraints that must hold are constraints here, not code (V3, R1)."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from weighbridge.storage import history_tables  # noqa: F401 - the metadata must know them too
from weighbridge.storage.columns import metadata, revision_column, time_column

# The final words of states that are kept here and decided above; two indexes and some queries need them.
REPLICA_FINAL = ("stopped", "failed", "lost")
ROLLOUT_FINAL = ("done", "rolled_back", "error", "cancelled")

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    time_column("expires_at"),
    # The holder's own clock when it last noted it, and its machine's time since boot (D6).
    time_column("holder_at", nullable=True),
    Column("holder_boot_id", Text),
    Column("holder_boot_s", Double),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# The newest routing table and key table, whole, for gateways on other machines. `place` says whose loopback
# addresses a routing table names; `pepper_mark` under which pepper both are good.
gateway_tables = Table(
    "gateway_tables",
    metadata,
    Column("name", Text, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("place", Text, nullable=False),
    Column("pepper_mark", Text, nullable=False),
)

# What each gateway host has applied and has in flight, good until its lease ends; an epoch for each courier.
gateway_hosts = Table(
    "gateway_hosts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    time_column("expires_at"),
    Column("routes_generation", BigInteger, nullable=False),
    Column("keys_generation", BigInteger, nullable=False),
    Column("workers", JSONB, nullable=False),
    Column("in_flight", JSONB, nullable=False),
)

# What was answered to a request that carried an Idempotency-Key (D7).
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("org_id", ForeignKey("orgs.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_digest", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, index=True),
)

orgs = Table(
    "orgs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("s3_external_id", Text, nullable=False, unique=True),
    Column("s3_role_arn", Text),
    # Defaults for the limits of the org's keys.
    Column("key_limits", JSONB, nullable=False, server_default=text("'{}'")),
    time_column("created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org_id", ForeignKey("orgs.id")),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("limits", JSONB, nullable=False, server_default=text("'{}'")),
    time_column("created_at"),
    time_column("expires_at", nullable=True),
    time_column("revoked_at", nullable=True),
    CheckConstraint("(kind = 'admin') = (org_id IS NULL)", name="admin_has_no_org"),
)

architectures = Table(
    "architectures",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source_uri", Text, nullable=False),
    Column("base_digest", Text, nullable=False),
    Column("tensors", JSONB, nullable=False),
    Column("engine", JSONB, nullable=False),
    time_column("created_at"),
    time_column("updated_at"),
    # A row stays for ever: version numbers go on counting after it is registered again (V1).
    time_column("deleted_at", nullable=True),
)

architecture_orgs = Table(
    "architecture_orgs",
    metadata,
    Column("arch_id", ForeignKey("architectures.id", ondelete="CASCADE"), primary_key=True),
    Column("org_id", ForeignKey("orgs.id"), primary_key=True),
)

version_counters = Table(
    "version_counters",
    metadata,
    Column("org_id", ForeignKey("orgs.id"), primary_key=True),
    Column("arch_id", ForeignKey("architectures.id"), primary_key=True),
    Column("last", Integer, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org_id", ForeignKey("orgs.id"), nullable=False),
    Column("arch_id", ForeignKey("architectures.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("weight_uri", Text, nullable=False),
    Column("fingerprint_suffix", Text),
    Column("status", Text, nullable=False),
    Column("step", Text, nullable=False, server_default=text("''")),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("manifest_digest", Text),
    Column("bytes_total", BigInteger, nullable=False, server_default=text("0")),
    Column("bytes_done", BigInteger, nullable=False, server_default=text("0")),
    Column("files_total", Integer, nullable=False, server_default=text("0")),
    Column("files_done", Integer, nullable=False, server_default=text("0")),
    Column("bytes_per_s", Double),
    Column("retries", Integer, nullable=False, server_default=text("0")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("claim_epoch", BigInteger, nullable=False, server_default=text("0")),
    # Seconds of work under all claims: time without a worker does not count against the limit.
    Column("sync_spent_s", Double, nullable=False, server_default=text("0")),
    time_column("created_at"),
    time_column("updated_at"),
    time_column("deleted_at", nullable=True),
    revision_column(),
    UniqueConstraint("org_id", "arch_id", "number", name="uq_model_versions_number"),
    CheckConstraint(
        "(status = 'done') <= (manifest_digest IS NOT NULL)", name="done_names_its_manifest"
    ),
    Index(
        "ix_model_versions_open",
        "status",
        postgresql_where=text("status IN ('queued', 'in_progress')"),
    ),
)

aliases = Table(
    "aliases",
    metadata,
    Column("org_id", ForeignKey("orgs.id"), primary_key=True),
    Column("arch_id", ForeignKey("architectures.id"), primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("version_id", ForeignKey("model_versions.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
)

# Who moved which alias, in their order; rows are only added. Kept when version or key is gone: no foreign keys to them.
alias_history = Table(
    "alias_history",
    metadata,
    Column("org_id", ForeignKey("orgs.id"), primary_key=True),
    Column("arch_id", ForeignKey("architectures.id"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("alias", Text, nullable=False),
    Column("from_number", Integer),
    Column("to_number", Integer),
    Column("cause", Text, nullable=False),
    Column("key_id", Text),
    time_column("changed_at"),
    Index("ix_alias_history_alias", "org_id", "arch_id", "alias", "sequence"),
)

sync_files = Table(
    "sync_files",
    metadata,
    Column("version_id", ForeignKey("model_versions.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", Text, nullable=False),
    Column("s3_version_id", Text),
    Column("checksum", Text),
    Column("digest", Text),
)

bucket_bindings = Table(
    "bucket_bindings",
    metadata,
    Column("bucket", Text, primary_key=True),
    Column("org_id", ForeignKey("orgs.id"), nullable=False),
    Column("role_arn", Text),
    time_column("bound_at"),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("org_id", ForeignKey("orgs.id"), nullable=False, index=True),
    Column("arch_id", ForeignKey("architectures.id"), nullable=False),
    Column("replicas", Integer, nullable=False),
    Column("max_unavailable", Integer, nullable=False),
    Column("max_surge", Integer, nullable=False),
    # How far its org may scale it; NULL: only the operator does.
    Column("replicas_max", Integer),
    Column("allow_downtime", Boolean, nullable=False, server_default=text("false")),
    Column("queue_policy", Text, nullable=False, server_default=text("'fifo'")),
    Column("limits", JSONB, nullable=False, server_default=text("'{}'")),
    Column("gateway", JSONB, nullable=False, server_default=text("'{}'")),
    Column("gate", JSONB, nullable=False, server_default=text("'{}'")),
    Column("base_deployment_id", Text),
    time_column("created_at"),
    time_column("updated_at"),
    time_column("deleted_at", nullable=True),
    revision_column(),
    CheckConstraint("replicas >= 1", name="has_a_replica"),
    CheckConstraint("max_unavailable + max_surge >= 1", name="can_move"),
)

# What new replicas must answer: one set for each architecture and endpoint that has any.
acceptance_probes = Table(
    "acceptance_probes",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("owner_id", Text, primary_key=True),
    Column("probes", JSONB, nullable=False),
    time_column("updated_at"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False, unique=True),
    Column("endpoint_id", ForeignKey("endpoints.id"), nullable=False, index=True),
    Column("org_id", ForeignKey("orgs.id"), nullable=False),
    Column("arch_id", ForeignKey("architectures.id"), nullable=False),
    Column("version_id", ForeignKey("model_versions.id"), nullable=False, index=True),
    Column("version_number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    # The architecture's engine settings at submission, and their digest: with them its replicas run.
    Column("engine", JSONB, nullable=False, server_default=text("'{}'")),
    Column("settings_digest", Text, nullable=False, server_default=text("''")),
    Column("fingerprint", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("error_message", Text),
    Column("base_deployment_id", Text),
    Column("replicas", Integer, nullable=False),
    Column("max_unavailable", Integer, nullable=False),
    Column("max_surge", Integer, nullable=False),
    Column("updated_replicas", Integer, nullable=False, server_default=text("0")),
    Column("updated_max", Integer, nullable=False, server_default=text("0")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("restored_max", Integer, nullable=False, server_default=text("0")),
    Column("restore_failures", Integer, nullable=False, server_default=text("0")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("traffic_percent", Integer),
    time_column("promoted_at", nullable=True),
    time_column("created_at"),
    time_column("updated_at"),
    time_column("started_at", nullable=True),
    time_column("progress_at", nullable=True),
    time_column("finished_at", nullable=True),
    revision_column(),
    # R1: at most one rollout moves an endpoint at a time.
    Index(
        "uq_deployments_active",
        "endpoint_id",
        unique=True,
        postgresql_where=text("status IN ('in_progress', 'rolling_back')"),
    ),
    # Deployments are kept for ever: what is open, and a page of an org's, is found without the others.
    Index(
        "ix_deployments_open",
        "endpoint_id",
        postgresql_where=text("status IN ('not_started', 'in_progress', 'rolling_back')"),
    ),
    Index("ix_deployments_org", "org_id", "sequence"),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint_id", ForeignKey("endpoints.id"), nullable=False),
    Column("deployment_id", ForeignKey("deployments.id"), nullable=False, index=True),
    Column("version_id", ForeignKey("model_versions.id"), nullable=False),
    Column("version_number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("settings_digest", Text, nullable=False, server_default=text("''")),
    Column("fingerprint", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("slot", Integer, nullable=False),
    Column("url", Text),
    Column("incarnation", Text),
    Column("probe_passes", Integer, nullable=False, server_default=text("0")),
    Column("probe_failures", Integer, nullable=False, server_default=text("0")),
    Column("flips", ARRAY(DateTime(timezone=True)), nullable=False, server_default=text("'{}'")),
    # The acceptance probes it was started with; null: none.
    Column("probes", JSONB),
    Column("failure_counted", Boolean, nullable=False, server_default=text("false")),
    Column("routed_generation", BigInteger),
    time_column("routed_at", nullable=True),
    Column("unrouted_generation", BigInteger),
    time_column("created_at"),
    time_column("state_since"),
    time_column("warm_at", nullable=True),
    time_column("ready_at", nullable=True),
    time_column("drain_deadline", nullable=True),
    time_column("drain_began_at", nullable=True),
    revision_column(),
    # Also for an endpoint's last starts, however many of its replicas have ended.
    Index("ix_replicas_endpoint", "endpoint_id", "ready_at"),
    # A slot of the shared in-flight counts belongs to one replica that is not final.
    Index(
        "uq_replicas_slot",
        "slot",
        unique=True,
        postgresql_where=text(f"state NOT IN {REPLICA_FINAL}"),
    ),
)
