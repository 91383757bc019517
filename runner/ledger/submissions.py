"""Shards on their way: from rows to `Submission` and back.

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

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from runner.core.states import CLOCK_TOLERANCE_S, ShardState, Submission, terminal_word
from runner.failpoints import failpoint
from runner.ledger.bulk import Bulk, KeyedInsert, Query, RecordQuery
from runner.ledger.facts import fact_of
from runner.ledger.journal import Journal
from runner.ledger.plan_statements import HAS_ANSWER
from runner.ledger.records import Ids, PlannedShard, ShardRecord
from runner.ledger.tables import attempt, batch, event, file, manifest, request, run, shard
from runner.ledger.tables import row as row_table
from runner.ledger.times import iso, iso_or_none, moment, moment_or_none, seconds_or_none

CANCEL_REQUESTED = "cancel requested"
"""The event of a wish to stop a batch."""
CREATE_INTENDED = "create intended"
"""What the event of a create-intent says; its detail is the digest of the key, salted with the run."""
FINAL_STATES = tuple(state.value for state in ShardState if state.is_final)
_INTENTS = frozenset({ShardState.UPLOADING, ShardState.CREATING, ShardState.FENCING})

_AS_STORED = (
    *("run_id", "slot", "sha", "path", "size_bytes", "requests", "endpoint", "completion_window", "model"),
    *("attempt", "problem", "batch_id", "output_file_id", "error_file_id", "status"),
    *("total", "completed", "failed"),
)

_FILE_ROW = and_(file.c.shard_id == shard.c.id, file.c.attempt == shard.c.attempt, file.c.kind == "input")
_BATCH_ROW = and_(batch.c.shard_id == shard.c.id, batch.c.attempt == shard.c.attempt)


def _selected() -> Select[Any]:
    return select(
        shard,
        run.c.uid,
        file.c.file_id.label("server_file_id"),
        batch.c.batch_id,
        batch.c.output_file_id,
        batch.c.error_file_id,
        batch.c.status,
        batch.c.total,
        batch.c.completed,
        batch.c.failed,
        batch.c.created_at.label("submitted_at"),
        batch.c.expires_at,
        batch.c.finished_at,
    ).select_from(
        shard.join(run, run.c.id == shard.c.run_id).outerjoin(file, _FILE_ROW).outerjoin(batch, _BATCH_ROW)
    )


_IS_OPEN = shard.c.state.not_in([literal_column(f"'{state}'") for state in FINAL_STATES])
_IS_OF_MANIFEST = shard.c.manifest_id == bindparam("of_manifest")
_SHARD = RecordQuery(_selected().where(shard.c.id == bindparam("this_shard")), "this_shard")
_OPEN = RecordQuery(_selected().where(_IS_OPEN, _IS_OF_MANIFEST).order_by(shard.c.id), "of_manifest")
_OPEN_ELSEWHERE = Query(
    select(shard.c.id).where(_IS_OPEN, shard.c.manifest_id != bindparam("of_manifest")), "of_manifest"
)
_HELD_ELSEWHERE = Query(
    select(shard.c.id).where(
        shard.c.state == literal_column(f"'{ShardState.HELD}'"),
        shard.c.manifest_id != bindparam("of_manifest"),
    ),
    "of_manifest",
)
_OF_MANIFEST = RecordQuery(_selected().where(_IS_OF_MANIFEST).order_by(shard.c.id), "of_manifest")
_OWNER = Query(
    select(manifest.c.path)
    .join(shard, shard.c.manifest_id == manifest.c.id)
    .where(shard.c.id == bindparam("this_shard")),
    "this_shard",
)
_BOUGHT = select(event.c.shard_id).where(
    event.c.run_id == bindparam("by_run"), event.c.what == literal_column(f"'{CREATE_INTENDED}'")
)
_BOUGHT_ELSEWHERE = RecordQuery(
    _selected().where(shard.c.manifest_id != bindparam("of_manifest"), shard.c.id.in_(_BOUGHT)),
    *("of_manifest", "by_run"),
)
_NEEDING_FILE = Query(
    select(shard.c.id).where(
        shard.c.path == bindparam("with_path"), or_(_IS_OPEN, shard.c.state == ShardState.HELD.value)
    ),
    "with_path",
)
"""A held shard goes on with its file: the proof that a listing has caught up uploads it again."""


def _submission(found: Any) -> Submission:
    return Submission(
        shard_id=found.id,
        run=found.uid,
        server=found.server,
        slot=found.slot,
        sha=found.sha,
        path=found.path,
        size_bytes=found.size_bytes,
        requests=found.requests,
        endpoint=found.endpoint,
        completion_window=found.completion_window,
        state=ShardState(found.state),
        attempt=found.attempt,
        input_file_id=found.server_file_id,
        send_by_s=found.send_by_s,
        batch_id=found.batch_id,
        output_file_id=found.output_file_id,
        error_file_id=found.error_file_id,
        status=found.status or "",
        total=found.total,
        completed=found.completed,
        failed=found.failed,
        submitted_at_s=seconds_or_none(found.submitted_at),
        expires_at_s=seconds_or_none(found.expires_at),
        is_fenced=bool(found.is_fenced),
        cancel_requested=bool(found.cancel_requested),
        not_before_s=found.not_before_s,
        saved_at_s=seconds_or_none(found.updated_at),
        problem=found.problem,
    )


# ---------------------------------------------------------------- reading


def load(connection: Connection, shard_id: int) -> Submission | None:
    """One shard; None if there is none."""
    found = _SHARD.record(connection, shard_id)
    return None if found is None else _submission(found)


def load_model(connection: Connection, shard_id: int) -> str:
    """The model that a shard's requests ask."""
    found = _SHARD.record(connection, shard_id)
    return str(found.model) if found is not None else ""


