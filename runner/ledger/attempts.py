"""Every attempt of one request, for a person who asks about one row.

The rule: no index for it. A million rows would pay for one with every run, and this is asked for one key at
a time: the request itself points at its answer and at what is open, and only where it was sent more often
are shards walked, newest first, each by its own range of the primary key, until all are found.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, and_, func, select

from runner.core.model import Cause, Status
from runner.ledger.packing import STATUSES, unpack_finish_reason, unpack_model, unpack_response_id
from runner.ledger.records import AttemptRecord
from runner.ledger.tables import attempt, attempt_cause, batch, file, request, run, shard
from runner.ledger.times import moment_or_none

_INPUT = file.alias("input")


def _attempts() -> Select[Any]:
    """Attempts with what their shard, batch, files and cause say."""
    of_shard = and_(batch.c.shard_id == shard.c.id, batch.c.attempt == shard.c.attempt)
    is_input = and_(
        _INPUT.c.shard_id == shard.c.id, _INPUT.c.attempt == shard.c.attempt, _INPUT.c.kind == "input"
    )
    is_cause = and_(
        attempt_cause.c.shard_id == attempt.c.shard_id,
        attempt_cause.c.line == attempt.c.line,
        attempt_cause.c.status == attempt.c.status,
    )
    joined = (
        attempt.join(shard, shard.c.id == attempt.c.shard_id)
        .join(run, run.c.id == shard.c.run_id)
        .outerjoin(batch, of_shard)
        .outerjoin(_INPUT, is_input)
        .outerjoin(file, file.c.id == attempt.c.file_id)
        .outerjoin(attempt_cause, is_cause)
    )
    return select(
        attempt,
        run.c.uid.label("run"),
        shard.c.slot,
        shard.c.path,
        shard.c.state,
        shard.c.problem,
        shard.c.model.label("asked_model"),
        batch.c.batch_id,
        func.coalesce(batch.c.input_file_id, _INPUT.c.file_id).label("input_file_id"),
        batch.c.output_file_id,
        batch.c.error_file_id,
        batch.c.status.label("batch_status"),
        _INPUT.c.uploaded_at,
        batch.c.created_at,
        batch.c.finished_at,
        file.c.raw_path,
        attempt_cause.c.error_class,
        attempt_cause.c.error_code,
        attempt_cause.c.error_message,
    ).select_from(joined)


def load_attempts(connection: Connection, fingerprint: bytes) -> list[AttemptRecord]:
    """The attempts of this request, the first one first; none of a request that is not known."""
    known = connection.execute(select(request).where(request.c.fingerprint == fingerprint)).one_or_none()
    if known is None:
        return []
    found: dict[int, AttemptRecord] = {}
    for shard_id, line in (
        (known.answer_shard_id, known.answer_line),
        (known.open_shard_id, known.open_line),
    ):
        if shard_id is not None:
            here = _attempts().where(attempt.c.shard_id == shard_id, attempt.c.line == line)
            found |= {one.shard_id: one for one in map(_record, connection.execute(here))}
    if len(found) < known.attempts:
        _walk(connection, known.id, known.attempts, found)
    return sorted(found.values(), key=lambda one: (one.number, one.shard_id))


def _walk(connection: Connection, request_id: int, wanted: int, found: dict[int, AttemptRecord]) -> None:
    """Look for the others shard by shard. A shard holds a request once."""
    for (shard_id,) in connection.execute(select(shard.c.id).order_by(shard.c.id.desc())).all():
        if shard_id in found:
            continue
        here = _attempts().where(attempt.c.shard_id == shard_id, attempt.c.request_id == request_id)
        found |= {one.shard_id: one for one in map(_record, connection.execute(here))}
        if len(found) >= wanted:
            return


def _record(found: Row[Any]) -> AttemptRecord:
    cause = None
    if found.error_class is not None:
        cause = Cause(error_class=found.error_class, code=found.error_code, message=found.error_message)
    has_ended = found.status is not None
    return AttemptRecord(
        number=found.number,
        run=found.run,
        shard_id=found.shard_id,
        slot=found.slot,
        line=found.line,
        path=found.path,
        shard_state=found.state,
        problem=found.problem,
        input_file_id=found.input_file_id,
        batch_id=found.batch_id,
        batch_status=found.batch_status,
        output_file_id=found.output_file_id,
        error_file_id=found.error_file_id,
        uploaded_at=moment_or_none(found.uploaded_at),
        submitted_at=moment_or_none(found.created_at),
        finished_at=moment_or_none(found.finished_at),
        answered_at_s=found.answered_at,
        status=STATUSES[found.status] if has_ended else Status.PENDING,
        cause=cause,
        finish_reason=unpack_finish_reason(found.finish_reason) if has_ended else None,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        model=unpack_model(found.model, found.asked_model) if has_ended else None,
        response_id=unpack_response_id(found.response_uuid, found.response_id),
        raw_path=found.raw_path,
        offset=found.offset,
        length=found.length,
    )
