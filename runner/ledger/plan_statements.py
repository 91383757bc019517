"""The statements that plans are read and written with, compiled once per database dialect.

Each is asked for a slice of rows at a time; each finds what it looks for by a key (a test reads the
query plans). What they mean, and in which order they run, is in `planning`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from runner.ledger.bulk import Bulk, Lookup, Query
from runner.ledger.packing import ANSWERED_CODES, SUCCEEDED_CODE
from runner.ledger.tables import attempt, manifest, request, row_cause
from runner.ledger.tables import row as row_table

SLICE_ROWS = 10_000
"""So many rows are in memory at a time."""
PLACES_TOGETHER = 250


HELD = Lookup(
    lambda values: select(
        request.c.fingerprint,
        request.c.id,
        request.c.name,
        request.c.status,
        request.c.open_shard_id,
        request.c.attempts,
        request.c.retryable,
    ).where(request.c.fingerprint.in_(values))
)
ANSWERED_AT = Lookup(
    lambda values: (
        select(request.c.id, attempt.c.answered_at)
        .join(
            attempt,
            and_(attempt.c.shard_id == request.c.answer_shard_id, attempt.c.line == request.c.answer_line),
        )
        .where(request.c.id.in_(values))
    )
)
ANSWER_SHARD = Lookup(
    lambda values: select(request.c.id, request.c.answer_shard_id).where(request.c.id.in_(values))
)
LAST_WORD_AT = Lookup(
    lambda values: (
        select(request.c.id, attempt.c.answered_at)
        .join(
            attempt,
            and_(
                attempt.c.shard_id == func.coalesce(request.c.failed_shard_id, request.c.answer_shard_id),
                attempt.c.line == func.coalesce(request.c.failed_line, request.c.answer_line),
            ),
        )
        .where(request.c.id.in_(values))
    )
)
HELD_WITH_ANSWER = Lookup(
    lambda values: (
        select(
            request.c.fingerprint,
            request.c.id,
            request.c.name,
            request.c.status,
            request.c.open_shard_id,
            request.c.attempts,
            request.c.retryable,
            request.c.excused,
            attempt.c.answered_at,
            request.c.failed_shard_id,
        )
        .select_from(
            request.outerjoin(
                attempt,
                and_(
                    attempt.c.shard_id == request.c.answer_shard_id,
                    attempt.c.line == request.c.answer_line,
                ),
            )
        )
        .where(request.c.fingerprint.in_(values))
    )
)
HAS_ANSWER = request.c.status.in_([literal_column(str(code)) for code in sorted(ANSWERED_CODES)])
IS_REPEATABLE = and_(
    request.c.open_shard_id.is_(None),
    request.c.retryable == literal_column("1"),
    request.c.attempts - request.c.excused < bindparam("max_attempts"),
    request.c.status.is_not(None),
    or_(~HAS_ANSWER, request.c.failed_shard_id.is_not(None)),
)
"""A request whose last word was a failure that may pass, with attempts left."""
FREE_BY_ID = Lookup(
    lambda values: select(request.c.id, request.c.attempts).where(
        request.c.id.in_(values), request.c.open_shard_id.is_(None)
    )
)
REPEATABLE_BY_ID = Lookup(
    lambda values: select(request.c.id, request.c.attempts).where(request.c.id.in_(values), IS_REPEATABLE),
    "max_attempts",
)
LET_GO = Lookup(
    lambda values: select(request.c.id).where(
        request.c.id.in_(values),
        request.c.open_shard_id.is_(None),
        or_(request.c.status.is_(None), and_(~HAS_ANSWER, request.c.retryable == literal_column("1"))),
    )
)
"""Of requests that were on their way those that are not, and have no answer, nor failed for good."""
ADD_REQUEST = Bulk(
    insert(request).values(
        id=bindparam("id"),
        fingerprint=bindparam("fingerprint"),
        name=bindparam("name"),
        retryable=literal_column("0"),
        excused=literal_column("0"),
        attempts=bindparam("attempts"),
        open_shard_id=bindparam("open_shard_id"),
        open_line=bindparam("open_line"),
    ),
    *("id", "fingerprint", "name", "attempts", "open_shard_id", "open_line"),
)
SEND_AGAIN = Bulk(
    update(request)
    .where(request.c.id == bindparam("known_id"), request.c.open_shard_id.is_(None))
    .values(
        attempts=request.c.attempts + literal_column("1"),
        open_shard_id=bindparam("at_shard"),
        open_line=bindparam("at_line"),
    ),
    *("at_shard", "at_line", "known_id"),
)
RENAME = Bulk(
    update(request).where(request.c.id == bindparam("known_id")).values(name=bindparam("new_name")),
    *("new_name", "known_id"),
)
ADD_ATTEMPT = Bulk(
    insert(attempt).values(
        shard_id=bindparam("shard_id"),
        line=bindparam("line"),
        request_id=bindparam("request_id"),
        number=bindparam("number"),
    ),
    *("shard_id", "line", "request_id", "number"),
)
_ROW_CAUSE = and_(
    row_cause.c.manifest_id == row_table.c.manifest_id, row_cause.c.position == row_table.c.position
)


def _rows_with_causes() -> Select[Any]:
    return (
        select(
            row_table.c.position,
            func.coalesce(row_table.c.key, request.c.name),
            row_table.c.request_id,
            row_cause.c.error_class,
            row_cause.c.error_code,
            row_cause.c.error_message,
        )
        .select_from(
            row_table.outerjoin(request, request.c.id == row_table.c.request_id).outerjoin(
                row_cause, _ROW_CAUSE
            )
        )
        .where(row_table.c.manifest_id == bindparam("manifest_id"))
    )


ROWS_BETWEEN = Query(
    _rows_with_causes().where(
        row_table.c.position > bindparam("after"), row_table.c.position <= bindparam("up_to")
    ),
    *("manifest_id", "after", "up_to"),
)
_ROW_COLUMNS = ("manifest_id", "position", "key", "request_id")
_CAUSE_COLUMNS = ("manifest_id", "position", "error_class", "error_code", "error_message")
ADD_ROW = Bulk(insert(row_table).values({name: bindparam(name) for name in _ROW_COLUMNS}), *_ROW_COLUMNS)
ADD_ROW_CAUSE = Bulk(
    insert(row_cause).values({name: bindparam(name) for name in _CAUSE_COLUMNS}), *_CAUSE_COLUMNS
)
REMOVE_ROW_CAUSE = Bulk(
    delete(row_cause).where(
        row_cause.c.manifest_id == bindparam("at_manifest"), row_cause.c.position == bindparam("at_position")
    ),
    *("at_manifest", "at_position"),
)
REMOVE_ROW = Bulk(
    delete(row_table).where(
        row_table.c.manifest_id == bindparam("at_manifest"), row_table.c.position == bindparam("at_position")
    ),
    *("at_manifest", "at_position"),
)
REMOVE_ROW_CAUSES_BEYOND, REMOVE_ROWS_BEYOND = (
    Bulk(
        delete(table).where(
            table.c.manifest_id == bindparam("at_manifest"), table.c.position > bindparam("after")
        ),
        *("at_manifest", "after"),
    )
    for table in (row_cause, row_table)
)
HIGHEST_REQUEST = Query(select(func.max(request.c.id)))
SET_CURRENT_RUN = Bulk(
    update(manifest)
    .where(manifest.c.id == bindparam("this_manifest"))
    .values(current_run_id=bindparam("new_run_id")),
    *("new_run_id", "this_manifest"),
)
_IS_SETTLED = and_(
    request.c.status == literal_column(str(SUCCEEDED_CODE)),
    request.c.open_shard_id.is_(None),
    request.c.failed_shard_id.is_(None),
)
_IN_RANGE = and_(row_table.c.position >= bindparam("start"), row_table.c.position < bindparam("stop"))


def _last_rows(where: ColumnElement[bool]) -> Select[Any]:
    return (
        select(
            row_table.c.position,
            func.coalesce(row_table.c.key, request.c.name),
            request.c.fingerprint,
            row_table.c.request_id,
            _IS_SETTLED,
        )
        .select_from(row_table.outerjoin(request, request.c.id == row_table.c.request_id))
        .where(row_table.c.manifest_id == bindparam("manifest_id"), where)
        .order_by(row_table.c.position)
    )


LAST_ROWS = Query(_last_rows(_IN_RANGE), *("manifest_id", "start", "stop"))
LAST_ROWS_AT = Lookup(
    lambda positions: _last_rows(row_table.c.position.in_(positions)), "manifest_id", size=PLACES_TOGETHER
)
SETTLED_ROWS = Query(
    select(row_table.c.position, row_table.c.request_id)
    .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
    .where(row_table.c.manifest_id == bindparam("manifest_id"), _IN_RANGE, _IS_SETTLED)
    .order_by(row_table.c.position),
    *("manifest_id", "start", "stop"),
)
ROWS_AT = Lookup(
    lambda positions: _rows_with_causes().where(row_table.c.position.in_(positions)),
    "manifest_id",
    size=PLACES_TOGETHER,
)
PREVIOUS_ROWS = Query(
    select(row_table.c.position, func.coalesce(row_table.c.key, request.c.name), request.c.fingerprint)
    .select_from(row_table.outerjoin(request, request.c.id == row_table.c.request_id))
    .where(row_table.c.manifest_id == bindparam("manifest_id"), row_table.c.position > bindparam("after"))
    .order_by(row_table.c.position)
    .limit(literal_column(str(SLICE_ROWS)))
    .offset(literal_column("0")),
    *("manifest_id", "after"),
)
