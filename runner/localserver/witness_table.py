"""The witness: what this server accepted and executed, written with the effect, never changed.

Tables (append-only; readable with sqlite3 in `server.db`; `at_us` is Unix time in microseconds):
    witness_upload     file_id, owner, filename, size_bytes, requests, sha256 of the raw bytes
    witness_create     batch_id, input_file_id, owner, total, metadata (JSON) - also when the reply was lost
    witness_change     action (delete_file, delete_batch, cancel, retry, retry_requests), id
    witness_execution  batch_id, custom_id, body_sha256 (body as stored), result (completed, failed):
                       one row for each result that was recorded
`owner` is a hash of the key, never the key. HTTP requests are logged beside it, see `http_log`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.localserver.database import Connection

TABLES = ("upload", "create", "change", "execution")


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A request was executed and its result recorded."""

    batch_id: str
    custom_id: str
    body_sha256: str
    result: str


def saw_upload(connection: Connection, at_us: int, values: Mapping[str, Any]) -> None:
    """An upload was accepted."""
    connection.execute(
        "INSERT INTO witness_upload (at_us, file_id, owner, filename, size_bytes, requests, sha256) "
        "VALUES (:at_us, :id, :owner, :filename, :size_bytes, :requests, :sha256)",
        {"at_us": at_us, **values},
    )


def saw_create(connection: Connection, at_us: int, values: Mapping[str, Any]) -> None:
    """A batch was created."""
    connection.execute(
        "INSERT INTO witness_create (at_us, batch_id, input_file_id, owner, total, metadata) "
        "VALUES (:at_us, :id, :input_file_id, :owner, :total, :metadata)",
        {"at_us": at_us, **values},
    )


def saw_change(connection: Connection, at_us: int, action: str, thing_id: str) -> None:
    """A file or batch was deleted, a batch cancelled or retried."""
    connection.execute(
        "INSERT INTO witness_change (at_us, action, id) VALUES (?, ?, ?)", (at_us, action, thing_id)
    )


def saw_executions(connection: Connection, at_us: int, executions: Iterable[Execution]) -> None:
    """Requests were executed."""
    connection.executemany(
        "INSERT INTO witness_execution (at_us, batch_id, custom_id, body_sha256, result) "
        "VALUES (?, ?, ?, ?, ?)",
        ((at_us, e.batch_id, e.custom_id, e.body_sha256, e.result) for e in executions),
    )


def witness_counts(connection: Connection) -> dict[str, int]:
    """Rows per table."""
    return {
        table: int(connection.execute(f"SELECT count(*) FROM witness_{table}").fetchone()[0])  # noqa: S608
        for table in TABLES
    }


def witness_page(connection: Connection, table: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Rows with seq above `after`, oldest first. `table` must be one of TABLES."""
    rows = connection.execute(
        f"SELECT * FROM witness_{table} WHERE seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
        (after, limit),
    )
    return [dict(row) for row in rows]
