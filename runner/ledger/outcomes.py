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

from sqlalchemy import Connection, select

from runner.core.identity import by_custom_id, custom_id
from runner.core.model import Outcome, Status
from runner.core.states import Submission
from runner.errors import LedgerError
from runner.failpoints import failpoint
from runner.ledger.kept_requests import keep_requests, kept_path
from runner.ledger.outcome_statements import (
    ADD_CAUSE,
    ADD_QUARANTINE,
    ADD_RAW_FILE,
    ANSWER_PLACES,
    ANSWERED_LINE,
    CLOSE,
    CLOSE_FAILED,
    CLOSE_WISHED,
    COUNT_LINES,
    COUNTED,
    EXCUSED,
    FILE_AT,
    HELD,
    JUDGE_AGAIN,
    OPEN,
    PLACE_AGAIN,
    RAW_FILE,
    REQUESTS,
    SETTLE,
    SETTLE_ANSWERS,
    SHARD_OF_LINES,
    STORE,
    STORE_ANSWER,
    UNKNOWN_LINES,
    UNSETTLED,
    WITHOUT_COUNT,
)
from runner.ledger.packing import (
    STATUS_CODES,
    STATUSES,
    pack_finish_reason,
    pack_model,
    pack_response_id,
    storable,
)
from runner.ledger.records import AnswerValues, Awaited, Expected, RawFile, ResultKind, Verdict
from runner.ledger.tables import quarantine
from runner.ledger.times import iso

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")
_NAME_LIMIT = 120
_MOST_EXCUSED_BY_A_FENCE = 3
_MOST_EXCUSED_BY_A_FULL_QUEUE = 200
"""With pauses that grow to ten minutes: more than a day in which others may let us in."""

StoredItem = tuple[int, int, Outcome, int | None, int | None]
"""Line, request id, outcome, and the place of the line in the raw file."""

_LINE_OF_ANSWER = itemgetter(7)
"""Stored in this order, neighbours share a page."""


# ---------------------------------------------------------------- what is awaited


def load_awaited(connection: Connection, shard_id: int) -> Awaited:
    """The lines of a shard by their custom_ids: the open ones, and what is stored of the others."""
    return Awaited(
        open=by_custom_id(OPEN.rows(connection, shard_id)),
        held={
            custom_id(found[0], found[1]): Expected(found[2], found[3], STATUSES[found[4]], *found[5:])
            for found in HELD.rows(connection, shard_id)
        },
        model=SHARD_OF_LINES.first(connection, shard_id),
    )


def load_expected(connection: Connection, shard_id: int) -> dict[str, Expected]:
    """Every line of a shard by its custom_id, in their order."""
    awaited = load_awaited(connection, shard_id)
    nothing = {name: Expected(*one, None, None, None, None) for name, one in awaited.open.items()}
    return dict(sorted((awaited.held | nothing).items(), key=lambda named: named[1].line))


def keep_requests_of(connection: Connection, submission: Submission, folder: Path) -> None:
    """Which requests the shard holds, into a file of its own, before the shard is done."""
    if kept_path(folder, submission.sha).exists():
        return
    found = REQUESTS.rows(connection, submission.shard_id)
    if len(found) == submission.requests:
        keep_requests(folder, submission.sha, found)


def keep_requests_of_answers(connection: Connection, submission: Submission, folder: Path) -> None:
    """The same before a shard is given up, where a raw file holds an answer of it: that is paid for, whatever
    becomes of the others."""
    if ANSWERED_LINE.first(connection, submission.shard_id) is not None:
        keep_requests_of(connection, submission, folder)


def unsettled(connection: Connection, shard_id: int) -> int:
    """How many lines of a shard have no outcome; one that is not known has none either."""
    unknown = int(UNKNOWN_LINES.first(connection, shard_id))
    return int(UNSETTLED.first(connection, shard_id)) + max(unknown, 0)


