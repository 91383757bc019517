"""What people and the results table ask: rows with their answers, totals, what is worth repeating.

The rule: a walk goes by primary keys only, and no read stays open while the caller works: each slice is a
short read of its own. Shard, batch and file are looked up once each and not joined a million times.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
)

from runner.core.model import Status
from runner.ledger.bulk import Query
from runner.ledger.packing import SUCCEEDED_CODE
from runner.ledger.plan_statements import HAS_ANSWER, IS_REPEATABLE, SLICE_ROWS
from runner.ledger.records import LedgerRow, Repeatable, Totals
from runner.ledger.stored import Place, StoredRow, StoredRows, ledger_row, row_status
from runner.ledger.tables import (
    attempt,
    attempt_cause,
    batch,
    file,
    request,
    row_cause,
    run,
    shard,
)
from runner.ledger.tables import row as row_table

_shard, _open_shard, _file = (itemgetter(place) for place in (Place.SHARD, Place.OPEN_SHARD, Place.FILE))
_ANSWER = and_(attempt.c.shard_id == request.c.answer_shard_id, attempt.c.line == request.c.answer_line)
# Most rows have no cause, and looking for one takes a quarter of the time (measured). Only a row without a
# request has one of its own, and a success has none: for the others nothing is looked for.
_UNSENDABLE_AT = case((row_table.c.request_id.is_(None), row_table.c.position))
_UNSUCCESSFUL_IN = case((request.c.status != literal_column(str(SUCCEEDED_CODE)), attempt.c.shard_id))
_ROW_CAUSE = and_(row_cause.c.manifest_id == row_table.c.manifest_id, row_cause.c.position == _UNSENDABLE_AT)
_ATTEMPT_CAUSE = and_(
    attempt_cause.c.shard_id == _UNSUCCESSFUL_IN,
    attempt_cause.c.line == attempt.c.line,
    attempt_cause.c.status == request.c.status,
)
_JOINED = row_table.outerjoin(request, request.c.id == row_table.c.request_id).outerjoin(attempt, _ANSWER)


def _rows() -> Select[Any]:
    """In the order of `Place`."""
    return select(
        row_table.c.position,
        row_table.c.key,
        row_table.c.request_id,
        request.c.fingerprint,
        request.c.name,
        request.c.status,
        request.c.attempts,
        request.c.open_shard_id,
        request.c.failed_shard_id,
        attempt.c.shard_id,
        attempt.c.finish_reason,
        attempt.c.input_tokens,
        attempt.c.output_tokens,
        attempt.c.model,
        attempt.c.response_uuid,
        attempt.c.response_id,
        attempt.c.file_id,
        attempt.c.offset,
        attempt.c.length,
        attempt.c.answered_at,
        func.coalesce(row_cause.c.error_class, attempt_cause.c.error_class),
        func.coalesce(row_cause.c.error_code, attempt_cause.c.error_code),
        func.coalesce(row_cause.c.error_message, attempt_cause.c.error_message),
    ).select_from(_JOINED.outerjoin(row_cause, _ROW_CAUSE).outerjoin(attempt_cause, _ATTEMPT_CAUSE))


ROWS = Query(
    _rows()
    .where(row_table.c.manifest_id == bindparam("manifest_id"))
    .where(row_table.c.position >= bindparam("start"), row_table.c.position < bindparam("stop"))
    .order_by(row_table.c.position),
    *("manifest_id", "start", "stop"),
)
ROW_BY_KEY = Query(
    _rows()
    .where(row_table.c.manifest_id == bindparam("manifest_id"))
    .where(func.coalesce(row_table.c.key, request.c.name) == bindparam("key"))
    .order_by(row_table.c.position),
    *("manifest_id", "key"),
)
SHARD_FACTS = Query(
    select(shard.c.model, batch.c.batch_id)
    .select_from(
        shard.outerjoin(batch, and_(batch.c.shard_id == shard.c.id, batch.c.attempt == shard.c.attempt))
    )
    .where(shard.c.id == bindparam("shard_id")),
    "shard_id",
)
RAW_PATH = Query(select(file.c.raw_path).where(file.c.id == bindparam("file_id")), "file_id")
TOTALS = (
    select(
        row_table.c.request_id.is_(None).label("is_unsendable"),
        request.c.status,
        request.c.open_shard_id.is_not(None).label("is_open"),
        func.count().label("rows"),
        func.coalesce(func.sum(attempt.c.input_tokens), 0).label("input_tokens"),
        func.coalesce(func.sum(attempt.c.output_tokens), 0).label("output_tokens"),
    )
    .select_from(_JOINED)
    .where(row_table.c.manifest_id == bindparam("manifest_id"))
    .group_by("is_unsendable", request.c.status, "is_open")
)
_LAST_SHARD = func.coalesce(request.c.failed_shard_id, request.c.answer_shard_id)
_LAST_LINE = func.coalesce(request.c.failed_line, request.c.answer_line)
_LAST_ATTEMPT = and_(attempt.c.shard_id == _LAST_SHARD, attempt.c.line == _LAST_LINE)
REPEATABLE = (
    select(
        request.c.id,
        _LAST_SHARD,
        _LAST_LINE,
        case((HAS_ANSWER, request.c.attempts - request.c.excused), else_=request.c.attempts),
        func.coalesce(attempt.c.answered_at, literal_column("0")),
    )
    .distinct()
    .select_from(row_table.join(request, request.c.id == row_table.c.request_id).join(attempt, _LAST_ATTEMPT))
    .where(row_table.c.manifest_id == bindparam("manifest_id"), IS_REPEATABLE)
    .order_by(_LAST_SHARD, _LAST_LINE)
)
_REPEATABLE = Query(REPEATABLE, "manifest_id", "max_attempts")
UNASKED = Query(
    select(row_table.c.position)
    .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
    .where(row_table.c.manifest_id == bindparam("manifest_id"))
    .where(request.c.status.is_(None), request.c.open_shard_id.is_(None))
    .limit(literal_column("1")),
    "manifest_id",
)
QUEUED_OUT = Query(
    select(attempt_cause.c.shard_id, attempt_cause.c.error_message)
    .select_from(
        attempt_cause.join(shard, shard.c.id == attempt_cause.c.shard_id).join(
            run, run.c.id == shard.c.run_id
        )
    )
    .where(run.c.manifest_id == bindparam("manifest_id"))
    .where(attempt_cause.c.error_class == literal_column("'queue_full'"))
    .order_by(attempt_cause.c.shard_id.desc())
    .limit(literal_column("1")),
    "manifest_id",
)
_STATUS_CODES = literal_column("16", Integer)
_LARGE_PRIME = literal_column("2147483647", Integer)
_ANSWER_OF_REQUEST = cast(request.c.id, BigInteger) * (
    request.c.answer_shard_id * _STATUS_CODES + request.c.status
)
ANSWERS_MARK = (
    select(
        func.count(),
        func.count(request.c.status),
        func.sum(_ANSWER_OF_REQUEST % _LARGE_PRIME),
        func.count(request.c.open_shard_id),
        func.count(request.c.failed_shard_id),
        func.sum(request.c.failed_shard_id),
    )
    .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
    .where(row_table.c.manifest_id == bindparam("manifest_id"))
)
"""A request's answer is replaced by that of a later shard only, or judged to be of another status. Each moves
the sum by a multiple of the request's id that is less than the prime, so one alone never leaves it as it was,
and several do so once in two thousand million times. Grouping by status instead sorts all of them first."""
_ANSWERS_MARK = Query(ANSWERS_MARK, "manifest_id")


def load_stored_rows(connection: Connection, manifest_id: int, start: int, stop: int) -> StoredRows:
    """The rows from position `start` up to, not including, `stop`, as they are stored."""
    return _with_facts(connection, ROWS.rows(connection, manifest_id, start, stop))


def load_rows(connection: Connection, manifest_id: int, start: int, stop: int) -> list[LedgerRow]:
    """The rows from position `start` up to, not including, `stop`."""
    return _read(load_stored_rows(connection, manifest_id, start, stop))


def load_row_by_key(connection: Connection, manifest_id: int, key: str) -> list[LedgerRow]:
    """The rows with this key: one, or none."""
    return _read(_with_facts(connection, ROW_BY_KEY.rows(connection, manifest_id, key)))


def _read(stored: StoredRows) -> list[LedgerRow]:
    return [ledger_row(values, stored.shards, stored.paths) for values in stored.rows]


def _with_facts(connection: Connection, rows: list[StoredRow]) -> StoredRows:
    """The rows, and of the shards and files that they name what they share: asked for once each."""
    shards: dict[int | None, tuple[str, str | None]] = {None: ("", None)}
    for shard_id in {*map(_shard, rows), *map(_open_shard, rows)} - {None}:
        ((model, batch_id),) = SHARD_FACTS.rows(connection, shard_id)
        shards[shard_id] = model, batch_id
    paths: dict[int | None, str | None] = {None: None}
    for file_id in set(map(_file, rows)) - {None}:
        ((paths[file_id],),) = RAW_PATH.rows(connection, file_id)
    return StoredRows(rows, shards, paths)


def load_totals(connection: Connection, manifest_id: int) -> Totals:
    """What became of the manifest's current rows."""
    by_status: dict[Status, int] = {}
    rows = input_tokens = output_tokens = 0
    for found in connection.execute(TOTALS, {"manifest_id": manifest_id}):
        unsendable = bool(found.is_unsendable)
        status = Status.UNSENDABLE if unsendable else row_status(found.status, is_open=bool(found.is_open))
        by_status[status] = by_status.get(status, 0) + found.rows
        rows += found.rows
        input_tokens += int(found.input_tokens)
        output_tokens += int(found.output_tokens)
    return Totals(rows=rows, by_status=by_status, input_tokens=input_tokens, output_tokens=output_tokens)


