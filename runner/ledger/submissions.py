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

from sqlalchemy import Connection, Row, Select, and_, func, insert, or_, select, update

from runner.core.states import ShardState, Submission, terminal_word
from runner.failpoints import failpoint
from runner.ledger.facts import fact_of
from runner.ledger.journal import Journal
from runner.ledger.records import Ids, PlannedShard, ShardRecord
from runner.ledger.tables import batch, event, file, manifest, request, run, shard
from runner.ledger.tables import row as row_table
from runner.ledger.times import iso, iso_or_none, moment, moment_or_none, seconds_or_none

CANCEL_REQUESTED = "cancel requested"
"""The event of a wish to stop a batch."""
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


def _submission(found: Row[Any]) -> Submission:
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
    found = connection.execute(_selected().where(shard.c.id == shard_id)).one_or_none()
    return None if found is None else _submission(found)


def load_open(connection: Connection, manifest_id: int) -> list[Submission]:
    """Shards not final that this manifest made, or that hold requests its current rows wait for."""
    chosen: list[Any] = [shard.c.manifest_id == manifest_id]
    if elsewhere := _awaited_elsewhere(connection, manifest_id):
        chosen.append(shard.c.id.in_(elsewhere))
    query = _selected().where(shard.c.state.not_in(FINAL_STATES), or_(*chosen)).order_by(shard.c.id)
    return [_submission(found) for found in connection.execute(query)]


def _awaited_elsewhere(connection: Connection, manifest_id: int) -> list[int]:
    """Other manifests' open shards that hold requests of this one. A walk over all rows, so only asked
    where there are such shards at all."""
    others = select(shard.c.id).where(shard.c.state.not_in(FINAL_STATES), shard.c.manifest_id != manifest_id)
    candidates = connection.execute(others).scalars().all()
    if not candidates:
        return []
    awaited = (
        select(request.c.open_shard_id)
        .distinct()
        .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
        .where(row_table.c.manifest_id == manifest_id, request.c.open_shard_id.is_not(None))
    )
    return sorted(set(candidates) & set(connection.execute(awaited).scalars()))


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


def load_wanted(connection: Connection) -> set[int]:
    """Open shards that hold a request of a current row of any manifest. A walk over all rows."""
    awaited = (
        select(request.c.open_shard_id)
        .distinct()
        .select_from(row_table.join(request, request.c.id == row_table.c.request_id))
        .where(request.c.open_shard_id.is_not(None))
    )
    return {int(shard_id) for shard_id in connection.execute(awaited).scalars()}


def load_cancel_wishes(connection: Connection, until_s: float) -> set[int]:
    """Shards with a wish to stop their batch, no later than this moment."""
    query = select(event.c.shard_id).where(event.c.what == CANCEL_REQUESTED, event.c.at <= iso(until_s))
    return {int(found) for found in connection.execute(query.distinct()).scalars()}


def needs_file(connection: Connection, sha: str) -> bool:
    """Whether a shard that is not final has an input file of this content."""
    query = select(shard.c.id).where(shard.c.sha == sha, shard.c.state.not_in(FINAL_STATES)).limit(1)
    return connection.execute(query).first() is not None


def load_records(connection: Connection, manifest_id: int) -> list[ShardRecord]:
    """Every shard this manifest ever made, oldest first."""
    query = _selected().where(shard.c.manifest_id == manifest_id).order_by(shard.c.id)
    return [_record(found) for found in connection.execute(query)]


def _record(found: Row[Any]) -> ShardRecord:
    values = {name: found._mapping[name] for name in _AS_STORED}
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


def add(
    connection: Connection, run_id: int, manifest_id: int, shards: Sequence[PlannedShard], now_s: float
) -> dict[int, int]:
    """New shards, ready to be sent. Gives slot to shard id."""
    now = iso(now_s)
    ids: dict[int, int] = {}
    for planned in shards:
        values = {
            "run_id": run_id,
            "manifest_id": manifest_id,
            "slot": planned.slot,
            "sha": planned.sha,
            "path": planned.path,
            "size_bytes": planned.size_bytes,
            "requests": planned.requests,
            "endpoint": planned.endpoint,
            "completion_window": planned.completion_window,
            "model": planned.model,
            "server": planned.server,
            "state": ShardState.READY.value,
            "attempt": 1,
            "not_before_s": planned.not_before_s,
            "is_fenced": 0,
            "cancel_requested": 0,
            "created_at": now,
            "updated_at": now,
        }
        (ids[planned.slot],) = connection.execute(insert(shard).values(values)).inserted_primary_key or (0,)
    return ids


