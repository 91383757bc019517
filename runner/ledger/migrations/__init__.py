"""The ledger's history of shapes, as Alembic migrations. `runner.ledger.schema` runs them."""