def load_repeatable(connection: Connection, manifest_id: int, max_attempts: int) -> array[int]:
    """Requests worth another attempt, flat (the fields of `Repeatable`): 40 bytes for each."""
    flat = array("q")
    for values in _REPEATABLE.rows(connection, manifest_id, max_attempts):
        flat.extend(values)
    return flat


def has_unasked(connection: Connection, manifest_id: int) -> bool:
    """See `Ledger.has_unasked`. One walk over the rows at most."""
    return UNASKED.first(connection, manifest_id) is not None


def load_queued_out(connection: Connection, manifest_id: int) -> tuple[int, str] | None:
    """See `Ledger.queued_out`."""
    for shard_id, message in QUEUED_OUT.rows(connection, manifest_id):
        return shard_id, message or ""
    return None


def load_answers_mark(connection: Connection, manifest_id: int) -> str:
    """See `Ledger.answers_mark`. One walk over the rows."""
    (found,) = _ANSWERS_MARK.rows(connection, manifest_id)
    return ",".join("" if value is None else str(value) for value in found)


def in_slices(flat: array[int]) -> Iterator[list[Repeatable]]:
    """Flat fields, so many requests at a time."""
    width = len(Repeatable._fields)
    for start in range(0, len(flat), width * SLICE_ROWS):
        part = flat[start : start + width * SLICE_ROWS]
        columns = (part[number::width] for number in range(width))
        yield list(map(Repeatable, *columns))
