"""What `GET /files/{id}/content` and `GET /batches/{id}/results` send, page by page or as a stream.

Two regimes, as the server has them. With `limit` the body is one page and `X-Last-Line` counts its lines.
Without, the body is a chunked stream whose headers were computed before: they may promise more than comes.
`offset` and unknown parameters are ignored, `skip` is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.core.wire import decode_json, encode_json
from runner.localserver.batch_object import BatchView
from runner.localserver.database import COMPLETED, FAILED, IN_FLIGHT, Connection, Database
from runner.localserver.requests_table import Place, ResultQuery, result_lines

LINES_PER_READ = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentQuery:
    """The parameters of a content request; `limit` is None for a stream."""

    skip: int
    limit: int | None
    search: str | None
    status: str | None = None


def headers_for_page(
    batch: BatchView | None, query: ContentQuery, lines: int, has_more: bool
) -> dict[str, str]:
    """Headers of a page: counts what is really in the body."""
    incomplete = has_more or (batch is not None and batch.is_unfinished_for_readers)
    return {"X-Incomplete": _word(incomplete), "X-Last-Line": str(query.skip + lines)}


def headers_for_stream(batch: BatchView | None, query: ContentQuery, count: int) -> dict[str, str]:
    """Headers of a result file's stream: from the counts at the status query."""
    if batch is None:
        return {"X-Incomplete": "false"}
    headers = {"X-Incomplete": _word(batch.is_unfinished_for_readers)}
    if query.search is None:
        headers["X-Last-Line"] = str(max(count - query.skip, 0) + query.skip)
    return headers


def _word(value: bool) -> str:
    return "true" if value else "false"


def result_page(
    connection: Connection, query: ResultQuery, skip: int, limit: int
) -> tuple[list[bytes], bool]:
    """One page of a result file, and whether there is more."""
    lines, _ = result_lines(connection, query, Place(), skip, limit + 1)
    return lines[:limit], len(lines) > limit


def stream_results(database: Database, query: ResultQuery, skip: int, count: int) -> Iterator[bytes]:
    """The lines of a result file after `skip`, cut at `count` lines of the file, in chunks."""
    place = Place()
    left = count - skip
    while left > 0:
        with database.read() as connection:
            lines, place = result_lines(connection, query, place, skip, min(left, LINES_PER_READ))
        if not lines:
            return
        skip = 0
        left -= len(lines)
        yield b"".join(lines)


def input_page(
    connection: Connection, file: int, path: Path, query: ContentQuery, limit: int
) -> tuple[list[bytes], bool]:
    """One page of an input file in order of its lines, and whether there is more."""
    rows = connection.execute(
        "SELECT start, size FROM input_line WHERE file = ? AND (? IS NULL OR lower(custom_id) LIKE ?) "
        "ORDER BY line LIMIT ? OFFSET ?",
        (file, query.search, f"%{(query.search or '').lower()}%", limit + 1, query.skip),
    ).fetchall()
    with path.open("rb") as source:
        lines = [_read_at(source, row["start"], row["size"]) for row in rows[:limit]]
    return lines, len(rows) > limit


def _read_at(source: object, start: int, size: int) -> bytes:
    source.seek(start)  # type: ignore[attr-defined]
    return bytes(source.read(size))  # type: ignore[attr-defined]


def stream_input(database: Database, file: int, path: Path, query: ContentQuery) -> Iterator[bytes]:
    """The lines of an input file after `skip`, in chunks."""
    skip = query.skip
    while True:
        here = ContentQuery(skip=skip, limit=None, search=query.search)
        with database.read() as connection:
            lines, has_more = input_page(connection, file, path, here, LINES_PER_READ)
        if lines:
            yield b"".join(lines)
        if not has_more:
            return
        skip += len(lines)


_STATUS_STATES = {
    "completed": (COMPLETED,),
    "failed": (FAILED,),
    "pending": (0,),
    "in_progress": (IN_FLIGHT,),
}


def joined_page(
    connection: Connection, batch: BatchView, path: Path, query: ContentQuery, limit: int, as_of_us: int
) -> tuple[list[bytes], bool]:
    """One page of `/results`: every request of the batch in input order, with its result so far."""
    states = _STATUS_STATES.get(query.status or "", (0, IN_FLIGHT, COMPLETED, FAILED))
    seen = "CASE WHEN r.finished_us > ? THEN 0 ELSE r.state END"
    rows = connection.execute(
        f"SELECT r.id, r.custom_id, {seen} AS state, o.line AS outcome, l.model, "  # noqa: S608
        "l.start + l.body_at AS start, l.size - l.body_at - 2 AS size "
        "FROM request r JOIN input_line l ON l.file = r.file AND l.line = r.line "
        "LEFT JOIN outcome o ON o.request = r.seq "
        f"WHERE r.batch = ? AND {seen} IN ({', '.join(map(str, states))}) "
        "AND (? IS NULL OR lower(r.custom_id) LIKE ?) ORDER BY r.line LIMIT ? OFFSET ?",
        (
            as_of_us,
            batch.seq,
            as_of_us,
            query.search,
            f"%{(query.search or '').lower()}%",
            limit + 1,
            query.skip,
        ),
    ).fetchall()
    lines: list[bytes] = []
    with path.open("rb") as source:
        for row in rows[:limit]:
            body = decode_json(_read_at(source, row["start"], row["size"]))
            lines.append(_joined_line(dict(row), body, batch))
    return lines, len(rows) > limit


def _joined_line(row: dict[str, object], body: object, batch: BatchView) -> bytes:
    state = row["state"]
    words = {COMPLETED: "completed", FAILED: "failed", IN_FLIGHT: "in_progress"}
    word = words.get(state, "pending") if isinstance(state, int) else "pending"
    if word == "in_progress" and batch.cancelling_us is not None:
        word = "pending"
    outcome = decode_json(bytes(row["outcome"])) if state in (COMPLETED, FAILED) else {}  # type: ignore[call-overload]
    response, error = outcome.get("response"), outcome.get("error")
    value = {
        "id": row["id"],
        "custom_id": row["custom_id"],
        "model": row["model"],
        "input_body": body,
        "response_body": response["body"] if response else None,
        "error": error["message"] if error else None,
        "status": word,
    }
    return encode_json(value) + b"\n"


def stream_joined(
    database: Database, batch: BatchView, path: Path, query: ContentQuery, as_of_us: int
) -> Iterator[bytes]:
    """`/results` without `limit`, in chunks."""
    skip = query.skip
    while True:
        here = ContentQuery(skip=skip, limit=None, search=query.search, status=query.status)
        with database.read() as connection:
            lines, has_more = joined_page(connection, batch, path, here, LINES_PER_READ, as_of_us)
        if lines:
            yield b"".join(lines)
        if not has_more:
            return
        skip += len(lines)
