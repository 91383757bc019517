"""The engine recipe for PostgreSQL: the promises that `engine` makes with SQLite, kept by other means.

Theory
------
Each line below answers a fact, all but 5 and 6 measured (PostgreSQL 15, psycopg 3.3, SQLAlchemy 2.1):

1. The ledger is written for one writer at a time. So every transaction of the writing engine begins with an
   advisory lock of the ledger's schema, which its end gives back, however it ends.
2. Its transactions are READ COMMITTED: each statement sees what is committed by then, and under the lock
   nobody else commits. SERIALIZABLE without the lock ended two of three runs at once with a conflict; with
   it, the snapshot would be taken by the statement that waits, and so be of the moment before.
3. Readers see one moment (REPEATABLE READ), can't write, wait for nobody and never fail for others' sake.
4. `lock_timeout` is the busy timeout. It also ends the wait for a lock that no program of ours holds.
5. A lost commit could be the id of a batch that is paid for: `synchronous_commit` is never off, whatever the
   server's own setting is.
6. A writer whose machine is gone holds the lock until the server misses it; it is asked every minute.
7. A text can't hold NUL there, and only UTF-8 holds all others: other encodings are refused.
8. The locks between processes and all files are those of one `.runner` folder. Two folders on one database
   would send the same requests twice, so it is noted whose ledger it is (see `project_mark`).

Speaks psycopg 3 only: other drivers give other types for the same columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    Engine,
    LargeBinary,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.pool import ConnectionPoolEntry

from runner.errors import LedgerError

BUSY_TIMEOUT_MS = 120_000
"""As long as a plan of half a million requests may take to be written, and others wait for that."""
CONNECT_TIMEOUT_S = 10
_LOCK = 0x52554E31
_WAIT_FOR_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK}, hashtext(coalesce(current_schema(), '')))"
_COMMIT_IS_KEPT = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
_WRITING_SETTINGS = (
    f"SET lock_timeout = {BUSY_TIMEOUT_MS}",
    _COMMIT_IS_KEPT,
    "SET tcp_keepalives_idle = 60",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 6",
)
_OURS = {"manifest", "run", "request", "row", "shard", "batch", "attempt", "event"}
_MARK = "the ledger of the project "


def writing_engine(parts: URL) -> Engine:
    """The engine that changes the ledger: every transaction holds the lock from its first moment."""
    engine = _engine(parts, "READ COMMITTED", _set_up(_WRITING_SETTINGS, is_reading=False))
    event.listen(engine, "begin", _take_lock)
    return engine


def reading_engine(parts: URL) -> Engine:
    """The engine that only looks: it sees one moment and never waits for a writer."""
    return _engine(parts, "REPEATABLE READ", _set_up((), is_reading=True))


def _engine(parts: URL, level: Any, set_up: Callable[[Any, ConnectionPoolEntry], None]) -> Engine:
    _require_driver()
    usual = {
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "fallback_application_name": "runner",
    }
    given = {name: value for name, value in usual.items() if name not in parts.query}
    engine = create_engine(
        parts,
        isolation_level=level,
        pool_pre_ping=True,
        hide_parameters=True,
        use_native_hstore=False,
        connect_args=given,
    )
    event.listen(engine, "connect", set_up)
    return engine


def _require_driver() -> None:
    try:
        import psycopg  # noqa: F401 - optional, and slow where it is not wanted
    except ImportError as error:
        raise LedgerError(
            "RUNNER_LEDGER: the driver for PostgreSQL can't be used: " + str(error).partition("\n")[0],
            next_step="pip install 'runner[postgresql]' (or psycopg[binary]), or unset RUNNER_LEDGER",
        ) from error


def _set_up(settings: tuple[str, ...], *, is_reading: bool) -> Callable[[Any, ConnectionPoolEntry], None]:
    def apply(driver_connection: Any, _entry: ConnectionPoolEntry) -> None:
        driver_connection.read_only = is_reading
        driver_connection.autocommit = True  # a setting made inside a transaction goes with it
        for setting in settings:
            driver_connection.execute(setting)
        driver_connection.autocommit = False

    return apply


def _take_lock(connection: Connection) -> None:
    connection.exec_driver_sql(_WAIT_FOR_LOCK)


# ---------------------------------------------------------------- what is looked at when it is opened


def unfitness(connection: Connection) -> str | None:
    """Why no ledger can be kept in this database, or None."""
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        return f"its encoding is {encoding}, and only UTF8 can hold every text"
    if connection.exec_driver_sql("SELECT current_schema()").scalar() is None:
        return "no schema to work in: its search_path names none that is there"
    return None


def is_foreign(connection: Connection) -> bool:
    """Whether the schema is some other program's: it has tables, and ours are not among them."""
    tables = set(inspect(connection).get_table_names())
    return bool(tables) and not tables >= _OURS


def project_mark(connection: Connection) -> str | None:
    """Which project's ledger this is; None where nobody has noted it yet."""
    query = "SELECT obj_description(to_regclass('manifest'), 'pg_class')"
    text = connection.exec_driver_sql(query).scalar()
    return None if text is None else str(text).removeprefix(_MARK)


def mark_project(connection: Connection, name: str) -> None:
    """Note whose ledger it is. `name`: letters and digits."""
    if not name.isalnum():
        raise ValueError(name)
    connection.exec_driver_sql(f"COMMENT ON TABLE manifest IS '{_MARK}{name}'")


# ---------------------------------------------------------------- many rows at once

_VALUE = re.compile(r"%\((\w+)\)s(?:::(\w+))?")


def from_columns(
    text: str, names: Sequence[str], binds: Mapping[str, BindParameter[Any]]
) -> tuple[str, list[int]] | None:
    """An INSERT of one row as one of all rows, given as a list for each column: half the time of row after
    row (measured). Gives the text, and which of a row's values stands where in it; None where a type is
    not known, or more is said of the row than its values."""
    head, _, row = text.partition(" VALUES ")
    if " RETURNING " in row or " ON CONFLICT " in row:
        return None
    types: dict[str, str] = {}

    def place(found: re.Match[str]) -> str:
        name, type_name = found[1], found[2]
        types[name] = type_name or ("BYTEA" if isinstance(binds[name].type, LargeBinary) else "")
        return f'given."{name}"'  # a name may be a word of SQL

    chosen = _VALUE.sub(place, row.removeprefix("(").removesuffix(")"))
    if not all(types.values()) or types.keys() != set(names):
        return None
    lists = ", ".join(f"%s::{type_name}[]" for type_name in types.values())
    order = [list(names).index(name) for name in types]
    columns = ", ".join(f'"{name}"' for name in types)
    source = f"unnest({lists}) AS given ({columns})"
    return f"{head} SELECT {chosen} FROM {source}", order  # noqa: S608 - parts of a compiled statement
