"""Statements about files: input files and the virtual output and error files of batches.

The rule: `as_of_us` is the moment a lagging replica has reached; what was made or deleted later is not
seen. Pass `now_us()` for the primary. Nothing here commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.localserver.database import Connection
from runner.localserver.lines import AcceptedLine


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """One row of `file`."""

    seq: int
    id: str
    owner: str
    kind: str
    filename: str
    purpose: str | None
    size_bytes: int
    requests: int
    created_us: int
    expires_s: int | None
    deleted_us: int | None
    batch: int | None


_COLUMNS = (
    "seq, id, owner, kind, filename, purpose, size_bytes, requests, created_us, expires_s, deleted_us, batch"
)


def _row(row: sqlite3.Row) -> FileRow:
    return FileRow(**dict(row))


def insert_file(connection: Connection, values: Mapping[str, Any]) -> int:
    """Add a file; `values` are columns. Returns its seq."""
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    cursor = connection.execute(f"INSERT INTO file ({names}) VALUES ({marks})", dict(values))  # noqa: S608
    return int(cursor.lastrowid or 0)


def insert_lines(connection: Connection, file: int, lines: Iterable[AcceptedLine]) -> None:
    """Index the lines of an input file, numbered from 1."""
    connection.executemany(
        "INSERT INTO input_line (file, line, custom_id, url, model, start, size, body_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (file, number, line.custom_id, line.url, line.model, line.start, line.size, line.body_at)
            for number, line in enumerate(lines, start=1)
        ),
    )


def find_file(connection: Connection, file_id: str, as_of_us: int) -> FileRow | None:
    """The file if it was made and not deleted by then; whoever owns it."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE id = ? AND created_us <= ? "  # noqa: S608
        "AND (deleted_us IS NULL OR deleted_us > ?)",
        (file_id, as_of_us, as_of_us),
    ).fetchone()
    return _row(row) if row else None


def file_by_seq(connection: Connection, seq: int | None) -> FileRow | None:
    """The file by its internal number, deleted or not."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM file WHERE seq = ?", (seq,)).fetchone()  # noqa: S608
    return _row(row) if row else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileQuery:
    """A page of `GET /files`."""

    owner: str
    limit: int
    after: str | None
    descending: bool
    purpose: str | None
    search: str | None


def page_of_files(connection: Connection, query: FileQuery, as_of_us: int) -> Sequence[FileRow]:
    """Up to `limit` + 1 files in order of creation; an unknown cursor gives the first page."""
    where = ["owner = ?", "created_us <= ?", "(deleted_us IS NULL OR deleted_us > ?)"]
    values: list[object] = [query.owner, as_of_us, as_of_us]
    if query.purpose is not None:
        where.append("purpose = ?")
        values.append(query.purpose)
    if query.search:
        where.append("lower(filename) LIKE ?")
        values.append(f"%{query.search.lower()}%")
    cursor = connection.execute(
        "SELECT created_us, id FROM file WHERE id = ? AND owner = ?", (query.after, query.owner)
    ).fetchone()
    if cursor is not None:
        where.append(f"(created_us, id) {'<' if query.descending else '>'} (?, ?)")
        values += [cursor["created_us"], cursor["id"]]
    direction = "DESC" if query.descending else "ASC"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM file WHERE {' AND '.join(where)} "  # noqa: S608
        f"ORDER BY created_us {direction}, id {direction} LIMIT ?",
        (*values, query.limit + 1),
    )
    return [_row(row) for row in rows]


def delete_file(connection: Connection, file: FileRow, at_us: int) -> None:
    """Mark a file deleted, with the effects on its batches: cancel the active ones, clear the ids.

    One transaction with the caller's: a create that comes later finds no file, population finds none either.
    """
    connection.execute("UPDATE file SET deleted_us = ? WHERE seq = ?", (at_us, file.seq))
    if file.kind != "input":
        column = "output" if file.kind == "output" else "error"
        connection.execute(f"UPDATE batch SET {column} = NULL WHERE seq = ?", (file.batch,))  # noqa: S608
        return
    connection.execute(
        "UPDATE batch SET cancelling_us = coalesce(cancelling_us, :at), "
        "cancelled_us = coalesce(cancelled_us, :at) WHERE input = :file AND completed_us IS NULL "
        "AND failed_us IS NULL AND deleted_us IS NULL",
        {"at": at_us, "file": file.seq},
    )
    connection.execute("UPDATE batch SET input = NULL WHERE input = ?", (file.seq,))


def models_of_file(connection: Connection, file: int) -> Sequence[tuple[str, int, int]]:
    """(model, number of requests, bytes of bodies) of an input file, by model name."""
    rows = connection.execute(
        "SELECT model, count(*) AS requests, sum(size - body_at - 2) AS body_bytes FROM input_line "
        "WHERE file = ? GROUP BY model ORDER BY model",
        (file,),
    )
    return [(row["model"], row["requests"], row["body_bytes"]) for row in rows]


def models_of_owner(connection: Connection, owner: str) -> Sequence[str]:
    """Names of the models that this owner's files have asked for."""
    rows = connection.execute(
        "SELECT DISTINCT model FROM input_line WHERE file IN (SELECT seq FROM file WHERE owner = ?) "
        "ORDER BY model",
        (owner,),
    )
    return [row["model"] for row in rows]
