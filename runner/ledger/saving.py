"""Shards on their way, recorded: from `Submission` to rows. `submissions` reads them back.

Theory
------
A `Submission` is stored over three tables, because their facts have different lives: the shard (what it
is and where it stands), the input file of each attempt, the batch of each attempt. A save writes all of
them and an event in one transaction, so a crash leaves the old or the new and never a mixture. Ids and
every move go to the side journal first (`exactly-once.md`, I3 and I11): the journal may know of something
that the ledger does not, never the reverse.

Rejected: a JSON column for the whole submission (no constraint could hold I2, I6 or the state words).
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, bindparam, case, insert, select, update

from runner.core.states import ShardState, Submission, terminal_word
from runner.failpoints import failpoint
from runner.ledger.bulk import Bulk, KeyedInsert, RecordQuery
from runner.ledger.events import CANCEL_REQUESTED, CREATE_INTENDED, add_event
from runner.ledger.facts import fact_of
from runner.ledger.journal import Journal
from runner.ledger.records import PlannedShard
from runner.ledger.submissions import load
from runner.ledger.tables import batch, file, shard
from runner.ledger.times import iso, iso_or_none

_INTENTS = frozenset({ShardState.UPLOADING, ShardState.CREATING, ShardState.FENCING})
_AS_PLANNED = (
    *("slot", "sha", "path", "size_bytes", "requests", "endpoint", "completion_window", "model"),
    *("server", "not_before_s"),
)
_ADD_SHARD = KeyedInsert(
    shard,
    *("run_id", "manifest_id", *_AS_PLANNED),
    *("state", "attempt", "is_fenced", "cancel_requested", "created_at", "updated_at"),
)
_MOVED = ("state", "attempt", "send_by_s", "not_before_s", "problem", "is_fenced", "updated_at")
_MOVE_SHARD = Bulk(
    update(shard)
    .where(shard.c.id == bindparam("this_shard"))
    # Who moves a shard may not know of a wish that came meanwhile, so a wish is never taken back here.
    .values(
        {name: bindparam(f"new_{name}") for name in _MOVED}
        | {"cancel_requested": case((bindparam("has_wish") == 1, 1), else_=shard.c.cancel_requested)}
    ),
    *(*(f"new_{name}" for name in _MOVED), "has_wish", "this_shard"),
)
_INPUT_OF_SHARD = and_(file.c.shard_id == bindparam("of_shard"), file.c.kind == "input")
_LOSE_EARLIER_INPUTS = Bulk(
    update(file)
    .where(_INPUT_OF_SHARD, file.c.state == "intended", file.c.attempt < bindparam("of_attempt"))
    .values(state="lost"),
    *("of_shard", "of_attempt"),
)
_HELD_INPUT = RecordQuery(
    select(file.c.id, file.c.uploaded_at).where(_INPUT_OF_SHARD, file.c.attempt == bindparam("of_attempt")),
    *("of_shard", "of_attempt"),
)
_INPUT_COLUMNS = (
    *("shard_id", "attempt", "kind", "file_id", "filename", "size_bytes", "state", "created_at"),
    "uploaded_at",
)
_ADD_INPUT = Bulk(insert(file).values({name: bindparam(name) for name in _INPUT_COLUMNS}), *_INPUT_COLUMNS)
_MOVE_INPUT = Bulk(
    update(file)
    .where(file.c.id == bindparam("this_file"))
    .values({name: bindparam(f"new_{name}") for name in ("file_id", "state", "uploaded_at")}),
    *("new_file_id", "new_state", "new_uploaded_at", "this_file"),
)
_HELD_BATCH = RecordQuery(
    select(batch.c.id, batch.c.finished_at).where(
        batch.c.shard_id == bindparam("of_shard"), batch.c.attempt == bindparam("of_attempt")
    ),
    *("of_shard", "of_attempt"),
)
_BATCH_COLUMNS = (
    *("server", "batch_id", "input_file_id", "output_file_id", "error_file_id", "status", "total"),
    *("completed", "failed", "created_at", "expires_at", "finished_at"),
)
_NEW_BATCH_COLUMNS = (*_BATCH_COLUMNS, "shard_id", "attempt")
_ADD_BATCH = Bulk(
    insert(batch).values({name: bindparam(name) for name in _NEW_BATCH_COLUMNS}), *_NEW_BATCH_COLUMNS
)
_SEE_BATCH = Bulk(
    update(batch)
    .where(batch.c.id == bindparam("this_batch"))
    .values({name: bindparam(f"new_{name}") for name in _BATCH_COLUMNS}),
    *(*(f"new_{name}" for name in _BATCH_COLUMNS), "this_batch"),
)


def add(
    connection: Connection, run_id: int, manifest_id: int, shards: Sequence[PlannedShard], now_s: float
) -> dict[int, int]:
    """New shards, ready to be sent. Gives slot to shard id."""
    now = iso(now_s)
    ids: dict[int, int] = {}
    for planned in shards:
        told = [getattr(planned, name) for name in _AS_PLANNED]
        begun = (ShardState.READY.value, 1, 0, 0, now, now)
        ids[planned.slot] = _ADD_SHARD.key(connection, run_id, manifest_id, *told, *begun)
    return ids


def store(
    connection: Connection,
    journal: Journal,
    submission: Submission,
    *,
    what: str,
    detail: str,
    run_id: int | None,
    now_s: float,
) -> None:
    """Write everything a submission says, and an event; the journal first. In the caller's transaction."""
    before = load(connection, submission.shard_id)
    _store_shard(connection, submission, now_s)
    _store_input_file(connection, submission, now_s)
    _store_batch(connection, submission, now_s)
    add_event(connection, what=what, detail=detail, run_id=run_id, shard_id=submission.shard_id, now_s=now_s)
    failpoint("save.rows_written")
    has_moved = before is None or before.state is not submission.state
    if has_moved or submission.state in _INTENTS or _ids(submission) - _ids(before):
        key = detail if what == CREATE_INTENDED else ""
        journal.append(fact_of(connection, submission, what, now_s, key=key))


