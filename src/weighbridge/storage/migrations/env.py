"""Alembic's entry: migrations run on the connection that weighbridge.storage.migrate hands over."""

from alembic import context

from weighbridge.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
