"""What may be forgotten: raw files that nobody needs, and input files whose answers are all safe.

The rule: the ledger forgets first and the file goes after. A crash between the two leaves a file that
nobody knows, never an answer without its bytes. Whether a file is needed is asked again inside the
transaction that forgets it.
"""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, exists, func, not_, null, or_, select, update

from runner.core.model import Status
from runner.core.states import ShardState
from runner.core.wire import decode_json
from runner.ledger.events import add_event
from runner.ledger.packing import STATUS_CODES
from runner.ledger.records import RemoteInput, StoredRaw, UnusedUpload
from runner.ledger.tables import (
    attempt,
    batch,
    event,
    file,
    manifest,
    quarantine,
    request,
    run,
    shard,
)
from runner.ledger.tables import row as row_table
from runner.ledger.times import moment

_ANSWER = and_(attempt.c.shard_id == request.c.answer_shard_id, attempt.c.line == request.c.answer_line)


def load_raw_files(connection: Connection) -> list[StoredRaw]:
    """Every raw file. A walk over all rows."""
    needed = _needed(connection)
    query = (
        select(file.c.id, file.c.shard_id, file.c.raw_path, shard.c.state, shard.c.updated_at)
        .join(shard, shard.c.id == file.c.shard_id)
        .where(file.c.raw_path.is_not(None))
        .order_by(file.c.id)
    )
    return [
        StoredRaw(
            file_id=found.id,
            shard_id=found.shard_id,
            path=found.raw_path,
            is_needed=found.id in needed or found.state != ShardState.DONE,
            collected_at=moment(found.updated_at),
        )
        for found in connection.execute(query)
    ]


def _needed(connection: Connection, file_id: int | None = None) -> set[int]:
    """Files that hold the answer of a current row, of a request that is on its way again, or one that leads
    to a larger request."""
    answers = select(attempt.c.file_id).distinct().where(attempt.c.file_id.is_not(None))
    if file_id is not None:
        answers = answers.where(attempt.c.file_id == file_id)
    by_rows = answers.select_from(
        row_table.join(request, request.c.id == row_table.c.request_id).join(attempt, _ANSWER)
    )
    of_request = answers.select_from(request.join(attempt, _ANSWER))
    queries = [by_rows, of_request.where(request.c.open_shard_id.is_not(None))]
    if _asks_larger(connection):
        queries.append(of_request.where(request.c.status == STATUS_CODES[Status.TRUNCATED]))
    return {int(found) for query in queries for found in connection.execute(query).scalars()}


def _asks_larger(connection: Connection) -> bool:
    """Whether a manifest asks again for what was cut at the token limit. Then an answer that was cut is
    needed though no row shows it: that it was cut is why its row belongs to a larger request."""
    query = select(run.c.document).join(manifest, manifest.c.current_run_id == run.c.id)
    documents = (found for found in connection.execute(query).scalars() if found is not None)
    return any(decode_json(text)["manifest"].get("on_truncated") is not None for text in documents)


def forget_raw(connection: Connection, file_id: int, now_s: float) -> bool:
    """Requests answered in this file are as if never answered; their attempts stay counted."""
    found = connection.execute(
        select(file.c.shard_id, file.c.raw_path)
        .join(shard, shard.c.id == file.c.shard_id)
        .where(file.c.id == file_id, shard.c.state == ShardState.DONE.value)
    ).one_or_none()
    if found is None or _needed(connection, file_id):
        return False
    answered = select(request.c.id).join(attempt, _ANSWER).where(attempt.c.file_id == file_id)
    connection.execute(
        update(request)
        .where(request.c.id.in_(answered))
        .values(
            status=null(),
            retryable=0,
            answer_shard_id=null(),
            answer_line=null(),
            failed_shard_id=null(),
            failed_line=null(),
        )
    )
    connection.execute(
        update(attempt)
        .where(attempt.c.shard_id == found.shard_id, attempt.c.file_id == file_id)
        .values(file_id=null(), offset=null(), length=null())
    )
    connection.execute(delete(quarantine).where(quarantine.c.file_id == file_id))
    connection.execute(delete(file).where(file.c.id == file_id))
    add_event(
        connection,
        what="answers forgotten",
        detail=found.raw_path,
        run_id=None,
        shard_id=found.shard_id,
        now_s=now_s,
    )
    return True


