"""What came back: outcomes of attempts, and which of them a request keeps.

The rule: an answer is never lost. Of several lines for one attempt the better one stays, the first among
equals (`core.settling.is_better`). Of several attempts of one request a later one replaces an earlier
one, unless that would put something worse in the place of an answer. Both rules are in the WHERE of the
updates, taken from `is_better` itself, so storing the same lines again changes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
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

from runner.core.identity import custom_id
from runner.core.model import Cause, Fingerprint, Outcome, Status
from runner.core.settling import is_better
from runner.core.states import Submission
from runner.errors import LedgerError
from runner.failpoints import failpoint
from runner.ledger.bulk import Bulk, Lookup, Query
from runner.ledger.kept_requests import KeptRequest, keep_requests
from runner.ledger.plan_statements import ANSWERED_CODES
from runner.ledger.records import Expected, RawFile, ResultKind
from runner.ledger.tables import (
    STATUS_CODES,
    STATUSES,
    attempt,
    attempt_cause,
    file,
    quarantine,
    request,
    shard,
)
from runner.ledger.times import iso

_UUID_PREFIX = "batch_req_"
_USUAL_RESPONSE_ID = re.compile(_UUID_PREFIX + "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LIMIT = 120
_USUAL_FINISH = "stop"

StoredItem = tuple[int, int, Outcome, int | None, int | None]
"""Line, request id, outcome, and the place of the line in the raw file."""

Verdict = tuple[Status, Cause | None]
"""What an answer is after a closer look, and why."""

_OUTCOME_COLUMNS = (
    *("finish_reason", "input_tokens", "output_tokens", "model"),
    *("response_uuid", "response_id", "file_id", "offset", "length", "answered_at"),
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


def _store_statement(status: Status) -> Bulk:
    """One attempt's outcome, unless it has one that is as good."""
    return Bulk(
        update(attempt)
        .where(attempt.c.shard_id == bindparam("at_shard"), attempt.c.line == bindparam("at_line"))
        .where(or_(attempt.c.status.is_(None), _worse_than(attempt.c.status, status)))
        .values({"status": _word(status)} | {name: bindparam(f"new_{name}") for name in _OUTCOME_COLUMNS}),
        *(f"new_{name}" for name in _OUTCOME_COLUMNS),
        *("at_shard", "at_line"),
    )