def load_open(connection: Connection, manifest_id: int) -> list[Submission]:
    """Shards not final that this manifest made, or that hold requests its current rows wait for."""
    elsewhere = _awaited_elsewhere(connection, manifest_id)
    if not elsewhere:
        return [_submission(found) for found in _OPEN.records(connection, manifest_id)]
    chosen = or_(shard.c.manifest_id == manifest_id, shard.c.id.in_(elsewhere))
    query = _selected().where(_IS_OPEN, chosen).order_by(shard.c.id)
    return [_submission(found) for found in connection.execute(query)]


def _awaited_elsewhere(connection: Connection, manifest_id: int) -> list[int]:
    """Other manifests' open shards that hold requests of this one. A walk over all rows, so only asked
    where there are such shards at all."""
    candidates = [found[0] for found in _OPEN_ELSEWHERE.rows(connection, manifest_id)]
    if not candidates:
        return []
    awaited = (
        select(request.c.open_shard_id)
        .distinct()
        .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
        .where(row_table.c.manifest_id == manifest_id, request.c.open_shard_id.is_not(None))
    )
    return sorted(set(candidates) & set(connection.execute(awaited).scalars()))


def load_held_elsewhere(connection: Connection, manifest_id: int) -> list[tuple[str, Submission]]:
    """Held shards of other manifests (their paths) in which current rows of this one wait for an answer.

    A walk over all rows, so only asked where there are such shards at all."""
    held = [found[0] for found in _HELD_ELSEWHERE.rows(connection, manifest_id)]
    if not held:
        return []
    awaited = (
        select(request.c.open_shard_id)
        .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
        .where(row_table.c.manifest_id == manifest_id, request.c.open_shard_id.in_(held))
        .where(or_(request.c.status.is_(None), ~HAS_ANSWER))
    )
    owner = select(manifest.c.path).where(manifest.c.id == shard.c.manifest_id).scalar_subquery()
    query = _selected().add_columns(owner.label("owner")).where(shard.c.id.in_(awaited)).order_by(shard.c.id)
    return [(found.owner, _submission(found)) for found in connection.execute(query)]


