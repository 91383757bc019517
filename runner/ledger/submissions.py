"""Shards on their way, as they are recorded: from rows to `Submission`. `saving` is the way back.

One statement joins what a `Submission` is stored over; the rest asks which shards somebody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
)

from runner.core.states import CLOCK_TOLERANCE_S, ShardState, Submission
from runner.ledger.bulk import Query, RecordQuery
from runner.ledger.events import CREATE_INTENDED
from runner.ledger.plan_statements import HAS_ANSWER
from runner.ledger.records import Ids, ShardRecord
from runner.ledger.tables import attempt, batch, event, file, manifest, request, run, shard
from runner.ledger.tables import row as row_table
from runner.ledger.times import iso, moment, moment_or_none, seconds_or_none

FINAL_STATES = tuple(state.value for state in ShardState if state.is_final)

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


def load_many(connection: Connection, shard_ids: Iterable[int]) -> list[Submission]:
    """These shards, in the order given."""
    found = (load(connection, shard_id) for shard_id in shard_ids)
    return [submission for submission in found if submission is not None]


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


def load_pause(connection: Connection, manifest_id: int, now_s: float) -> float:
    """Until when (Unix seconds) files of repeated requests were to wait that were taken back unsent."""
    return float(_PAUSE.first(connection, manifest_id, iso(now_s + CLOCK_TOLERANCE_S)) or 0.0)
