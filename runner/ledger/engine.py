"""The engine recipe: how SQLite must be opened so that a transaction is one, and nothing else is.

Theory
------
Each line below answers a fact that was measured (SQLAlchemy 2.1, Python 3.11 to 3.13, SQLite 3.40):

1. By default Python's driver begins transactions late and commits before DDL: a failed transaction
   leaves the table it created, and two concurrent "count, then insert" both count 0.
2. The cure: `isolation_level = None` on the driver, and `BEGIN IMMEDIATE` from SQLAlchemy's own `begin`
   event. Then DDL rolls back and the second count sees 1.
3. A plain `BEGIN` that reads and then writes fails at once after another's commit (SQLITE_BUSY_SNAPSHOT),
   whatever the timeout. So the writing engine never begins plainly.
4. The `begin` event fires for reads too: on the writing engine a read waits for the writer. Reads take
   the second engine: plain `BEGIN`, `query_only`.
5. WAL with `synchronous=normal` may lose the last commits in a power cut, so it is `full`: a lost commit
   could be the id of a batch that is paid for.
6. Alembic must run on the writing engine. With its defaults each migration is then one transaction.
7. Rebuilding a parent table with foreign keys on would fire ON DELETE CASCADE; the pragma does nothing
   inside a transaction, so migrations run on an engine that has it off, and check before each commit.

Everything that only SQLite understands is in this module and in `unpacking`. PostgreSQL has a recipe of its
own, which keeps the same promises (see `postgresql`); all other code is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from runner.errors import LedgerError
from runner.ledger import postgresql
from runner.ledger.urls import NEXT_STEP, is_server, read_url, usable_url

APPLICATION_ID = 0x52554E31
"""`RUN1`: marks the file as a ledger of this program (`file` and `sqlite3` show it)."""
BUSY_TIMEOUT_MS = 30_000
_WAL_KEPT_BYTES = 64_000_000
_CACHE_KIB = 49_152
"""Holds the fingerprint index of a million requests: with the default 2 MB, inserts are five times slower."""
_READING_CACHE_KIB = 4_096
"""Walks go by primary keys and sorted fingerprints, and are as fast with it (measured, a million requests);
with more, a run that has nothing to do would take that much memory for its one walk."""


def writing_engine(url: str, *, foreign_keys: bool = True) -> Engine:
    """The engine that changes the ledger: every transaction holds the write lock from its first moment."""
    parts = usable_url(url)
    if is_server(parts):
        return postgresql.writing_engine(parts)
    return _engine(parts, _writing_pragmas(foreign_keys=foreign_keys), "BEGIN IMMEDIATE")


def reading_engine(url: str) -> Engine:
    """The engine that only looks: it sees one moment and never waits for a writer."""
    parts = usable_url(url)
    if is_server(parts):
        return postgresql.reading_engine(parts)
    pragmas = (
        f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
        "PRAGMA query_only=on",
        f"PRAGMA cache_size=-{_READING_CACHE_KIB}",
    )
    return _engine(parts, pragmas, "BEGIN")


def _writing_pragmas(*, foreign_keys: bool) -> tuple[str, ...]:
    return (
        f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}",
        "PRAGMA journal_mode=wal",
        f"PRAGMA foreign_keys={'on' if foreign_keys else 'off'}",
        "PRAGMA synchronous=full",
        f"PRAGMA journal_size_limit={_WAL_KEPT_BYTES}",
        f"PRAGMA cache_size=-{_CACHE_KIB}",
    )


def _engine(parts: URL, pragmas: tuple[str, ...], begin: str) -> Engine:
    try:
        engine = create_engine(parts, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise LedgerError(
            f"RUNNER_LEDGER: the database can't be used: {_first_line(error)}", next_step=NEXT_STEP
        ) from error
    event.listen(engine, "connect", _on_connect(pragmas))
    event.listen(engine, "begin", _on_begin(begin))
    return engine


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _on_connect(pragmas: tuple[str, ...]) -> Callable[[Any, ConnectionPoolEntry], None]:
    def apply(driver_connection: Any, _entry: ConnectionPoolEntry) -> None:
        driver_connection.isolation_level = None
        cursor = driver_connection.cursor()
        try:
            for pragma in pragmas:
                cursor.execute(pragma)
        finally:
            cursor.close()

    return apply


def _on_begin(begin: str) -> Callable[[Connection], None]:
    def emit(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.execute(begin)

    return emit


# ---------------------------------------------------------------- SQLite's own questions


def is_sqlite(engine: Engine) -> bool:
    """Whether the recipe applies."""
    return engine.dialect.name == "sqlite"


def database_file(url: str) -> str | None:
    """The database's file, or None where there is none (a server, or memory)."""
    parts = read_url(url)
    if parts is None or parts.get_backend_name() != "sqlite" or parts.database in (None, "", ":memory:"):
        return None
    return parts.database


