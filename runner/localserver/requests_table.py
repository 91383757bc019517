"""Statements about the requests of batches: populate, claim, record, page through results.

The rule: `record_outcomes` is the only way a request becomes completed or failed, it does so at most once
per opening, and the witness is written in the same transaction. Nothing here commits.
States in statements: 0 pending, 1 in flight, 2 completed, 3 failed (see `database`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.localserver.database import COMPLETED, FAILED, Connection
from runner.localserver.witness_table import Execution, saw_executions


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A request to execute: where its body is, and what its result line needs."""

    seq: int
    batch: int
    batch_id: str
    request_id: str
    custom_id: str
    url: str
    file_id: str
    body_start: int
    body_size: int
    expires_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a request: the ready line of the output or error file, and figures for analytics."""

    claim: Claim
    succeeded: bool
    line: bytes
    prompt_tokens: int
    completion_tokens: int
    duration_us: int
    finished_us: int
    body_sha256: str


def batches_to_populate(connection: Connection, created_before_us: int) -> Sequence[tuple[int, str, str]]:
    """(number, id, metadata) of batches that wait for their rows."""
    rows = connection.execute(
        "SELECT seq, id, metadata FROM batch WHERE settled = 0 AND started_us IS NULL AND failed_us IS NULL "
        "AND cancelling_us IS NULL AND deleted_us IS NULL AND created_us <= ?",
        (created_before_us,),
    )
    return [(row["seq"], row["id"], row["metadata"]) for row in rows]


def populate(connection: Connection, batch: int, at_us: int) -> bool:
    """Copy the lines of the input file into rows and stamp the start; False if that was refused or done.

    Asks again inside the caller's transaction: the file may be deleted, the batch cancelled or populated.
    A batch without lines is stamped failed.
    """
    row = connection.execute(
        "SELECT input FROM batch WHERE seq = ? AND started_us IS NULL AND failed_us IS NULL "
        "AND cancelling_us IS NULL AND deleted_us IS NULL",
        (batch,),
    ).fetchone()
    if row is None:
        return False
    cursor = connection.execute(
        "INSERT INTO request (batch, file, line, id, custom_id) "
        "SELECT ?, file, line, new_uuid(), custom_id FROM input_line WHERE file = ?",
        (batch, row["input"]),
    )
    if cursor.rowcount < 1:
        connection.execute("UPDATE batch SET failed_us = ?, settled = 1 WHERE seq = ?", (at_us, batch))
        return False
    connection.execute(
        "UPDATE batch SET started_us = ?, total = ? WHERE seq = ?", (at_us, cursor.rowcount, batch)
    )
    return True


def fail_at_start(connection: Connection, batch: int, at_us: int) -> None:
    """A batch ends as failed before it has any rows."""
    connection.execute(
        "UPDATE batch SET failed_us = ?, settled = 1 WHERE seq = ? AND started_us IS NULL", (at_us, batch)
    )


def open_batches(connection: Connection) -> Sequence[int]:
    """Populated batches whose requests may be executed, oldest first."""
    rows = connection.execute(
        "SELECT seq FROM batch WHERE settled = 0 AND started_us IS NOT NULL AND cancelling_us IS NULL "
        "AND deleted_us IS NULL AND input IS NOT NULL ORDER BY seq"
    )
    return [row["seq"] for row in rows]


def claim_requests(connection: Connection, batch: int, limit: int, *, mark: bool) -> list[Claim]:
    """Up to `limit` pending requests; `mark` writes down that they are in flight."""
    rows = connection.execute(
        "SELECT r.seq, r.batch, b.id AS batch_id, r.id AS request_id, r.custom_id, l.url, f.id AS file_id, "
        "l.start + l.body_at AS body_start, l.size - l.body_at - 2 AS body_size, b.expires_us "
        "FROM request r JOIN batch b ON b.seq = r.batch JOIN file f ON f.seq = b.input "
        "JOIN input_line l ON l.file = r.file AND l.line = r.line "
        "WHERE r.batch = ? AND r.state = 0 AND r.finished_us IS NULL AND b.cancelling_us IS NULL "
        "AND b.deleted_us IS NULL ORDER BY r.id LIMIT ?",
        (batch, limit),
    ).fetchall()
    claims = [Claim(**dict(row)) for row in rows]
    if mark:
        connection.executemany(
            "UPDATE request SET state = 1 WHERE seq = ?", [(claim.seq,) for claim in claims]
        )
    return claims


def settle_if_done(connection: Connection, batch: int) -> None:
    """Mark a batch that has nothing left to execute, so that it is not looked at again."""
    connection.execute(
        "UPDATE batch SET settled = 1 WHERE seq = ? AND started_us IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM request WHERE batch = batch.seq AND state = 0) AND NOT EXISTS "
        "(SELECT 1 FROM request WHERE batch = batch.seq AND state = 1)",
        (batch,),
    )


def release_in_flight(connection: Connection) -> None:
    """What a dead executor had in flight waits again. Called by whoever has just taken the role."""
    connection.execute(
        "UPDATE request SET state = 0 WHERE state = 1 AND batch IN (SELECT seq FROM batch WHERE settled = 0)"
    )


def record_outcomes(connection: Connection, outcomes: Iterable[Outcome], at_us: int) -> None:
    """Record results: the request's state, its line, the witness. A request with a result keeps it."""
    executions: list[Execution] = []
    for outcome in outcomes:
        claim = outcome.claim
        cursor = connection.execute(
            "UPDATE request SET state = ?, finished_us = ? WHERE seq = ? AND state IN (0, 1)",
            (COMPLETED if outcome.succeeded else FAILED, outcome.finished_us, claim.seq),
        )
        if cursor.rowcount != 1:
            continue
        connection.execute(
            "INSERT INTO outcome (request, line, prompt_tokens, completion_tokens, duration_us) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                claim.seq,
                outcome.line,
                outcome.prompt_tokens,
                outcome.completion_tokens,
                outcome.duration_us,
            ),
        )
        executions.append(
            Execution(
                batch_id=claim.batch_id,
                custom_id=claim.custom_id,
                body_sha256=outcome.body_sha256,
                result="completed" if outcome.succeeded else "failed",
            )
        )
    saw_executions(connection, at_us, executions)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reader stands in a result file: after this finishing time and request id."""

    finished_us: int = -1
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultQuery:
    """Which result lines: of a batch, in a state, up to a moment, with a part of the custom_id."""

    batch: int
    state: int
    as_of_us: int
    search: str | None


def result_lines(
    connection: Connection, query: ResultQuery, place: Place, skip: int, limit: int
) -> tuple[list[bytes], Place]:
    """Lines of an output or error file in order of finishing, after `place` and `skip` more."""
    where = "r.batch = ? AND r.state = ? AND r.finished_us <= ? AND (r.finished_us, r.id) > (?, ?)"
    values: list[Any] = [query.batch, query.state, query.as_of_us, place.finished_us, place.request_id]
    if query.search:
        where += " AND lower(r.custom_id) LIKE ?"
        values.append(f"%{query.search.lower()}%")
    rows = connection.execute(
        "SELECT o.line, r.finished_us, r.id FROM request r JOIN outcome o ON o.request = r.seq "  # noqa: S608
        f"WHERE {where} ORDER BY r.finished_us, r.id LIMIT ? OFFSET ?",
        (*values, limit, skip),
    ).fetchall()
    if rows:
        place = Place(rows[-1]["finished_us"], rows[-1]["id"])
    return [row["line"] for row in rows], place


def lines_elsewhere(connection: Connection, file_id: str) -> tuple[str, Sequence[tuple[str, str]]]:
    """The kind of a file, and (line id, custom_id) of its batch's requests in the other result file."""
    row = connection.execute("SELECT kind, batch FROM file WHERE id = ?", (file_id,)).fetchone()
    if row is None:
        return "", ()
    found = connection.execute(
        "SELECT id, custom_id FROM request WHERE batch = ? AND state = ?",
        (row["batch"], COMPLETED if row["kind"] == "error" else FAILED),
    )
    return row["kind"], [(one["id"], one["custom_id"]) for one in found]