def load_remote_inputs(connection: Connection, manifest_id: int) -> list[RemoteInput]:
    """Uploads of a manifest's shards that are done and have a line for every request in a raw file, whatever
    became of the attempt they were made for. Where one has none, its batch may be under way yet: a person
    can have given the shard up."""
    lines_here = (
        select(func.count())
        .where(attempt.c.shard_id == shard.c.id, attempt.c.file_id.is_not(None))
        .scalar_subquery()
    )
    of_shard = (
        shard.c.manifest_id == manifest_id,
        shard.c.state == ShardState.DONE.value,
        lines_here == shard.c.requests,
    )
    raw: dict[int, list[str]] = {}
    query = select(file.c.shard_id, file.c.raw_path).join(shard, shard.c.id == file.c.shard_id)
    for found in connection.execute(query.where(file.c.raw_path.is_not(None), *of_shard)):
        raw.setdefault(found.shard_id, []).append(found.raw_path)
    inputs = (
        select(file.c.shard_id, file.c.attempt, file.c.file_id, shard.c.size_bytes)
        .join(shard, shard.c.id == file.c.shard_id)
        .where(file.c.kind == "input", file.c.file_id.is_not(None), *of_shard)
        .where(or_(file.c.state == "uploaded", file.c.state == "lost"))
        .order_by(file.c.id)
    )
    return [
        RemoteInput(
            shard_id=found.shard_id,
            attempt=found.attempt,
            file_id=found.file_id,
            size_bytes=found.size_bytes,
            raw_paths=tuple(raw.get(found.shard_id, ())),
        )
        for found in connection.execute(inputs)
    ]


def load_unused_uploads(connection: Connection, manifest_id: int) -> list[UnusedUpload]:
    """Uploads of a manifest's shards that no create has named nor will.

    One whose id never came: a create is sent with an id only, and another try to upload is another attempt.
    And those of a shard that was discarded as unpaid (`discarded`: under its lock, with no create open), not
    by a person. A ledger that was rebuilt may lack what came later: of a shard it restored, it can't tell.
    """
    restored = select(event.c.shard_id).where(event.c.what == "restored", event.c.shard_id.is_not(None))
    unpaid = select(event.c.shard_id).where(event.c.what == "discarded", event.c.shard_id.is_not(None))
    of_attempt = and_(batch.c.shard_id == file.c.shard_id, batch.c.attempt == file.c.attempt)
    of_file = and_(batch.c.server == shard.c.server, batch.c.input_file_id == file.c.file_id)
    has_batch = exists().where(or_(of_attempt, of_file))
    query = (
        select(file.c.shard_id, file.c.attempt, file.c.file_id, file.c.filename, file.c.created_at)
        .add_columns(shard.c.size_bytes, shard.c.server)
        .join(shard, shard.c.id == file.c.shard_id)
        .where(shard.c.manifest_id == manifest_id, file.c.kind == "input", file.c.filename.is_not(None))
        .where(file.c.state.in_(("intended", "uploaded", "lost")))
        .where(
            or_(
                file.c.file_id.is_(None),
                and_(shard.c.state == ShardState.DISCARDED.value, shard.c.id.in_(unpaid)),
            )
        )
        .where(shard.c.id.not_in(restored), not_(has_batch))
        .order_by(file.c.id)
    )
    return [
        UnusedUpload(
            shard_id=found.shard_id,
            attempt=found.attempt,
            file_id=found.file_id,
            filename=found.filename,
            size_bytes=found.size_bytes,
            server=found.server,
            begun_at=moment(found.created_at),
        )
        for found in connection.execute(query)
    ]


def note_input_deleted(connection: Connection, remote: RemoteInput, now_s: float) -> None:
    """An input file is gone from the server."""
    connection.execute(
        update(file)
        .where(file.c.shard_id == remote.shard_id, file.c.attempt == remote.attempt, file.c.kind == "input")
        .values(state="deleted")
    )
    add_event(
        connection,
        what="input file deleted",
        detail=remote.file_id,
        run_id=None,
        shard_id=remote.shard_id,
        now_s=now_s,
    )
