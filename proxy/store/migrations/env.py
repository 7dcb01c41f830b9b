"""What Alembic runs: the steps, in the transaction and under the lock of migrate.py."""

from alembic import context

from proxy.store.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
