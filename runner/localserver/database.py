"""The home of sqlite3: one file per state folder, opened by every process that serves it.

Theory
- Several server processes share the file. WAL lets readers go on while one writes; every write is one
  BEGIN IMMEDIATE transaction, so two writers wait for each other instead of failing half-way.
- `synchronous=FULL`: what was answered with 2xx survives a power cut, not only a kill.
- Tables whose names begin with `witness_` are append-only, written in the same transaction as the effect
  they testify to, and enforced by triggers. Tests read them with sqlite3; see `witness_table`.
- Times are whole microseconds of Unix time (`*_us`), so that order by completion is exact.
Rejected: one database per process with messages between them (a second truth); in-memory state written
on exit (a kill would lose acknowledged work).
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Connection = sqlite3.Connection

DATABASE_NAME = "server.db"
BUSY_TIMEOUT_S = 60.0
MAX_IDLE_CONNECTIONS = 8

PENDING, IN_FLIGHT, COMPLETED, FAILED = 0, 1, 2, 3
"""`request.state`. A canceled request is a pending one of a batch with a cancel stamp."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS file (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('input', 'output', 'error')),
    filename TEXT NOT NULL, purpose TEXT, size_bytes INTEGER NOT NULL, requests INTEGER NOT NULL,
    created_us INTEGER NOT NULL, expires_s INTEGER, deleted_us INTEGER, batch INTEGER
);
CREATE INDEX IF NOT EXISTS file_by_owner ON file (owner, created_us, id);
CREATE TABLE IF NOT EXISTS input_line (
    file INTEGER NOT NULL, line INTEGER NOT NULL, custom_id TEXT NOT NULL, url TEXT NOT NULL,
    model TEXT NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL, body_at INTEGER NOT NULL,
    PRIMARY KEY (file, line)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    input INTEGER, output INTEGER, error INTEGER,
    endpoint TEXT NOT NULL, completion_window TEXT NOT NULL, metadata TEXT NOT NULL,
    total INTEGER NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER NOT NULL,
    started_us INTEGER, finalizing_us INTEGER, completed_us INTEGER, failed_us INTEGER,
    cancelling_us INTEGER, cancelled_us INTEGER, deleted_us INTEGER,
    retried_us INTEGER, before_retry BLOB, settled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS batch_by_owner ON batch (owner, created_us, id);
CREATE INDEX IF NOT EXISTS batch_by_input ON batch (input);
CREATE INDEX IF NOT EXISTS batch_open ON batch (seq) WHERE settled = 0;
CREATE TABLE IF NOT EXISTS request (
    seq INTEGER PRIMARY KEY, batch INTEGER NOT NULL, file INTEGER NOT NULL, line INTEGER NOT NULL,
    id TEXT NOT NULL, custom_id TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, finished_us INTEGER,
    UNIQUE (batch, line)
);
CREATE INDEX IF NOT EXISTS request_by_state ON request (batch, state, finished_us, id);
CREATE TABLE IF NOT EXISTS outcome (
    request INTEGER PRIMARY KEY, line BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, duration_us INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS fault (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, route TEXT NOT NULL, nth INTEGER NOT NULL,
    times INTEGER NOT NULL, token TEXT NOT NULL, params TEXT NOT NULL,
    seen INTEGER NOT NULL DEFAULT 0, fired INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS once (word TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS witness_upload (
    seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, file_id TEXT NOT NULL, owner TEXT NOT NULL,
    filename TEXT NOT NULL, size_bytes INTEGER NOT NULL, requests INTEGER NOT NULL, sha256 TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS witness_create (
    seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, batch_id TEXT NOT NULL, input_file_id TEXT NOT NULL,
    owner TEXT NOT NULL, total INTEGER NOT NULL, metadata TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS witness_change (
    seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, action TEXT NOT NULL, id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS witness_execution (
    seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, batch_id TEXT NOT NULL, custom_id TEXT NOT NULL,
    body_sha256 TEXT NOT NULL, result TEXT NOT NULL
);
"""
_WITNESS_TABLES = ("witness_upload", "witness_create", "witness_change", "witness_execution")


def now_us() -> int:
    """The wall clock in whole microseconds of Unix time."""
    return time.time_ns() // 1_000


class Database:
    """Connections to one `server.db`. Safe for threads; any number of processes may hold one each."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / DATABASE_NAME
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self.path.touch(mode=0o600, exist_ok=True)
        with self.write() as connection:
            self._create_tables(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading. Statements inside see committed data; no lock is held."""
        connection = self._borrow()
        try:
            yield connection
        finally:
            self._give_back(connection)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One BEGIN IMMEDIATE transaction: committed at the end, rolled back on any exception."""
        connection = self._borrow()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close every idle connection; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _borrow(self) -> Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MAX_IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = full")
        connection.execute("PRAGMA cache_size = -32768")
        connection.create_function("new_uuid", 0, lambda: str(uuid.uuid4()))
        return connection

    @staticmethod
    def _create_tables(connection: Connection) -> None:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                connection.execute(statement)
        for table in _WITNESS_TABLES:
            for action in ("UPDATE", "DELETE"):
                connection.execute(
                    f"CREATE TRIGGER IF NOT EXISTS {table}_{action.lower()} BEFORE {action} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
