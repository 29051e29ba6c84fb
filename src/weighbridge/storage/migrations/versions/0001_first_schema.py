"""first schema"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
revision = '0001'
# The oldest schema whose program works on this one too: a rolling upgrade runs both for a while.
oldest_program = 1
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('architectures',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('source_uri', sa.Text(), nullable=False),
    sa.Column('base_digest', sa.Text(), nullable=False),
    sa.Column('tensors', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('engine', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_architectures'))
    )
    op.create_table('acceptance_probes',
    sa.Column('scope', sa.Text(), nullable=False),
    sa.Column('owner_id', sa.Text(), nullable=False),
    sa.Column('probes', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('scope', 'owner_id', name=op.f('pk_acceptance_probes'))
    )
    op.create_table('counters',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('value', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_counters'))
    )
    op.create_table('gateway_tables',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('generation', sa.BigInteger(), nullable=False),
    sa.Column('content', sa.LargeBinary(), nullable=False),
    sa.Column('place', sa.Text(), nullable=False),
    sa.Column('pepper_mark', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_gateway_tables'))
    )
    op.create_table('gateway_hosts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('epoch', sa.BigInteger(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('routes_generation', sa.BigInteger(), nullable=False),
    sa.Column('keys_generation', sa.BigInteger(), nullable=False),
    sa.Column('workers', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('in_flight', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_gateway_hosts'))
    )
    op.create_table('leases',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('holder', sa.Text(), nullable=False),
    sa.Column('epoch', sa.BigInteger(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('holder_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('holder_boot_id', sa.Text(), nullable=True),
    sa.Column('holder_boot_s', sa.Double(), nullable=True),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_leases'))
    )
    op.create_table('orgs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('s3_external_id', sa.Text(), nullable=False),
    sa.Column('s3_role_arn', sa.Text(), nullable=True),
    sa.Column('key_limits', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_orgs')),
    sa.UniqueConstraint('name', name=op.f('uq_orgs_name')),
    sa.UniqueConstraint('s3_external_id', name=op.f('uq_orgs_s3_external_id'))
    )
    op.create_table('idempotency_keys',
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('request_digest', sa.LargeBinary(), nullable=False),
    sa.Column('answer', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_idempotency_keys_org_id_orgs')),
    sa.PrimaryKeyConstraint('org_id', 'key', name=op.f('pk_idempotency_keys'))
    )
    op.create_index(op.f('ix_idempotency_keys_created_at'), 'idempotency_keys', ['created_at'], unique=False)
    op.create_table('api_keys',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=True),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('prefix', sa.Text(), nullable=False),
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('limits', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint("(kind = 'admin') = (org_id IS NULL)", name=op.f('ck_api_keys_admin_has_no_org')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_api_keys_org_id_orgs')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys')),
    sa.UniqueConstraint('digest', name=op.f('uq_api_keys_digest'))
    )
    op.create_table('architecture_orgs',
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_architecture_orgs_arch_id_architectures'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_architecture_orgs_org_id_orgs')),
    sa.PrimaryKeyConstraint('arch_id', 'org_id', name=op.f('pk_architecture_orgs'))
    )
    op.create_table('bucket_bindings',
    sa.Column('bucket', sa.Text(), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('role_arn', sa.Text(), nullable=True),
    sa.Column('bound_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_bucket_bindings_org_id_orgs')),
    sa.PrimaryKeyConstraint('bucket', name=op.f('pk_bucket_bindings'))
    )
    op.create_table('endpoints',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('replicas', sa.Integer(), nullable=False),
    sa.Column('max_unavailable', sa.Integer(), nullable=False),
    sa.Column('max_surge', sa.Integer(), nullable=False),
    sa.Column('replicas_max', sa.Integer(), nullable=True),
    sa.Column('allow_downtime', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('queue_policy', sa.Text(), server_default=sa.text("'fifo'"), nullable=False),
    sa.Column('limits', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('gateway', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('gate', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('base_deployment_id', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revision', sa.BigInteger(), server_default=sa.text('1'), nullable=False),
    sa.CheckConstraint('max_unavailable + max_surge >= 1', name=op.f('ck_endpoints_can_move')),
    sa.CheckConstraint('replicas >= 1', name=op.f('ck_endpoints_has_a_replica')),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_endpoints_arch_id_architectures')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_endpoints_org_id_orgs')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_endpoints'))
    )
    op.create_index(op.f('ix_endpoints_org_id'), 'endpoints', ['org_id'], unique=False)
    op.create_table('model_versions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('weight_uri', sa.Text(), nullable=False),
    sa.Column('fingerprint_suffix', sa.Text(), nullable=True),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('step', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('error_message', sa.Text(), nullable=True),
    sa.Column('manifest_digest', sa.Text(), nullable=True),
    sa.Column('bytes_total', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('bytes_done', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('files_total', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('files_done', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('bytes_per_s', sa.Double(), nullable=True),
    sa.Column('retries', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('cancel_requested', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('claim_epoch', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
    sa.Column('sync_spent_s', sa.Double(), server_default=sa.text('0'), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revision', sa.BigInteger(), server_default=sa.text('1'), nullable=False),
    sa.CheckConstraint("(status = 'done') <= (manifest_digest IS NOT NULL)", name=op.f('ck_model_versions_done_names_its_manifest')),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_model_versions_arch_id_architectures')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_model_versions_org_id_orgs')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_model_versions')),
    sa.UniqueConstraint('org_id', 'arch_id', 'number', name='uq_model_versions_number')
    )
    op.create_index('ix_model_versions_open', 'model_versions', ['status'], unique=False, postgresql_where=sa.text("status IN ('queued', 'in_progress')"))
    op.create_table('version_counters',
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('last', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_version_counters_arch_id_architectures')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_version_counters_org_id_orgs')),
    sa.PrimaryKeyConstraint('org_id', 'arch_id', name=op.f('pk_version_counters'))
    )
    op.create_table('aliases',
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('alias', sa.Text(), nullable=False),
    sa.Column('version_id', sa.Text(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_aliases_arch_id_architectures')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_aliases_org_id_orgs')),
    sa.ForeignKeyConstraint(['version_id'], ['model_versions.id'], name=op.f('fk_aliases_version_id_model_versions')),
    sa.PrimaryKeyConstraint('org_id', 'arch_id', 'alias', name=op.f('pk_aliases'))
    )
    op.create_index(op.f('ix_aliases_version_id'), 'aliases', ['version_id'], unique=False)
    op.create_table('alias_history',
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('sequence', sa.BigInteger(), nullable=False),
    sa.Column('alias', sa.Text(), nullable=False),
    sa.Column('from_number', sa.Integer(), nullable=True),
    sa.Column('to_number', sa.Integer(), nullable=True),
    sa.Column('cause', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=True),
    sa.Column('changed_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_alias_history_arch_id_architectures')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_alias_history_org_id_orgs')),
    sa.PrimaryKeyConstraint('org_id', 'arch_id', 'sequence', name=op.f('pk_alias_history'))
    )
    op.create_index('ix_alias_history_alias', 'alias_history', ['org_id', 'arch_id', 'alias', 'sequence'], unique=False)
    op.create_table('deployments',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('sequence', sa.BigInteger(), nullable=False),
    sa.Column('endpoint_id', sa.Text(), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('arch_id', sa.Text(), nullable=False),
    sa.Column('version_id', sa.Text(), nullable=False),
    sa.Column('version_number', sa.Integer(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('engine', postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('settings_digest', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('fingerprint', sa.Text(), nullable=False),
    sa.Column('reference', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('error_message', sa.Text(), nullable=True),
    sa.Column('base_deployment_id', sa.Text(), nullable=True),
    sa.Column('replicas', sa.Integer(), nullable=False),
    sa.Column('max_unavailable', sa.Integer(), nullable=False),
    sa.Column('max_surge', sa.Integer(), nullable=False),
    sa.Column('updated_replicas', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('updated_max', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('failures', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('restored_max', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('restore_failures', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('cancel_requested', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('traffic_percent', sa.Integer(), nullable=True),
    sa.Column('promoted_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('progress_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('finished_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revision', sa.BigInteger(), server_default=sa.text('1'), nullable=False),
    sa.ForeignKeyConstraint(['arch_id'], ['architectures.id'], name=op.f('fk_deployments_arch_id_architectures')),
    sa.ForeignKeyConstraint(['endpoint_id'], ['endpoints.id'], name=op.f('fk_deployments_endpoint_id_endpoints')),
    sa.ForeignKeyConstraint(['org_id'], ['orgs.id'], name=op.f('fk_deployments_org_id_orgs')),
    sa.ForeignKeyConstraint(['version_id'], ['model_versions.id'], name=op.f('fk_deployments_version_id_model_versions')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_deployments')),
    sa.UniqueConstraint('sequence', name=op.f('uq_deployments_sequence'))
    )
    op.create_index(op.f('ix_deployments_endpoint_id'), 'deployments', ['endpoint_id'], unique=False)
    op.create_index(op.f('ix_deployments_version_id'), 'deployments', ['version_id'], unique=False)
    op.create_index('ix_deployments_open', 'deployments', ['endpoint_id'], unique=False, postgresql_where=sa.text("status IN ('not_started', 'in_progress', 'rolling_back')"))
    op.create_index('ix_deployments_org', 'deployments', ['org_id', 'sequence'], unique=False)
    op.create_index('uq_deployments_active', 'deployments', ['endpoint_id'], unique=True, postgresql_where=sa.text("status IN ('in_progress', 'rolling_back')"))
    op.create_table('sync_files',
    sa.Column('version_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('path', sa.Text(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.Column('etag', sa.Text(), nullable=False),
    sa.Column('s3_version_id', sa.Text(), nullable=True),
    sa.Column('checksum', sa.Text(), nullable=True),
    sa.Column('digest', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['version_id'], ['model_versions.id'], name=op.f('fk_sync_files_version_id_model_versions')),
    sa.PrimaryKeyConstraint('version_id', 'key', name=op.f('pk_sync_files'))
    )
    op.create_table('replicas',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('endpoint_id', sa.Text(), nullable=False),
    sa.Column('deployment_id', sa.Text(), nullable=False),
    sa.Column('version_id', sa.Text(), nullable=False),
    sa.Column('version_number', sa.Integer(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('settings_digest', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('fingerprint', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), server_default=sa.text("''"), nullable=False),
    sa.Column('slot', sa.Integer(), nullable=False),
    sa.Column('url', sa.Text(), nullable=True),
    sa.Column('incarnation', sa.Text(), nullable=True),
    sa.Column('probe_passes', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('probe_failures', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('flips', postgresql.ARRAY(sa.DateTime(timezone=True)), server_default=sa.text("'{}'"), nullable=False),
    sa.Column('probes', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('failure_counted', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('routed_generation', sa.BigInteger(), nullable=True),
    sa.Column('routed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('unrouted_generation', sa.BigInteger(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('state_since', sa.DateTime(timezone=True), nullable=False),
    sa.Column('warm_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ready_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('drain_deadline', sa.DateTime(timezone=True), nullable=True),
    sa.Column('drain_began_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('revision', sa.BigInteger(), server_default=sa.text('1'), nullable=False),
    sa.ForeignKeyConstraint(['deployment_id'], ['deployments.id'], name=op.f('fk_replicas_deployment_id_deployments')),
    sa.ForeignKeyConstraint(['endpoint_id'], ['endpoints.id'], name=op.f('fk_replicas_endpoint_id_endpoints')),
    sa.ForeignKeyConstraint(['version_id'], ['model_versions.id'], name=op.f('fk_replicas_version_id_model_versions')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_replicas'))
    )
    op.create_index(op.f('ix_replicas_deployment_id'), 'replicas', ['deployment_id'], unique=False)
    op.create_index('ix_replicas_endpoint', 'replicas', ['endpoint_id', 'ready_at'], unique=False)
    op.create_index('uq_replicas_slot', 'replicas', ['slot'], unique=True, postgresql_where=sa.text("state NOT IN ('stopped', 'failed', 'lost')"))
    op.create_table('receipts',
    sa.Column('deployment_id', sa.Text(), nullable=False),
    sa.Column('endpoint_id', sa.Text(), nullable=False),
    sa.Column('following', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.Column('entries', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('omitted', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('head', sa.Text(), nullable=False),
    sa.Column('signature', sa.Text(), nullable=True),
    sa.Column('sealed_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['deployment_id'], ['deployments.id'], name=op.f('fk_receipts_deployment_id_deployments'), ondelete='CASCADE'),
    sa.ForeignKeyConstraint(['endpoint_id'], ['endpoints.id'], name=op.f('fk_receipts_endpoint_id_endpoints')),
    sa.PrimaryKeyConstraint('deployment_id', name=op.f('pk_receipts'))
    )
    op.create_index('uq_receipts_following', 'receipts', ['endpoint_id'], unique=True, postgresql_where=sa.text('following'))
    op.create_index('ix_receipts_open', 'receipts', ['deployment_id'], unique=False, postgresql_where=sa.text('sealed_at IS NULL'))
    op.create_table('receipt_entries',
    sa.Column('deployment_id', sa.Text(), nullable=False),
    sa.Column('sequence', sa.Integer(), nullable=False),
    sa.Column('payload', sa.Text(), nullable=False),
    sa.Column('previous', sa.Text(), nullable=False),
    sa.Column('hash', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['deployment_id'], ['receipts.deployment_id'], name=op.f('fk_receipt_entries_deployment_id_receipts'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('deployment_id', 'sequence', name=op.f('pk_receipt_entries'))
    )
    # Depth 1 is a statement of somebody's; a cascade from the deployment runs below it.
    op.execute("""
        CREATE FUNCTION refuse_receipt_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND pg_trigger_depth() > 1 THEN
                RETURN OLD;
            END IF;
            RAISE EXCEPTION 'entries of a receipt are never changed or removed';
        END $$
    """)
    op.execute("""
        CREATE TRIGGER receipt_entries_append_only BEFORE UPDATE OR DELETE ON receipt_entries
        FOR EACH ROW EXECUTE FUNCTION refuse_receipt_change()
    """)
    op.create_table('usage_spools',
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('offset_bytes', sa.BigInteger(), nullable=False),
    sa.Column('batches', sa.BigInteger(), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_usage_spools'))
    )
    op.create_table('usage_hourly',
    sa.Column('hour', sa.DateTime(timezone=True), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('endpoint_id', sa.Text(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('status', sa.Integer(), nullable=False),
    sa.Column('requests', sa.BigInteger(), nullable=False),
    sa.Column('estimated', sa.BigInteger(), nullable=False),
    sa.Column('prompt_tokens', sa.BigInteger(), nullable=False),
    sa.Column('cached_tokens', sa.BigInteger(), nullable=False),
    sa.Column('completion_tokens', sa.BigInteger(), nullable=False),
    sa.Column('duration_s', sa.Double(), nullable=False),
    sa.Column('queue_s', sa.Double(), nullable=False),
    sa.Column('ttft_count', sa.BigInteger(), nullable=False),
    sa.Column('ttft_s', sa.Double(), nullable=False),
    sa.Column('ttft_buckets', postgresql.ARRAY(sa.BigInteger()), nullable=False),
    sa.PrimaryKeyConstraint('hour', 'org_id', 'key_id', 'endpoint_id', 'version', 'status', name=op.f('pk_usage_hourly'))
    )
    op.create_index('ix_usage_hourly_org', 'usage_hourly', ['org_id', 'hour'], unique=False)
    op.create_table('usage_requests',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('org_id', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('endpoint_id', sa.Text(), nullable=False),
    sa.Column('version', sa.Integer(), nullable=False),
    sa.Column('status', sa.Integer(), nullable=False),
    sa.Column('prompt_tokens', sa.BigInteger(), nullable=False),
    sa.Column('cached_tokens', sa.BigInteger(), nullable=False),
    sa.Column('completion_tokens', sa.BigInteger(), nullable=False),
    sa.Column('duration_s', sa.Double(), nullable=False),
    sa.Column('queue_s', sa.Double(), nullable=False),
    sa.Column('held_s', sa.Double(), server_default=sa.text('0'), nullable=False),
    sa.Column('ttft_s', sa.Double(), nullable=True),
    sa.Column('failed_version', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('asked_s', sa.Double(), server_default=sa.text('0'), nullable=False),
    sa.Column('cut', sa.Boolean(), server_default=sa.text('false'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_usage_requests'))
    )
    op.create_index(op.f('ix_usage_requests_ended_at'), 'usage_requests', ['ended_at'], unique=False)
    op.create_index('ix_usage_requests_org', 'usage_requests', ['org_id', 'ended_at'], unique=False)
    op.create_index('ix_usage_requests_endpoint', 'usage_requests', ['endpoint_id', 'version', 'ended_at'], unique=False)
    op.create_index('ix_usage_requests_failed', 'usage_requests', ['endpoint_id', 'failed_version', 'ended_at'], unique=False, postgresql_where=sa.text('failed_version <> 0'))