def load_owner(connection: Connection, shard_id: int) -> str:
    """The manifest (its path) that made a shard."""
    return str(_OWNER.first(connection, shard_id))


def load_owners(connection: Connection, batch_id: str) -> list[str]:
    """The manifests (paths) whose shards have had a batch of this id, at whatever server."""
    query = (
        select(manifest.c.path)
        .distinct()
        .select_from(batch.join(shard, shard.c.id == batch.c.shard_id).join(manifest))
        .where(batch.c.batch_id == batch_id, manifest.c.id == shard.c.manifest_id)
        .order_by(manifest.c.path)
    )
    return list(connection.execute(query).scalars())


_UNTOLD = Query(
    select(manifest.c.path, shard.c.id)
    .select_from(shard.join(manifest, manifest.c.id == shard.c.manifest_id))
    .where(shard.c.server == bindparam("at_server"))
    .where(or_(_IS_OPEN, shard.c.state == literal_column(f"'{ShardState.HELD}'")))
    .where(~exists().where(attempt.c.shard_id == shard.c.id)),
    "at_server",
)


def load_untold(connection: Connection, server: str) -> list[tuple[str, int]]:
    """Shards at this server of which no request is known, each after the path of its manifest."""
    return [(path, int(shard_id)) for path, shard_id in _UNTOLD.rows(connection, server)]


def load_wanted(connection: Connection) -> set[int]:
    """Open shards that hold a request of a current row of any manifest. A walk over all rows."""
    awaited = (
        select(request.c.open_shard_id)
        .distinct()
        .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
        .where(request.c.open_shard_id.is_not(None))
    )
    return {int(shard_id) for shard_id in connection.execute(awaited).scalars()}


_WITH_INPUT = Query(
    select(batch.c.shard_id).where(
        batch.c.server == bindparam("at_server"), batch.c.input_file_id == bindparam("with_input")
    ),
    *("at_server", "with_input"),
)
_WITH_ID = Query(
    select(batch.c.shard_id).where(
        batch.c.server == bindparam("at_server"), batch.c.batch_id == bindparam("with_id")
    ),
    *("at_server", "with_id"),
)


def has_batch_of(connection: Connection, server: str, input_file_id: str) -> bool:
    """Whether a batch was ever made of this input file at this server."""
    return _WITH_INPUT.first(connection, server, input_file_id) is not None


def shard_of_batch(connection: Connection, server: str, batch_id: str) -> int | None:
    """The shard whose batch at this server has this id."""
    found = _WITH_ID.first(connection, server, batch_id)
    return None if found is None else int(found)


def needs_file(connection: Connection, path: str) -> bool:
    """Whether a shard that may go on has this input file: one that is not final, or is held."""
    return _NEEDING_FILE.first(connection, path) is not None


def load_records(connection: Connection, manifest_id: int) -> list[ShardRecord]:
    """Every shard this manifest ever made, oldest first."""
    return [_record(found) for found in _OF_MANIFEST.records(connection, manifest_id)]


def load_bought_elsewhere(connection: Connection, run_id: int, manifest_id: int) -> list[ShardRecord]:
    """Shards of other manifests than this one for which this run sent a create."""
    return [_record(found) for found in _BOUGHT_ELSEWHERE.records(connection, manifest_id, run_id)]


def _record(found: Any) -> ShardRecord:
    values = {name: getattr(found, name) for name in _AS_STORED}
    return ShardRecord(
        **values,
        shard_id=found.id,
        state=ShardState(found.state),
        is_fenced=bool(found.is_fenced),
        cancel_requested=bool(found.cancel_requested),
        input_file_id=found.server_file_id,
        created_at=moment(found.created_at),
        updated_at=moment(found.updated_at),
        submitted_at=moment_or_none(found.submitted_at),
        expires_at=moment_or_none(found.expires_at),
        finished_at=moment_or_none(found.finished_at),
    )


