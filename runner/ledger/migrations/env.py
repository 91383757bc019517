"""Alembic's entry: run the migrations on the connection that `runner.ledger.schema` hands over.

The rule: never open a connection here. The engine recipe makes each migration one transaction.
"""

from alembic import context

from runner.ledger.tables import metadata, tell_of_postgresql

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    tell_of_postgresql()
context.configure(
    connection=connection,
    target_metadata=metadata,
    on_version_apply=context.config.attributes["on_version_apply"],
)
with context.begin_transaction():
    context.run_migrations()
