"""The statements that store what came back, and find what is awaited.

Which outcome may stand in the place of which is `core.settling.is_better`, spelled out in their WHERE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)

from runner.core.model import Status
from runner.core.settling import is_better
from runner.ledger.bulk import Bulk, KeyedInsert, Lookup, Query, fixed
from runner.ledger.packing import ANSWERED_CODES, STATUS_CODES
from runner.ledger.tables import attempt, attempt_cause, file, quarantine, request, shard

_OUTCOME_COLUMNS = (
    *("finish_reason", "input_tokens", "output_tokens", "model"),
    *("response_uuid", "response_id", "file_id", "offset", "length", "answered_at"),
)
_ANSWER_COLUMNS = (
    "input_tokens",
    "output_tokens",
    "model",
    "response_uuid",
    "response_id",
    "offset",
    "length",
)
_SETTLED = ("new_retryable", "newly_excused", "at_shard", "at_line", "known_id")


def _is_one_of(column: Column[int], codes: Sequence[int]) -> ColumnElement[bool]:
    return column.in_([literal_column(str(code)) for code in codes]) if codes else false()


def _worse_than(column: Column[int], status: Status) -> ColumnElement[bool]:
    """Held statuses that `status` is better than."""
    return _is_one_of(column, [code for held, code in STATUS_CODES.items() if is_better(status, held)])


def _not_better_than(column: Column[int], status: Status) -> ColumnElement[bool]:
    """Held statuses that are not better than `status`."""
    return _is_one_of(column, [code for held, code in STATUS_CODES.items() if not is_better(held, status)])


def _word(status: Status) -> ColumnElement[int]:
    return literal_column(str(STATUS_CODES[status]))


def _is_no_better(status: Status) -> ColumnElement[bool]:
    """An attempt that has no outcome, or one that this is better than."""
    return or_(attempt.c.status.is_(None), _worse_than(attempt.c.status, status))


def _store_statement(status: Status) -> Bulk:
    """One attempt's outcome, unless it has one that is as good."""
    return Bulk(
        update(attempt)
        .where(attempt.c.shard_id == bindparam("at_shard"), attempt.c.line == bindparam("at_line"))
        .where(_is_no_better(status))
        .values({"status": _word(status)} | {name: bindparam(f"new_{name}") for name in _OUTCOME_COLUMNS}),
        *(f"new_{name}" for name in _OUTCOME_COLUMNS),
        *("at_shard", "at_line"),
    )