def load_pause(connection: Connection, manifest_id: int) -> float:
    """Until when (Unix seconds) files of repeated requests were to wait that were taken back unsent."""
    query = select(func.max(shard.c.not_before_s)).where(
        shard.c.manifest_id == manifest_id,
        shard.c.state == ShardState.DISCARDED.value,
        shard.c.attempt == 1,
    )
    return float(connection.execute(query).scalar() or 0.0)


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
        journal.append(fact_of(connection, submission, what, now_s))


def add_event(
    connection: Connection, *, what: str, detail: str, run_id: int | None, shard_id: int | None, now_s: float
) -> None:
    """Something happened. Events are only ever added."""
    values = {"at": iso(now_s), "run_id": run_id, "shard_id": shard_id, "what": what, "detail": detail}
    connection.execute(insert(event).values(values))


CREATE_INTENDED = "create intended"
"""What the event of a create-intent says; its detail is the digest of the key, salted with the run."""
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
    # Who moves a shard may not know of a wish that came meanwhile, so a wish is never taken back here.
    wish = {"cancel_requested": 1} if submission.cancel_requested else {}
    connection.execute(
        update(shard)
        .where(shard.c.id == submission.shard_id)
        .values(
            state=submission.state.value,
            attempt=submission.attempt,
            send_by_s=submission.send_by_s,
            not_before_s=submission.not_before_s,
            problem=submission.problem,
            is_fenced=int(submission.is_fenced),
            updated_at=iso(now_s),
            **wish,
        )
    )


def _store_input_file(connection: Connection, submission: Submission, now_s: float) -> None:
    """This attempt's upload. Those of earlier attempts that never got an id are lost."""
    of_shard = and_(file.c.shard_id == submission.shard_id, file.c.kind == "input")
    connection.execute(
        update(file)
        .where(of_shard, file.c.attempt < submission.attempt, file.c.state == "intended")
        .values(state="lost")
    )
    is_known = submission.input_file_id is not None
    if submission.state is not ShardState.UPLOADING and not is_known:
        return
    state = "intended" if not is_known else "deleted" if _is_deleted(submission) else "uploaded"
    this = and_(of_shard, file.c.attempt == submission.attempt)
    held = connection.execute(select(file.c.id, file.c.uploaded_at).where(this)).one_or_none()
    uploaded_at = iso(now_s) if is_known else None
    if held is None:
        connection.execute(
            insert(file).values(
                shard_id=submission.shard_id,
                attempt=submission.attempt,
                kind="input",
                file_id=submission.input_file_id,
                filename=submission.tags.filename,
                size_bytes=submission.size_bytes,
                state=state,
                created_at=iso(now_s),
                uploaded_at=uploaded_at,
            )
        )
    else:
        connection.execute(
            update(file)
            .where(file.c.id == held.id)
            .values(
                file_id=submission.input_file_id, state=state, uploaded_at=held.uploaded_at or uploaded_at
            )
        )


def _is_deleted(submission: Submission) -> bool:
    return submission.is_fenced or submission.state is ShardState.FENCED


def _store_batch(connection: Connection, submission: Submission, now_s: float) -> None:
    if submission.batch_id is None:
        return
    is_over = terminal_word(submission.status) is not None
    values: dict[str, Any] = {
        "server": submission.server,
        "batch_id": submission.batch_id,
        "input_file_id": submission.input_file_id,
        "output_file_id": submission.output_file_id,
        "error_file_id": submission.error_file_id,
        "status": submission.status,
        "total": submission.total,
        "completed": submission.completed,
        "failed": submission.failed,
        "created_at": iso_or_none(submission.submitted_at_s),
        "expires_at": iso_or_none(submission.expires_at_s),
    }
    this = and_(batch.c.shard_id == submission.shard_id, batch.c.attempt == submission.attempt)
    held = connection.execute(select(batch.c.id, batch.c.finished_at).where(this)).one_or_none()
    if held is None:
        values |= {"shard_id": submission.shard_id, "attempt": submission.attempt}
        connection.execute(insert(batch).values(finished_at=iso(now_s) if is_over else None, **values))
    else:
        finished_at = held.finished_at or (iso(now_s) if is_over else None)
        connection.execute(
            update(batch).where(batch.c.id == held.id).values(finished_at=finished_at, **values)
        )


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
