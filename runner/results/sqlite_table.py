"""The SQLite target: one file, one table `results`, marked as ours.

The one rule: a database that this program did not write is never replaced. Ours carry the application id
`RUNR`; a file with another one, or with tables besides `results`, is refused, and so is one with a
journal beside it, because SQLite would apply that journal to the new file.
"""

# ruff: noqa: S608  # names and texts enter statements through engine.name and engine.text only

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import duckdb

from runner.results.engine import name
from runner.results.forms import sqlite_form, sqlite_type
from runner.results.joining import Joined

TABLE = "results"
APPLICATION_ID = 0x52554E52  # "RUNR"
_HEADER_BYTES = 100
_MAX_BATCH_ROWS = 1_000
_BATCH_BYTES = 4 << 20


def foreign_database(target: Path) -> str | None:
    """Why this target must not be replaced, or None where it may be."""
    for suffix in ("-wal", "-journal"):
        journal = target.with_name(target.name + suffix)
        if journal.is_file() and journal.stat().st_size:
            return f"the database is in use by another program ({journal.name} stands beside it)"
    if not target.is_file() or target.stat().st_size == 0:
        return None
    with target.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header.startswith(b"SQLite format 3\0"):
        return "the file is not a SQLite database"
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return "the database was not written by this program and would be lost"
    others = _other_tables(target)
    return f"the database also holds {', '.join(others)}, which would be lost" if others else None


def _other_tables(target: Path) -> list[str]:
    with closing(sqlite3.connect(f"{target.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        found = "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')"
        rows = database.execute(found).fetchall()
    return [f"{kind} {table!r}" for kind, table in rows if table != TABLE and not table.startswith("sqlite_")]


def write_sqlite(engine: duckdb.DuckDBPyConnection, joined: Joined, path: Path) -> int:
    """The joined rows into a new database at `path`. Number of rows written."""
    table = engine.sql(joined.sql)
    columns = list(zip(table.columns, table.types, strict=True))
    forms = ", ".join(f"{sqlite_form(f'q.{name(column)}', kind)}" for column, kind in columns)
    declared = ", ".join(f"{name(column)} {sqlite_type(kind)}" for column, kind in columns)
    batch_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * joined.rows // max(1, joined.size_bytes)))
    insert = f"INSERT INTO {TABLE} VALUES ({', '.join('?' * len(columns))})"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        # No journal: the file is new, and it is renamed into place only when whole and synced.
        for pragma in (
            "page_size = 4096", "encoding = 'UTF-8'", "journal_mode = OFF", "synchronous = OFF",
            f"application_id = {APPLICATION_ID}", "temp_store = MEMORY",
        ):  # fmt: skip
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")
        database.execute(f"CREATE TABLE {TABLE} ({declared})")
        written = _copy(engine.execute(f"SELECT {forms} FROM ({joined.sql}) q"), database, insert, batch_rows)
        database.execute("COMMIT")
    return written


def _copy(rows: duckdb.DuckDBPyConnection, database: sqlite3.Connection, insert: str, batch_rows: int) -> int:
    written = 0
    while batch := rows.fetchmany(batch_rows):
        database.executemany(insert, batch)
        written += len(batch)
    return written


def most_columns() -> int:
    """How many columns a table may have, by this machine's SQLite."""
    with closing(sqlite3.connect(":memory:")) as database:
        return database.getlimit(sqlite3.SQLITE_LIMIT_COLUMN)


def sqlite_columns(path: Path) -> Sequence[tuple[str, str]]:
    """(name, declared type) of each column of `results`; empty where there is no such table."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        return [(str(row[1]), str(row[2])) for row in database.execute(f"PRAGMA table_info({TABLE})")]