def _may_settle(status: Status, this: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether the request may take an attempt of this shard as its answer or last failure."""
    held = request.c.status
    return or_(
        held.is_(None),
        and_(request.c.answer_shard_id >= this, _worse_than(held, status)),
        and_(request.c.answer_shard_id < this, _not_better_than(held, status)),
    )


def _settle_statement(status: Status) -> Bulk:
    """The request takes this attempt as its answer or last failure, if it may, and is closed. After an
    answer attempts are counted anew."""
    this: BindParameter[int] = bindparam("at_shard", type_=request.c.id.type)
    is_open_here = request.c.open_shard_id == this
    is_answer = STATUS_CODES[status] in ANSWERED_CODES
    return Bulk(
        update(request)
        .where(request.c.id == bindparam("known_id"))
        .where(_may_settle(status, this))
        .values(
            status=_word(status),
            retryable=bindparam("new_retryable"),
            excused=(request.c.attempts if is_answer else request.c.excused) + bindparam("newly_excused"),
            answer_shard_id=this,
            answer_line=bindparam("at_line"),
            open_shard_id=case((is_open_here, null()), else_=request.c.open_shard_id),
            open_line=case((is_open_here, null()), else_=request.c.open_line),
            failed_shard_id=null(),
            failed_line=null(),
        ),
        *_SETTLED,
    )


def _close_statement(*names: str, **values: ColumnElement[Any]) -> Bulk:
    """The request keeps the better answer that it has; this attempt, which brought none, is over."""
    this: BindParameter[int] = bindparam("at_shard", type_=request.c.id.type)
    is_open_here = and_(request.c.id == bindparam("known_id"), request.c.open_shard_id == this)
    excused = request.c.excused + bindparam("newly_excused")
    closed = {"open_shard_id": null(), "open_line": null(), "excused": excused, **values}
    statement = update(request).where(is_open_here).values(closed)
    return Bulk(statement, "newly_excused", *names, "at_shard", "known_id")


STORE = {status: _store_statement(status) for status in Status}
SETTLE = {status: _settle_statement(status) for status in Status}
STORE_ANSWER = Bulk(
    update(attempt)
    .where(attempt.c.shard_id == fixed("at_shard"), attempt.c.line == bindparam("at_line"))
    .where(attempt.c.request_id == bindparam("known_id"), _is_no_better(Status.SUCCEEDED))
    .values({"status": _word(Status.SUCCEEDED), "finish_reason": null()})
    .values({name: bindparam(f"new_{name}") for name in _ANSWER_COLUMNS})
    .values(file_id=fixed("in_file"), answered_at=fixed("now_s")),
    *(f"new_{name}" for name in _ANSWER_COLUMNS),
    *("at_line", "known_id"),
    fixed=("at_shard", "in_file", "now_s"),
)
"""As STORE for a usual answer. What is the same for all is not bound for each."""
SETTLE_ANSWERS = Bulk(
    update(request)
    .where(
        request.c.id.in_(
            select(attempt.c.request_id)
            .where(attempt.c.shard_id == fixed("at_shard"), attempt.c.file_id == fixed("in_file"))
            .where(attempt.c.status == _word(Status.SUCCEEDED))
        )
    )
    .where(request.c.open_shard_id == fixed("at_shard"))
    .where(_may_settle(Status.SUCCEEDED, fixed("at_shard")))
    .values(
        status=_word(Status.SUCCEEDED),
        retryable=literal_column("0"),
        excused=request.c.attempts,
        answer_shard_id=request.c.open_shard_id,
        answer_line=request.c.open_line,
        **dict.fromkeys(("open_shard_id", "open_line", "failed_shard_id", "failed_line"), null()),
    ),
    fixed=("at_shard", "in_file"),
)
"""As SETTLE, for every answer of a file whose request waits for that very attempt. Nothing but what is being
stored is both, for an outcome and the end of the waiting are one transaction."""


def _close_failed_statement() -> Bulk:
    """As a close; and the answer has failed since, if this shard is later than the answer's. What an earlier
    shard lacks, as one that a rebuild collects again may, says nothing of a later answer."""
    this: BindParameter[int] = bindparam("at_shard", type_=request.c.id.type)
    is_later = request.c.answer_shard_id < this
    return _close_statement(
        *("new_retryable", "at_line"),
        retryable=case(
            (is_later, bindparam("new_retryable", type_=request.c.retryable.type)), else_=request.c.retryable
        ),
        failed_shard_id=case((is_later, this), else_=request.c.failed_shard_id),
        failed_line=case(
            (is_later, bindparam("at_line", type_=request.c.failed_line.type)), else_=request.c.failed_line
        ),
    )


def _close_wished_statement() -> Bulk:
    """As a close, where a person wanted no answer. What had failed before stays a failure, and this attempt
    is its last word."""
    this: BindParameter[int] = bindparam("at_shard", type_=request.c.id.type)
    is_later = request.c.failed_shard_id < this
    line = bindparam("at_line", type_=request.c.failed_line.type)
    return _close_statement(
        "at_line",
        failed_shard_id=case((is_later, this), else_=request.c.failed_shard_id),
        failed_line=case((is_later, line), else_=request.c.failed_line),
    )


CLOSE = _close_statement()
CLOSE_WISHED = _close_wished_statement()
CLOSE_FAILED = _close_failed_statement()
_CAUSE_COLUMNS = ("shard_id", "line", "status", "error_class", "error_code", "error_message")
_CAUSE_VALUES = {name: bindparam(name, type_=attempt_cause.c[name].type) for name in _CAUSE_COLUMNS}
_CAUSE_IS_HELD = (
    select(attempt_cause.c.line)
    .where(attempt_cause.c.shard_id == _CAUSE_VALUES["shard_id"])
    .where(attempt_cause.c.line == _CAUSE_VALUES["line"], attempt_cause.c.status == _CAUSE_VALUES["status"])
    .exists()
)
ADD_CAUSE = Bulk(
    insert(attempt_cause).from_select(_CAUSE_COLUMNS, select(*_CAUSE_VALUES.values()).where(~_CAUSE_IS_HELD)),
    *_CAUSE_COLUMNS,
)
PLACE_AGAIN = Bulk(
    update(attempt)
    .where(
        attempt.c.shard_id == bindparam("at_shard"),
        attempt.c.line == bindparam("at_line"),
        attempt.c.file_id == bindparam("in_file"),
    )
    .values(offset=bindparam("new_offset"), length=bindparam("new_length")),
    *("new_offset", "new_length", "at_shard", "at_line", "in_file"),
)
EXCUSED = Lookup(lambda values: select(request.c.id, request.c.excused).where(request.c.id.in_(values)))
ANSWER_PLACES = Lookup(
    lambda values: (
        select(request.c.fingerprint, request.c.id, request.c.answer_shard_id, request.c.answer_line)
        .where(request.c.fingerprint.in_(values))
        .where(request.c.answer_shard_id.is_not(None))
    )
)
JUDGE_AGAIN = Bulk(
    update(request)
    .where(request.c.id == bindparam("known_id"), request.c.answer_shard_id == bindparam("at_shard"))
    .where(request.c.answer_line == bindparam("at_line"))
    .values(status=bindparam("new_status")),
    *("new_status", "known_id", "at_shard", "at_line"),
)
ADD_QUARANTINE = Bulk(
    insert(quarantine).values({name: bindparam(name) for name in ("file_id", "offset", "length", "reason")}),
    *("file_id", "offset", "length", "reason"),
)
_ATTEMPTS = attempt.join(request, request.c.id == attempt.c.request_id)
_OF_SHARD = attempt.c.shard_id == bindparam("shard_id")
OPEN = Query(
    select(request.c.name, request.c.fingerprint, attempt.c.line, attempt.c.request_id)
    .select_from(_ATTEMPTS)
    .where(_OF_SHARD, attempt.c.status.is_(None)),
    "shard_id",
)
HELD = Query(
    select(
        request.c.name,
        request.c.fingerprint,
        attempt.c.line,
        attempt.c.request_id,
        attempt.c.status,
        attempt.c.file_id,
        attempt.c.offset,
        attempt.c.length,
    )
    .select_from(_ATTEMPTS)
    .where(_OF_SHARD, attempt.c.status.is_not(None)),
    "shard_id",
)
ANSWERED_LINE = Query(
    select(attempt.c.line).where(_OF_SHARD, attempt.c.file_id.is_not(None)).limit(literal_column("1")),
    "shard_id",
)
REQUESTS = Query(
    select(request.c.fingerprint, request.c.name)
    .select_from(_ATTEMPTS)
    .where(_OF_SHARD)
    .order_by(attempt.c.line),
    "shard_id",
)
SHARD_OF_LINES = Query(
    select(shard.c.model, shard.c.cancel_requested, shard.c.attempt, shard.c.is_fenced).where(
        shard.c.id == bindparam("shard_id")
    ),
    "shard_id",
)
UNSETTLED = Query(
    select(func.count()).where(attempt.c.shard_id == bindparam("shard_id"), attempt.c.status.is_(None)),
    "shard_id",
)
UNKNOWN_LINES = Query(
    select(
        shard.c.requests - select(func.count()).where(attempt.c.shard_id == shard.c.id).scalar_subquery()
    ).where(shard.c.id == bindparam("shard_id")),
    "shard_id",
)
"""How many requests of a shard the ledger does not know: all, where a rebuild lacked its file."""
WITHOUT_COUNT = Query(
    select(attempt.c.line)
    .where(attempt.c.shard_id == bindparam("shard_id"), attempt.c.input_tokens.is_(None))
    .where(
        or_(
            attempt.c.status.is_(None),
            _is_one_of(attempt.c.status, [STATUS_CODES[Status.UNACCOUNTED], *sorted(ANSWERED_CODES)]),
        )
    )
    .order_by(attempt.c.line),
    "shard_id",
)
RAW_FILE = Query(
    select(file.c.id, file.c.raw_path).where(
        file.c.shard_id == bindparam("shard_id"),
        file.c.kind == bindparam("of_kind"),
        file.c.file_id == bindparam("server_file_id"),
    ),
    *("shard_id", "of_kind", "server_file_id"),
)
FILE_AT = Query(select(file.c.id).where(file.c.raw_path == bindparam("at_path")), "at_path")
ADD_RAW_FILE = KeyedInsert(
    file, *("shard_id", "attempt", "kind", "file_id", "state", "raw_path", "created_at")
)
COUNTED = ("lines", "duplicate_lines", "unknown_lines", "bad_lines")
COUNT_LINES = Bulk(
    update(file)
    .where(file.c.id == bindparam("this_file"))
    .values({name: bindparam(f"new_{name}") for name in COUNTED}),
    *(*(f"new_{name}" for name in COUNTED), "this_file"),
)
