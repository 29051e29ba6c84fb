"""The whole schema on one page. Constraints that must hold are constraints here, not code (V3, R1)."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

# The final words of states that are kept here and decided above; two indexes and some queries need them.
REPLICA_FINAL = ("stopped", "failed", "lost")
ROLLOUT_FINAL = ("done", "rolled_back", "error", "cancelled")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    },
)


def _time(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _revision() -> Column[int]:
    return Column("revision", BigInteger, nullable=False, server_default=text("1"))


leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    _time("expires_at"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
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
    _time("created_at"),
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
    _time("created_at"),
    _time("expires_at", nullable=True),
    _time("revoked_at", nullable=True),
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
    _time("created_at"),
    _time("updated_at"),
    # A row stays for ever: version numbers go on counting after it is registered again (V1).
    _time("deleted_at", nullable=True),
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
    _time("created_at"),
    _time("updated_at"),
    _time("deleted_at", nullable=True),
    _revision(),
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
    _time("changed_at"),
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
    _time("bound_at"),
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
    Column("base_deployment_id", Text),
    _time("created_at"),
    _time("updated_at"),
    _time("deleted_at", nullable=True),
    _revision(),
    CheckConstraint("replicas >= 1", name="has_a_replica"),
    CheckConstraint("max_unavailable + max_surge >= 1", name="can_move"),
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
    _time("promoted_at", nullable=True),
    _time("created_at"),
    _time("updated_at"),
    _time("started_at", nullable=True),
    _time("progress_at", nullable=True),
    _time("finished_at", nullable=True),
    _revision(),
    # R1: at most one rollout moves an endpoint at a time.
    Index(
        "uq_deployments_active",
        "endpoint_id",
        unique=True,
        postgresql_where=text("status IN ('in_progress', 'rolling_back')"),
    ),
)

replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint_id", ForeignKey("endpoints.id"), nullable=False, index=True),
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
    Column("failure_counted", Boolean, nullable=False, server_default=text("false")),
    Column("routed_generation", BigInteger),
    _time("routed_at", nullable=True),
    Column("unrouted_generation", BigInteger),
    _time("created_at"),
    _time("state_since"),
    _time("ready_at", nullable=True),
    _time("drain_deadline", nullable=True),
    _revision(),
    # A slot of the shared in-flight counts belongs to one replica that is not final.
    Index(
        "uq_replicas_slot",
        "slot",
        unique=True,
        postgresql_where=text(f"state NOT IN {REPLICA_FINAL}"),
    ),
)

# How far each spool of a gateway worker is counted: written in the transaction that counts it.
usage_spools = Table(
    "usage_spools",
    metadata,
    Column("name", Text, primary_key=True),
    Column("offset_bytes", BigInteger, nullable=False),
    Column("batches", BigInteger, nullable=False),
    _time("updated_at"),
)

# No foreign keys: what was used is counted even when its key or endpoint is gone. Version 0: nobody answered.
usage_hourly = Table(
    "usage_hourly",
    metadata,
    Column("hour", DateTime(timezone=True), primary_key=True),
    Column("org_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("endpoint_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("status", Integer, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("queue_s", Double, nullable=False),
    Column("ttft_count", BigInteger, nullable=False),
    Column("ttft_s", Double, nullable=False),
    Column("ttft_buckets", ARRAY(BigInteger), nullable=False),
    Index("ix_usage_hourly_org", "org_id", "hour"),
)

# The last requests one by one, for as long as the settings say.
usage_requests = Table(
    "usage_requests",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("ended_at", DateTime(timezone=True), nullable=False, index=True),
    Column("org_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("endpoint_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Integer, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("queue_s", Double, nullable=False),
    Column("ttft_s", Double),
    Index("ix_usage_requests_org", "org_id", "ended_at"),
    Index("ix_usage_requests_endpoint", "endpoint_id", "version", "ended_at"),
)
