"""Alembic's entry: run the migrations on the connection that `runner.ledger.schema` hands over.

The rule: never open a connection here. The engine recipe makes each migration one transaction.
"""

from alembic import context

from runner.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    on_version_apply=context.config.attributes["on_version_apply"],
)
with context.begin_transaction():
    context.run_migrations()