def _settle_statement(status: Status) -> Bulk:
    """The request takes this attempt as its answer or last failure, if it may, and is closed. After an
    answer attempts are counted anew."""
    this: BindParameter[int] = bindparam("at_shard", type_=request.c.id.type)
    held = request.c.status
    is_open_here = request.c.open_shard_id == this
    is_answer = STATUS_CODES[status] in ANSWERED_CODES
    return Bulk(
        update(request)
        .where(request.c.id == bindparam("known_id"))
        .where(
            or_(
                held.is_(None),
                and_(request.c.answer_shard_id >= this, _worse_than(held, status)),
                and_(request.c.answer_shard_id < this, _not_better_than(held, status)),
            )
        )
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
CLOSE = _close_statement()
CLOSE_FAILED = _close_statement(
    *("new_retryable", "at_line"),
    retryable=bindparam("new_retryable"),
    failed_shard_id=bindparam("at_shard", type_=request.c.id.type),
    failed_line=bindparam("at_line"),
)
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
EXPECTED = Query(
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
    .select_from(attempt.join(request, request.c.id == attempt.c.request_id))
    .where(attempt.c.shard_id == bindparam("shard_id")),
    "shard_id",
)


# ---------------------------------------------------------------- what is awaited


def load_expected(connection: Connection, shard_id: int) -> dict[str, Expected]:
    """Every line of a shard by its custom_id, with what is stored of it."""
    return {
        custom_id(found[0], found[1]): Expected(
            found[2], found[3], None if found[4] is None else STATUSES[found[4]], *found[5:8]
        )
        for found in EXPECTED.rows(connection, shard_id)
    }


def keep_requests_of(connection: Connection, submission: Submission, folder: Path) -> None:
    """Which requests the shard holds, into a file of its own, before the shard is done."""
    found = sorted(EXPECTED.rows(connection, submission.shard_id), key=itemgetter(2))
    if len(found) == submission.requests:
        requests = [KeptRequest(Fingerprint(values[1]), values[0]) for values in found]
        keep_requests(folder, submission.sha, requests)


def unsettled(connection: Connection, shard_id: int) -> int:
    """How many lines of a shard have no outcome."""
    query = select(func.count()).where(attempt.c.shard_id == shard_id, attempt.c.status.is_(None))
    return int(connection.execute(query).scalar_one())


# ---------------------------------------------------------------- outcomes


def place_again(
    connection: Connection, shard_id: int, file_id: int, places: Iterable[tuple[int, int, int]]
) -> None:
    """Where lines stand now: (line, offset, length). Nothing else of their attempts changes."""
    PLACE_AGAIN.run(
        connection, [(offset, length, shard_id, line, file_id) for line, offset, length in places]
    )


def store(
    connection: Connection,
    shard_id: int,
    file_id: int | None,
    items: Iterable[StoredItem],
    now_s: float,
) -> None:
    """Outcomes of one shard's lines, from one raw file or (`file_id` None) from their absence."""
    usual_model, is_cancelled = connection.execute(
        select(shard.c.model, shard.c.cancel_requested).where(shard.c.id == shard_id)
    ).one()
    by_status: dict[Status, list[StoredItem]] = {}
    for item in items:
        by_status.setdefault(item[2].status, []).append(item)
    for status, group in by_status.items():
        group.sort(key=itemgetter(0))  # neighbours share a page
        stored = [_stored(shard_id, file_id, item, usual_model, int(now_s)) for item in group]
        STORE[status].run(connection, stored)
        failpoint("outcomes.attempts_written")
        ADD_CAUSE.run(connection, _causes(shard_id, status, group))
        is_wished = bool(is_cancelled) and status is Status.CANCELLED
        settled = [
            (int(item[2].retryable), int(item[2].blocked or is_wished), shard_id, item[0], item[1])
            for item in group
        ]
        if SETTLE[status].run(connection, settled) != len(settled):
            _close(connection, status, settled, is_wished=is_wished)


def _close(
    connection: Connection, status: Status, settled: Sequence[tuple[int, ...]], *, is_wished: bool
) -> None:
    """Of these attempts those whose request keeps the better answer that it had before."""
    if is_wished or status is Status.SUCCEEDED:
        closed = [(excused, shard_id, request_id) for _, excused, shard_id, _, request_id in settled]
        CLOSE.run(connection, closed)
    else:
        failed = [
            (excused, retryable, line, shard_id, request_id)
            for retryable, excused, shard_id, line, request_id in settled
        ]
        CLOSE_FAILED.run(connection, failed)


def _causes(shard_id: int, status: Status, group: Iterable[StoredItem]) -> list[tuple[Any, ...]]:
    """Causes are kept once for each status a line had, the first as with outcomes; the reader takes that
    of the status the attempt has now, so a success need not look for a cause to delete."""
    code = STATUS_CODES[status]
    return [
        (shard_id, line, code, storable(cause.error_class), storable(cause.code), storable(cause.message))
        for line, _, outcome, _, _ in group
        if (cause := outcome.cause) is not None
    ]


def _stored(
    shard_id: int, file_id: int | None, item: StoredItem, usual_model: str, now_s: int
) -> tuple[Any, ...]:
    line, _, (_, reason, _, input_tokens, output_tokens, model, given_id, *_), offset, length = item
    uuid, response_id = pack_response_id(given_id)
    return (
        pack_finish_reason(reason),
        input_tokens,
        output_tokens,
        pack_model(model, usual_model),
        uuid,
        response_id,
        file_id,
        offset,
        length,
        now_s,
        shard_id,
        line,
    )


def pack_finish_reason(reason: str | None) -> str | None:
    """None for the usual `stop`, empty where the server named none."""
    return None if reason == _USUAL_FINISH else storable(reason) or ""


def unpack_finish_reason(stored: str | None) -> str | None:
    """The finish reason of an attempt that has ended."""
    return _USUAL_FINISH if stored is None else stored or None


def pack_model(model: str | None, usual: str) -> str | None:
    """None for the shard's own model, empty where the server named none."""
    return None if model == usual else storable(model) or ""


def unpack_model(stored: str | None, usual: str) -> str | None:
    """The model as answered."""
    return usual if stored is None else stored or None


def pack_response_id(text: str | None) -> tuple[bytes | None, str | None]:
    """`batch_req_<uuid>` as 16 bytes, anything else as text; exactly what `unpack_response_id` undoes."""
    if text is not None and _USUAL_RESPONSE_ID.fullmatch(text):
        return bytes.fromhex(text[len(_UUID_PREFIX) :].replace("-", "")), None
    return None, storable(text)


def unpack_response_id(packed: bytes | None, text: str | None) -> str | None:
    """The response's id as the server gave it."""
    if packed is None:
        return text
    digits = packed.hex()
    return f"{_UUID_PREFIX}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def storable(text: str | None) -> str | None:
    """A server's text as a database can hold it: NUL and lone surrogates become U+FFFD."""
    if text is None or text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


# ---------------------------------------------------------------- looked at again


def judge_again(connection: Connection, verdicts: Mapping[bytes, Verdict]) -> None:
    """What a closer look at held answers came to, by fingerprint. The attempts keep what they brought."""
    known = {found[0]: found[1:] for found in ANSWER_PLACES.rows(connection, sorted(verdicts))}
    judged, causes = [], []
    for fingerprint, (request_id, shard_id, line) in known.items():
        status, cause = verdicts[fingerprint]
        code = STATUS_CODES[status]
        judged.append((code, request_id, shard_id, line))
        if cause is not None:
            message = storable(cause.message)
            causes.append((shard_id, line, code, cause.error_class, cause.code, message))
    JUDGE_AGAIN.run(connection, judged)
    ADD_CAUSE.run(connection, causes)


# ---------------------------------------------------------------- raw files


def ensure_raw_file(
    connection: Connection, shard_id: int, kind: ResultKind, server_file_id: str, now_s: float
) -> RawFile:
    """The row of a result file; the same for the same shard, kind and id."""
    this = and_(file.c.shard_id == shard_id, file.c.kind == kind, file.c.file_id == server_file_id)
    held = connection.execute(select(file.c.id, file.c.raw_path).where(this)).one_or_none()
    if held is not None:
        return RawFile(id=held.id, path=held.raw_path)
    path = f"raw/{_safe_name(server_file_id)}-{kind}.jsonl"
    taken = connection.execute(select(file.c.id).where(file.c.raw_path == path)).one_or_none()
    if taken is not None:
        path = f"raw/{_safe_name(server_file_id)}-{kind}-of-shard-{shard_id}.jsonl"
    values = {
        "shard_id": shard_id,
        "attempt": select(shard.c.attempt).where(shard.c.id == shard_id).scalar_subquery(),
        "kind": kind,
        "file_id": server_file_id,
        "state": "offered",
        "raw_path": path,
        "created_at": iso(now_s),
    }
    (key,) = connection.execute(insert(file).values(values)).inserted_primary_key or (0,)
    return RawFile(id=int(key), path=path)


def _safe_name(server_file_id: str) -> str:
    """A server's id as a file name of ours; a changed one carries a hash, so that none are mixed up."""
    plain = _NOT_PLAIN.sub("_", server_file_id)[:_NAME_LIMIT].lstrip(".")
    if plain == server_file_id:
        return plain
    return f"{plain}-{hashlib.sha256(server_file_id.encode('utf-8', 'replace')).hexdigest()[:16]}"


def store_counts(
    connection: Connection,
    raw: RawFile,
    counts: Mapping[str, int],
) -> None:
    """How many lines a raw file has, and of which kinds."""
    connection.execute(update(file).where(file.c.id == raw.id).values(**counts))


def store_quarantine(connection: Connection, raw: RawFile, items: Sequence[tuple[int, int, str]]) -> None:
    """Lines that match nothing: (offset, length, reason). Those known already stay as they are."""
    held = set(
        connection.execute(select(quarantine.c.offset).where(quarantine.c.file_id == raw.id)).scalars()
    )
    added = {item[0]: (raw.id, item[0], item[1], storable(item[2])) for item in items if item[0] not in held}
    ADD_QUARANTINE.run(connection, list(added.values()))


def refuse_unsettled(connection: Connection, shard_id: int) -> None:
    """Errors: LedgerError where a shard would be done and lines of it have no outcome (I16, I17)."""
    if count := unsettled(connection, shard_id):
        raise LedgerError(
            f"shard {shard_id}: {count} requests have no outcome, so it is not done",
            next_step="nothing was changed; run the same command again, and report it if it comes back",
        )
