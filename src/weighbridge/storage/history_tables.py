"""Tables of what has happened: receipts of deployments and what requests used. A part of `tables`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from weighbridge.storage.columns import metadata, time_column

# The record of each deployment: where its hash chain stands. `following`: what replicas of the endpoint do is
# told here; the receipt of one rollout at a time.
receipts = Table(
    "receipts",
    metadata,
    Column("deployment_id", ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True),
    Column("endpoint_id", ForeignKey("endpoints.id"), nullable=False),
    Column("following", Boolean, nullable=False, server_default=text("false")),
    Column("entries", Integer, nullable=False, server_default=text("0")),
    Column("omitted", Integer, nullable=False, server_default=text("0")),
    Column("head", Text, nullable=False),
    Column("signature", Text),
    time_column("sealed_at", nullable=True),
    Index(
        "uq_receipts_following",
        "endpoint_id",
        unique=True,
        postgresql_where=text("following"),
    ),
    Index("ix_receipts_open", "deployment_id", postgresql_where=text("sealed_at IS NULL")),
)

# A trigger of the schema refuses to change or remove an entry; only its deployment takes it along.
receipt_entries = Table(
    "receipt_entries",
    metadata,
    Column(
        "deployment_id",
        ForeignKey("receipts.deployment_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("sequence", Integer, primary_key=True),
    Column("payload", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("hash", Text, nullable=False),
)

# How far each spool of a gateway worker is counted: written in the transaction that counts it.
usage_spools = Table(
    "usage_spools",
    metadata,
    Column("name", Text, primary_key=True),
    Column("offset_bytes", BigInteger, nullable=False),
    Column("batches", BigInteger, nullable=False),
    time_column("updated_at"),
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
    Column("held_s", Double, nullable=False, server_default=text("0")),
    Column("ttft_s", Double),
    Column("failed_version", Integer, nullable=False, server_default=text("0")),
    Column("asked_s", Double, nullable=False, server_default=text("0")),
    Column("cut", Boolean, nullable=False, server_default=text("false")),
    Index("ix_usage_requests_org", "org_id", "ended_at"),
    Index("ix_usage_requests_endpoint", "endpoint_id", "version", "ended_at"),
    Index(
        "ix_usage_requests_failed",
        "endpoint_id",
        "failed_version",
        "ended_at",
        postgresql_where=text("failed_version <> 0"),
    ),
)