def without_count(connection: Connection, shard_id: int) -> list[int]:
    """The lines of a shard that were or may be billed, and of which no usage is known."""
    return [line for (line,) in WITHOUT_COUNT.rows(connection, shard_id)]


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
    answers: Sequence[AnswerValues] = (),
) -> None:
    """Outcomes of one shard's lines, from one raw file or (`file_id` None) from their absence. Usual answers
    can come as they are stored."""
    ((usual_model, is_cancelled, _, is_fenced),) = SHARD_OF_LINES.rows(connection, shard_id)
    if file_id is not None and answers:
        _store_answers(connection, sorted(answers, key=_LINE_OF_ANSWER), shard_id, file_id, int(now_s))
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
        excused: frozenset[int] = frozenset()
        if is_fenced and status is Status.CANCELLED:
            excused = _excusable(connection, [item[1] for item in group], _MOST_EXCUSED_BY_A_FENCE)
        elif queued_out := [item[1] for item in group if item[2].queued_out]:
            excused = _excusable(connection, queued_out, _MOST_EXCUSED_BY_A_FULL_QUEUE)
        settled = [
            (
                int(item[2].retryable),
                int(item[2].blocked or is_wished or item[1] in excused),
                shard_id,
                item[0],
                item[1],
            )
            for item in group
        ]
        if SETTLE[status].run(connection, settled) != len(settled):
            _close(connection, status, settled, is_wished=is_wished)


def _excusable(connection: Connection, request_ids: Sequence[int], most: int) -> frozenset[int]:
    """Requests for which it is no failed attempt that our own fence cancelled their batch, or that the
    server's queue was full. A server that brings that about each time comes to an end by the count of
    attempts all the same."""
    found = EXCUSED.rows(connection, request_ids)
    return frozenset(request_id for request_id, excused in found if excused < most)


def _store_answers(
    connection: Connection, values: Sequence[AnswerValues], shard_id: int, file_id: int, now_s: int
) -> None:
    """Most requests wait for this very attempt and are settled all at once; where one of them does not, each
    is looked at by itself, for which those that are settled don't matter any more."""
    STORE_ANSWER.run(connection, values, at_shard=shard_id, in_file=file_id, now_s=now_s)
    failpoint("outcomes.answers_written")
    if SETTLE_ANSWERS.run(connection, [()], at_shard=shard_id, in_file=file_id) == len(values):
        return
    settled = [(0, 0, shard_id, line, request_id) for *_, line, request_id in values]
    if SETTLE[Status.SUCCEEDED].run(connection, settled) != len(settled):
        _close(connection, Status.SUCCEEDED, settled, is_wished=False)


def _close(
    connection: Connection, status: Status, settled: Sequence[tuple[int, ...]], *, is_wished: bool
) -> None:
    """Of these attempts those whose request keeps the better answer that it had before."""
    if status is Status.SUCCEEDED:
        closed = [(excused, shard_id, request_id) for _, excused, shard_id, _, request_id in settled]
        CLOSE.run(connection, closed)
    elif is_wished:
        wished = [(excused, line, shard_id, request_id) for _, excused, shard_id, line, request_id in settled]
        CLOSE_WISHED.run(connection, wished)
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


# ---------------------------------------------------------------- looked at again


def judge_again(connection: Connection, verdicts: Mapping[bytes, Verdict]) -> None:
    """What a closer look at held answers came to, by fingerprint. The attempts keep what they brought; an
    answer that another one has replaced since is none that was looked at."""
    known = {found[0]: found[1:] for found in ANSWER_PLACES.rows(connection, sorted(verdicts))}
    judged, causes = [], []
    for fingerprint, (request_id, shard_id, line) in known.items():
        judged_shard_id, status, cause = verdicts[fingerprint]
        if shard_id != judged_shard_id:
            continue
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
    held = RAW_FILE.rows(connection, shard_id, kind, server_file_id)
    if held:
        key, path = held[0]
        return RawFile(id=key, path=path)
    path = f"raw/{_safe_name(server_file_id)}-{kind}.jsonl"
    if FILE_AT.first(connection, path) is not None:
        path = f"raw/{_safe_name(server_file_id)}-{kind}-of-shard-{shard_id}.jsonl"
    ((_, _, attempt_number, _),) = SHARD_OF_LINES.rows(connection, shard_id)
    offered = (shard_id, attempt_number, kind, server_file_id, "offered", path, iso(now_s))
    return RawFile(id=ADD_RAW_FILE.key(connection, *offered), path=path)


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
    COUNT_LINES.run(connection, [(*(counts[name] for name in COUNTED), raw.id)])


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