def hides_a_dropped_index(connection: Connection) -> bool:
    """Whether others go on reading while a transaction has dropped an index and makes it anew."""
    return connection.dialect.name == "sqlite"


def first_fault(connection: Connection, *, is_small: bool, was_killed: bool) -> str | None:
    """What SQLite finds wrong, or None: in a small file its indexes as well, in a large one the pages if
    a process died over it, else only that the schema can be read."""
    if not is_small and not was_killed:
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        return None
    check = "integrity_check" if is_small else "quick_check"
    verdict = connection.exec_driver_sql(f"PRAGMA {check}(1)").scalar()
    return None if verdict == "ok" else str(verdict).splitlines()[-1]


def is_foreign(connection: Connection) -> bool:
    """Whether the file is some other program's database: marked so, or with tables and no mark of ours."""
    mark = connection.exec_driver_sql("PRAGMA application_id").scalar()
    if mark == APPLICATION_ID:
        return False
    tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
    return bool(mark) or bool(tables)


def mark(connection: Connection) -> None:
    """Write our application id; part of the first migration's transaction."""
    connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def broken_references(connection: Connection) -> int:
    """How many rows point to nothing; asked before a migration commits."""
    return len(connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall())


def checkpoint(engine: Engine) -> None:
    """Fold the write-ahead log into the file and cut it to nothing. A reader may prevent it: no error."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=0")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.fetchall()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.close()
    finally:
        connection.close()


# ---------------------------------------------------------------- SQL that is spelled differently


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """The few expressions of the view `results` that no two databases spell alike."""

    custom_id: str
    response_uuid: str
    answered_at: str
    append_only: tuple[str, ...]


def _sqlite_uuid(column: str) -> str:
    parts = ((1, 4), (5, 2), (7, 2), (9, 2), (11, 6))
    return " || '-' || ".join(f"lower(hex(substr({column}, {start}, {size})))" for start, size in parts)


_SPELLINGS = {
    "sqlite": Spelling(
        custom_id="request.name || '-' || lower(hex(substr(request.fingerprint, 1, 8)))",
        response_uuid=_sqlite_uuid("attempt.response_uuid"),
        answered_at="strftime('%Y-%m-%dT%H:%M:%SZ', attempt.answered_at, 'unixepoch')",
        append_only=tuple(
            f"CREATE TRIGGER event_is_kept_on_{change} BEFORE {change.upper()} ON event "
            "BEGIN SELECT raise(ABORT, 'events are only ever added'); END"
            for change in ("update", "delete")
        ),
    ),
    "postgresql": Spelling(
        custom_id="request.name || '-' || encode(substring(request.fingerprint from 1 for 8), 'hex')",
        response_uuid="CAST(encode(attempt.response_uuid, 'hex') AS uuid)::text",
        answered_at=(
            "to_char(to_timestamp(attempt.answered_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
        ),
        append_only=(
            (
                "CREATE FUNCTION event_is_kept() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'events are only ever added'; END $$"
            ),
            (
                "CREATE TRIGGER event_is_kept BEFORE UPDATE OR DELETE ON event "
                "FOR EACH ROW EXECUTE FUNCTION event_is_kept()"
            ),
        ),
    ),
}


def spelling(dialect_name: str) -> Spelling:
    """How this database spells them. Errors: LedgerError for a database nobody has tried."""
    try:
        return _SPELLINGS[dialect_name]
    except KeyError:
        raise LedgerError(
            f"RUNNER_LEDGER: {dialect_name} is not supported", next_step="use SQLite or PostgreSQL"
        ) from None
