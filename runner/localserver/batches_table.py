"""Statements about batches: create, see (as a replica would), list, stamp, cancel, retry, delete.

The rule: nothing here commits, and `as_of_us` hides what happened later (a lagging replica); pass
`now_us()` for the primary.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.core.wire import encode_json
from runner.localserver.batch_object import BatchView, Counts, batch_object, needs_stamp
from runner.localserver.database import COMPLETED, FAILED, IN_FLIGHT, PENDING, Connection

_SELECT = """
SELECT b.seq, b.id, b.owner, b.endpoint, b.completion_window, b.metadata, b.total, b.input, b.output, b.error,
       b.created_us, b.expires_us, b.started_us, b.finalizing_us, b.completed_us, b.failed_us,
       b.cancelling_us, b.cancelled_us, b.retried_us, b.before_retry,
       i.id AS input_file_id, o.id AS output_file_id, e.id AS error_file_id
FROM batch b LEFT JOIN file i ON i.seq = b.input LEFT JOIN file o ON o.seq = b.output
LEFT JOIN file e ON e.seq = b.error
"""
_STAMPS = ("started_us", "finalizing_us", "completed_us", "failed_us", "cancelling_us", "cancelled_us")


def insert_batch(connection: Connection, values: Mapping[str, Any]) -> int:
    """Add a batch; `values` are columns. Returns its seq."""
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    cursor = connection.execute(f"INSERT INTO batch ({names}) VALUES ({marks})", dict(values))  # noqa: S608
    return int(cursor.lastrowid or 0)


def set_result_files(connection: Connection, batch: int, output: int, error: int) -> None:
    """Tie the virtual files to their batch."""
    connection.execute("UPDATE batch SET output = ?, error = ? WHERE seq = ?", (output, error, batch))


def find_batch(connection: Connection, batch_id: str, owner: str, as_of_us: int) -> BatchView | None:
    """The owner's batch as it was then; None if it was not there, is deleted, or is another owner's."""
    row = connection.execute(
        f"{_SELECT} WHERE b.id = ? AND b.owner = ? AND b.created_us <= ? "
        "AND (b.deleted_us IS NULL OR b.deleted_us > ?)",
        (batch_id, owner, as_of_us, as_of_us),
    ).fetchone()
    return _view(connection, row, as_of_us) if row else None


def batch_by_seq(connection: Connection, seq: int, as_of_us: int) -> BatchView | None:
    """The batch by its internal number, unless it is deleted."""
    row = connection.execute(f"{_SELECT} WHERE b.seq = ? AND b.deleted_us IS NULL", (seq,)).fetchone()
    return _view(connection, row, as_of_us) if row else None


def batches_newest_first(
    connection: Connection, owner: str, after: str | None, as_of_us: int
) -> Iterator[BatchView]:
    """The owner's batches from the cursor on; an unknown cursor starts at the first."""
    cursor = connection.execute(
        "SELECT created_us, id FROM batch WHERE id = ? AND owner = ?", (after, owner)
    ).fetchone()
    where = "AND (b.created_us, b.id) < (?, ?)" if cursor else ""
    values = [cursor["created_us"], cursor["id"]] if cursor else []
    rows = connection.execute(
        f"{_SELECT} WHERE b.owner = ? AND b.created_us <= ? AND (b.deleted_us IS NULL OR b.deleted_us > ?) "
        f"{where} ORDER BY b.created_us DESC, b.id DESC",
        [owner, as_of_us, as_of_us, *values],
    )
    for row in rows:
        yield _view(connection, row, as_of_us)


def _view(connection: Connection, row: sqlite3.Row, as_of_us: int) -> BatchView:
    values = dict(row)
    for stamp in _STAMPS:
        if values[stamp] is not None and values[stamp] > as_of_us:
            values[stamp] = None
    return BatchView(**values, counts=_counts(connection, values["seq"], as_of_us))


def _counts(connection: Connection, batch: int, as_of_us: int) -> Counts:
    rows = connection.execute(
        "SELECT CASE WHEN finished_us > ? THEN 0 ELSE state END AS seen, count(*) AS requests "
        "FROM request WHERE batch = ? GROUP BY seen",
        (as_of_us, batch),
    )
    found = {row["seen"]: row["requests"] for row in rows}
    return Counts(
        pending=found.get(PENDING, 0),
        in_flight=found.get(IN_FLIGHT, 0),
        completed=found.get(COMPLETED, 0),
        failed=found.get(FAILED, 0),
    )


def stamp_if_finished(connection: Connection, batch: BatchView, at_us: int) -> BatchView:
    """Write the terminal stamp of a finished batch that has none: the first reader does that."""
    if not needs_stamp(batch):
        return batch
    column = "failed_us" if batch.counts.failed == batch.total > 0 else "completed_us"
    connection.execute(
        f"UPDATE batch SET finalizing_us = ?, {column} = ? "  # noqa: S608
        "WHERE seq = ? AND completed_us IS NULL AND failed_us IS NULL AND cancelling_us IS NULL",
        (at_us, at_us, batch.seq),
    )
    stamps = {"finalizing_us": at_us, column: at_us}
    return replace(batch, **stamps)  # type: ignore[arg-type]


def finished_without_stamp(connection: Connection) -> Sequence[int]:
    """Batches that the executor is done with and nobody has stamped."""
    rows = connection.execute(
        "SELECT seq FROM batch WHERE settled = 1 AND started_us IS NOT NULL AND completed_us IS NULL "
        "AND failed_us IS NULL AND cancelling_us IS NULL AND deleted_us IS NULL"
    )
    return [row["seq"] for row in rows]


def cancel_batch(connection: Connection, batch: int, at_us: int) -> None:
    """Set both cancel stamps where they are not set. No guard: a completed batch becomes cancelled."""
    connection.execute(
        "UPDATE batch SET cancelling_us = coalesce(cancelling_us, ?), "
        "cancelled_us = coalesce(cancelled_us, ?) WHERE seq = ?",
        (at_us, at_us, batch),
    )


def reopen_batch(connection: Connection, batch: BatchView, at_us: int) -> None:
    """Clear the terminal and cancel stamps; remember how the batch looked for lagging readers."""
    before = encode_json(batch_object(batch, at_us, with_owner=True))
    connection.execute(
        "UPDATE batch SET finalizing_us = NULL, completed_us = NULL, failed_us = NULL, cancelling_us = NULL, "
        "cancelled_us = NULL, retried_us = ?, before_retry = ?, settled = 0 WHERE seq = ?",
        (at_us, before, batch.seq),
    )


def delete_batch(connection: Connection, batch: BatchView, at_us: int) -> None:
    """Mark a batch deleted; an active one is cancelled."""
    cancel_batch(connection, batch.seq, at_us)
    connection.execute("UPDATE batch SET deleted_us = ? WHERE seq = ?", (at_us, batch.seq))


def repend_requests(connection: Connection, batch: int, request_ids: Sequence[str] | None) -> int:
    """Make failed requests pending again (all, or those with these ids in any batch); how many."""
    where, values = "batch = ?", [batch]
    chosen: list[Any] = list(values)
    if request_ids is not None:
        where = f"id IN ({', '.join('?' * len(request_ids))})"
        chosen = list(request_ids)
    connection.execute(
        f"DELETE FROM outcome WHERE request IN (SELECT seq FROM request WHERE {where} AND state = {FAILED})",  # noqa: S608
        chosen,
    )
    cursor = connection.execute(
        f"UPDATE request SET state = {PENDING}, finished_us = NULL WHERE {where} AND state = {FAILED}",  # noqa: S608
        chosen,
    )
    return cursor.rowcount
