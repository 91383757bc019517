"""The shape of the database: which version it has, and Alembic to bring it up to date.

The rule: Alembic is imported only where there is something to migrate (a tenth of a second of every
start otherwise), each migration is one transaction on the recipe's engine, and a version that this
program does not know is refused, never guessed at.

A new SQLite ledger is not migrated through its history: `fresh.sql` is what all migrations together make,
word for word (a test holds it to that), and is carried out in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, inspect

from runner.errors import LedgerError
from runner.failpoints import failpoint
from runner.ledger.engine import broken_references, is_sqlite
from runner.ledger.faults import REBUILD

VERSIONS = ("0001", "0002", "0003")
"""Every migration that this program knows, oldest first; the last one is the shape it works with."""
_VERSION = re.compile("[0-9]{4}")
MIGRATIONS = Path(__file__).parent / "migrations"
FRESH = MIGRATIONS / "fresh.sql"
BETWEEN_STATEMENTS = "\n--\n"


def version_of(engine: Engine) -> str | None:
    """The version the database has; None for one without tables of ours."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return None if version is None else str(version)


def refuse_newer(version: str | None, where: str) -> None:
    """Errors: LedgerError where a newer program has changed the ledger."""
    if version is not None and not _VERSION.fullmatch(version):
        raise LedgerError(f"{where}: the file is damaged: its version can't be read", next_step=REBUILD)
    if version is not None and version not in VERSIONS:
        raise LedgerError(
            f"{where}: made by a newer version of this program "
            f"(ledger version {version}, known: {VERSIONS[-1]})",
            next_step="update this program, for example with pip install --upgrade",
        )


def make(engine: Engine) -> None:
    """Give an empty SQLite database its shape. `engine`: the writing engine."""
    with engine.begin() as connection:
        for statement in FRESH.read_text(encoding="utf-8").split(BETWEEN_STATEMENTS):
            connection.exec_driver_sql(statement)
        _before_commit()


def migrate(engine: Engine, *, migrations: Path = MIGRATIONS, target: str = "head") -> None:
    """Bring the database up to date. `engine`: the writing engine with foreign keys off.

    Safe to repeat. A migration that fails leaves nothing of itself; those before it stay, recorded.
    """
    # A heavy library, needed once in a ledger's life: not at every start.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        config.attributes["on_version_apply"] = _check_references(engine)
        command.upgrade(config, target)


def _before_commit() -> None:
    failpoint("ledger.migrating")


def _check_references(engine: Engine) -> Callable[..., None]:
    """Called inside each migration's transaction, after its last statement (fact 7 of the recipe)."""

    def check(*, ctx: Any, **_others: Any) -> None:
        _before_commit()
        if is_sqlite(engine) and (broken := broken_references(ctx.connection)):
            raise LedgerError(
                f"the migration would leave {broken} rows that point to nothing",
                next_step="nothing was changed; report it, and keep using the version of before",
            )

    return check
