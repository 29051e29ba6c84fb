"""Alembic's entry: migrations run on the connection that weighbridge.storage.schema.migrate hands over."""

from alembic import context

from weighbridge.storage import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.leases.metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