def load_ids(connection: Connection, manifest_id: int) -> list[Ids]:
    """Every id the server gave for this manifest's shards, attempt by attempt."""
    query = (
        select(file.c.shard_id, file.c.attempt, file.c.file_id, batch.c.batch_id)
        .add_columns(batch.c.output_file_id, batch.c.error_file_id)
        .select_from(
            shard.join(file, and_(file.c.shard_id == shard.c.id, file.c.kind == "input")).outerjoin(
                batch, and_(batch.c.shard_id == shard.c.id, batch.c.attempt == file.c.attempt)
            )
        )
        .where(shard.c.manifest_id == manifest_id)
        .order_by(file.c.shard_id, file.c.attempt)
    )
    return [
        Ids(
            shard_id=found.shard_id,
            attempt=found.attempt,
            input_file_id=found.file_id,
            batch_id=found.batch_id,
            output_file_id=found.output_file_id,
            error_file_id=found.error_file_id,
        )
        for found in connection.execute(query)
    ]


# ---------------------------------------------------------------- writing

_AS_PLANNED = (
    *("slot", "sha", "path", "size_bytes", "requests", "endpoint", "completion_window", "model"),
    *("server", "not_before_s"),
)
_ADD_SHARD = KeyedInsert(
    shard,
    *("run_id", "manifest_id", *_AS_PLANNED),
    *("state", "attempt", "is_fenced", "cancel_requested", "created_at", "updated_at"),
)
_PAUSE = Query(
    select(func.max(shard.c.not_before_s)).where(
        _IS_OF_MANIFEST,
        shard.c.state == ShardState.DISCARDED.value,
        shard.c.attempt == 1,
        shard.c.created_at <= bindparam("planned_by"),
    ),
    *("of_manifest", "planned_by"),
)
"""What seems to be planned in the future was planned by a clock that was ahead."""
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
_EVENT_COLUMNS = ("at", "run_id", "shard_id", "what", "detail")
_ADD_EVENT = Bulk(insert(event).values({name: bindparam(name) for name in _EVENT_COLUMNS}), *_EVENT_COLUMNS)


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


def load_pause(connection: Connection, manifest_id: int, now_s: float) -> float:
    """Until when (Unix seconds) files of repeated requests were to wait that were taken back unsent."""
    return float(_PAUSE.first(connection, manifest_id, iso(now_s + CLOCK_TOLERANCE_S)) or 0.0)


def load_many(connection: Connection, shard_ids: Iterable[int]) -> list[Submission]:
    """These shards, in the order given."""
    found = (load(connection, shard_id) for shard_id in shard_ids)
    return [submission for submission in found if submission is not None]


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


def add_event(
    connection: Connection, *, what: str, detail: str, run_id: int | None, shard_id: int | None, now_s: float
) -> None:
    """Something happened. Events are only ever added."""
    _ADD_EVENT.run(connection, [(iso(now_s), run_id, shard_id, what, detail)])


EXTRA_BATCH, EXTRA_OUTPUT = "extra batch", "extra output"
"""Further batches that the server made of one create, and their output files: incidents."""


def note_extras(
    connection: Connection,
    journal: Journal,
    submission: Submission,
    what: str,
    ids: Sequence[str],
    *,
    run_id: int | None,
    now_s: float,
) -> None:
    """Ids of extra batches or of their output files, each once: in the journal, and as events."""
    known = load_extras(connection, submission.shard_id, what)
    for found in ids:
        if found in known:
            continue
        marks = {"run": submission.run, "of_slot": submission.slot, "attempt": submission.attempt}
        journal.append({"at": iso(now_s), "what": what, **marks, "id": found})
        add_event(
            connection, what=what, detail=found, run_id=run_id, shard_id=submission.shard_id, now_s=now_s
        )


def load_extras(connection: Connection, shard_id: int, what: str) -> list[str]:
    """Ids of extra batches or of their output files, the first one first."""
    query = select(event.c.detail).where(event.c.shard_id == shard_id, event.c.what == what)
    return list(connection.execute(query.order_by(event.c.id)).scalars())


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