def request_cancel(connection: Connection, shard_id: int, now_s: float) -> None:
    """A person wants the shard's batch stopped. Nothing else is touched: another process may move it."""
    connection.execute(update(shard).where(shard.c.id == shard_id).values(cancel_requested=1))
    add_event(connection, what=CANCEL_REQUESTED, detail="", run_id=None, shard_id=shard_id, now_s=now_s)


def _store_shard(connection: Connection, submission: Submission, now_s: float) -> None:
    stands = (
        *(submission.state.value, submission.attempt, submission.send_by_s, submission.not_before_s),
        *(submission.problem, int(submission.is_fenced), iso(now_s)),
    )
    wish = int(submission.cancel_requested)
    _MOVE_SHARD.run(connection, [(*stands, wish, submission.shard_id)])


def _store_input_file(connection: Connection, submission: Submission, now_s: float) -> None:
    """This attempt's upload. Those of earlier attempts that never got an id are lost."""
    this = (submission.shard_id, submission.attempt)
    if submission.attempt > 1:
        _LOSE_EARLIER_INPUTS.run(connection, [this])
    file_id = submission.input_file_id
    if submission.state is not ShardState.UPLOADING and file_id is None:
        return
    state = "intended" if file_id is None else "deleted" if _is_deleted(submission) else "uploaded"
    uploaded_at = None if file_id is None else iso(now_s)
    held = _HELD_INPUT.record(connection, *this)
    if held is None:
        begun = (submission.tags.filename, submission.size_bytes, state, iso(now_s), uploaded_at)
        _ADD_INPUT.run(connection, [(*this, "input", file_id, *begun)])
    else:
        _MOVE_INPUT.run(connection, [(file_id, state, held.uploaded_at or uploaded_at, held.id)])


def _is_deleted(submission: Submission) -> bool:
    return submission.is_fenced or submission.state is ShardState.FENCED


def _store_batch(connection: Connection, submission: Submission, now_s: float) -> None:
    if submission.batch_id is None:
        return
    this = (submission.shard_id, submission.attempt)
    held = _HELD_BATCH.record(connection, *this)
    finished_at = None if held is None else held.finished_at
    if finished_at is None and terminal_word(submission.status) is not None:
        finished_at = iso(now_s)
    seen = (
        *(submission.server, submission.batch_id, submission.input_file_id, submission.output_file_id),
        *(submission.error_file_id, submission.status, submission.total, submission.completed),
        *(submission.failed, iso_or_none(submission.submitted_at_s), iso_or_none(submission.expires_at_s)),
        finished_at,
    )
    if held is None:
        _ADD_BATCH.run(connection, [(*seen, *this)])
    else:
        _SEE_BATCH.run(connection, [(*seen, held.id)])


def _ids(submission: Submission | None) -> set[str]:
    if submission is None:
        return set()
    ids = (
        submission.input_file_id,
        submission.batch_id,
        submission.output_file_id,
        submission.error_file_id,
    )
    return {value for value in ids if value}
