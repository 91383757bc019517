"""A new ledger filled from what the side journal says: runs, shards, files, batches, requests. One that a
rebuild could not tell the requests of learns them later.

The rule: nothing is guessed. A shard stands where its newest line says, its ids are those of its lines,
and a request is what a kept list or the input file itself proves. Outcomes are read from the raw files by
the same code that read them first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, or_, select, update

from runner.core.model import Outcome
from runner.core.states import ShardState
from runner.core.tags import Tags
from runner.core.wire import encode_json
from runner.ledger.bulk import Bulk
from runner.ledger.events import CREATE_INTENDED, EXTRA_BATCH, EXTRA_OUTPUT, add_event
from runner.ledger.facts import ShardFact, document_with, read_fact
from runner.ledger.journal import Journal
from runner.ledger.kept_requests import KeptRequest
from runner.ledger.outcomes import refuse_unsettled, store
from runner.ledger.packing import SUCCEEDED_CODE
from runner.ledger.place import LedgerPlace
from runner.ledger.plan_statements import ADD_ATTEMPT, ADD_REQUEST, HELD, SLICE_ROWS
from runner.ledger.runs import RESTORED, ensure_manifest
from runner.ledger.tables import attempt, batch, file, request, run, shard
from runner.ledger.times import iso, iso_or_none

COUNT_AGAIN = Bulk(
    update(request)
    .where(request.c.id == bindparam("known_id"))
    .values(attempts=request.c.attempts + literal_column("1")),
    "known_id",
)

AWAIT = Bulk(
    update(request)
    .where(request.c.id == bindparam("known_id"), request.c.open_shard_id.is_(None))
    .values(open_shard_id=bindparam("at_shard"), open_line=bindparam("at_line")),
    *("at_shard", "at_line", "known_id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledShard:
    """A shard as its lines tell it: the newest line of each attempt, in order, with the key of its
    create-intent. The last one is where it stands."""

    attempts: tuple[ShardFact, ...]

    @property
    def newest(self) -> ShardFact:
        """Where it stands."""
        return self.attempts[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Journaled:
    """All that a journal knows. `runs` are the columns of each run by its uid, `extras` and
    `extra_outputs` the second batches of a shard, and their files, by run and slot; `damaged_lines` were
    whole once and can't be read."""

    shards: tuple[JournaledShard, ...]
    runs: Mapping[str, Mapping[str, Any]]
    extras: Mapping[tuple[str, int], tuple[str, ...]]
    extra_outputs: Mapping[tuple[str, int], tuple[str, ...]]
    damaged_lines: int


def read_journal(place: LedgerPlace) -> Journaled:
    """Everything this ledger's journal knows, shards in the order in which they were made."""
    journal = Journal(place.journal, ledger=place.name)
    runs: dict[str, Mapping[str, Any]] = {}
    shards: dict[tuple[str, int], dict[int, ShardFact]] = {}
    extras: dict[str, dict[tuple[str, int], tuple[str, ...]]] = {EXTRA_BATCH: {}, EXTRA_OUTPUT: {}}
    for line in journal.facts():
        fact = read_fact(line)
        if fact is not None:
            attempts = shards.setdefault((fact.run, fact.slot), {})
            earlier = attempts.get(fact.attempt, fact)
            attempts[fact.attempt] = replace(fact, key=fact.key or earlier.key)
        elif line.get("what") == "planned" and isinstance(line.get("run"), str):
            runs[line["run"]] = {name: line.get(name) for name in RESTORED}
        elif line.get("what") in extras and isinstance(line.get("id"), str):
            of_shard = extras[line["what"]]
            key = (str(line.get("run")), int(line.get("of_slot") or 0))
            of_shard[key] = (*of_shard.get(key, ()), line["id"])
    found = [JournaledShard(attempts=tuple(one[key] for key in sorted(one))) for one in shards.values()]
    numbers = [one.newest.shard for one in found]
    if len(set(numbers)) == len(numbers):
        found.sort(key=lambda one: one.newest.shard)
    return Journaled(
        shards=tuple(found),
        runs=runs,
        extras=extras[EXTRA_BATCH],
        extra_outputs=extras[EXTRA_OUTPUT],
        damaged_lines=journal.damaged_lines(),
    )


class Restoration:
    """Fills one new ledger. Shards must come in order: of two answers to one request the later stays."""

    def __init__(
        self, writing: Callable[[], AbstractContextManager[Connection]], clock: Callable[[], float]
    ) -> None:
        self._writing = writing
        self._clock = clock
        self._runs: dict[str, tuple[int, int]] = {}

    def add_shard(
        self,
        known: JournaledShard,
        state: ShardState,
        *,
        columns: Mapping[str, Any] | None,
        extras: Sequence[str] = (),
    ) -> int:
        """The shard with its run, input files and batches; no requests yet. Gives its id, which is the one
        it had where that is free. `columns`: what is known of its run; `extras`: second batches."""
        newest = known.newest
        with self._writing() as connection:
            run_id, manifest_id = self._run_of(connection, newest, columns or {})
            highest = connection.execute(select(func.max(shard.c.id))).scalar() or 0
            shard_id = newest.shard if newest.shard > highest else int(highest) + 1
            now = iso(self._clock())
            connection.execute(
                insert(shard).values(
                    id=shard_id,
                    run_id=run_id,
                    manifest_id=manifest_id,
                    server=newest.server,
                    slot=newest.slot,
                    sha=newest.sha,
                    path=newest.path,
                    size_bytes=newest.size_bytes,
                    requests=newest.requests,
                    endpoint=newest.endpoint,
                    completion_window=newest.completion_window,
                    model=newest.model,
                    state=state.value,
                    attempt=newest.attempt,
                    send_by_s=newest.send_by_s,
                    not_before_s=0.0,
                    problem=newest.problem,
                    is_fenced=int(newest.is_fenced),
                    cancel_requested=int(newest.cancel_requested),
                    created_at=known.attempts[0].at,
                    updated_at=now,
                )
            )
            for fact in known.attempts:
                _add_ids(connection, shard_id, fact, is_current=fact is newest)
            events = [("restored", f"{newest.what} ({newest.at}), now {state}")]
            events += [(CREATE_INTENDED, newest.key)] if newest.key else []
            for what, detail in [*events, *((EXTRA_BATCH, batch_id) for batch_id in extras)]:
                add_event(
                    connection,
                    what=what,
                    detail=detail,
                    run_id=run_id,
                    shard_id=shard_id,
                    now_s=self._clock(),
                )
        return shard_id

    def _run_of(self, connection: Connection, fact: ShardFact, columns: Mapping[str, Any]) -> tuple[int, int]:
        if fact.run in self._runs:
            return self._runs[fact.run]
        manifest_id = ensure_manifest(connection, fact.manifest, fact.name)
        document = encode_json(document_with(fact.provider)).decode()
        values: dict[str, Any] = {
            "started_at": fact.at,
            **dict.fromkeys(("manifest_digest", "template_digest", "dataset_digest", "version"), ""),
            "git_commit": None,
            "model": fact.model,
            "rows": 0,
            "document": document if fact.provider is not None else None,
        }
        values |= {name: value for name, value in columns.items() if value is not None}
        values |= {"uid": fact.run, "manifest_id": manifest_id, "state": "interrupted", "snapshot": ""}
        (run_id,) = connection.execute(insert(run).values(values)).inserted_primary_key or (0,)
        self._runs[fact.run] = (int(run_id), manifest_id)
        return self._runs[fact.run]

    def add_requests(self, shard_id: int, requests: Sequence[KeptRequest]) -> None:
        """What each line of the shard asks; an attempt more for each of these requests."""
        with self._writing() as connection:
            _add_all(connection, shard_id, requests)

    def learn(self, shard_id: int, requests: Sequence[KeptRequest]) -> None:
        """What a shard asks that stands in a ledger without it, and that this is on its way there: known and
        not awaited it would be bought again."""
        with self._writing() as connection:
            _add_all(connection, shard_id, requests)
            AWAIT.run(connection, [(shard_id, *found) for found in _wanted(connection, shard_id)])

    def account(self, shard_id: int, absent: Sequence[tuple[int, int, Outcome]]) -> None:
        """Outcomes of lines that stand in no raw file: (line, request id, outcome)."""
        items = [(line, request_id, outcome, None, None) for line, request_id, outcome in absent]
        with self._writing() as connection:
            store(connection, shard_id, None, items, self._clock())

    def free_unanswered(self, shard_id: int) -> None:
        """Of a shard that was given up: what it has no outcome of is as if never sent in it."""
        unanswered = (attempt.c.shard_id == shard_id, attempt.c.status.is_(None))
        with self._writing() as connection:
            connection.execute(
                update(request)
                .where(request.c.id.in_(select(attempt.c.request_id).where(*unanswered)))
                .values(attempts=request.c.attempts - 1)
            )
            connection.execute(delete(attempt).where(*unanswered))

    def wanted(self, shard_id: int) -> list[tuple[int, int]]:
        """Line and request of what has no outcome here and no success in a later shard either: what such a
        shard has answered was asked again because this one had ended without it."""
        with self._writing() as connection:
            return _wanted(connection, shard_id)

    def await_wanted(self, shard_id: int) -> int:
        """The requests that are wanted of this shard are on their way; gives how many. Of several shards that
        want one the latest must come first: as it was when they were sent, the request waits for that one."""
        with self._writing() as connection:
            places = [(shard_id, *found) for found in _wanted(connection, shard_id)]
            return AWAIT.run(connection, places)

    def stand(self, shard_id: int, state: ShardState, problem: str | None = None) -> None:
        """Where the shard stands after all. Errors: LedgerError for a shard done without all outcomes."""
        with self._writing() as connection:
            if state is ShardState.DONE:
                refuse_unsettled(connection, shard_id)
            values = {"state": state.value} | ({"problem": problem} if problem is not None else {})
            connection.execute(update(shard).where(shard.c.id == shard_id).values(values))


def _wanted(connection: Connection, shard_id: int) -> list[tuple[int, int]]:
    has_no_later = or_(
        request.c.status.is_(None),
        request.c.status != SUCCEEDED_CODE,
        request.c.answer_shard_id < shard_id,
    )
    found = connection.execute(
        select(attempt.c.line, attempt.c.request_id)
        .join(request, request.c.id == attempt.c.request_id)
        .where(attempt.c.shard_id == shard_id, attempt.c.status.is_(None), has_no_later)
        .order_by(attempt.c.line)
    )
    return [(line, request_id) for line, request_id in found]


def _add_all(connection: Connection, shard_id: int, requests: Sequence[KeptRequest]) -> None:
    for start in range(0, len(requests), SLICE_ROWS):
        _add_requests(connection, shard_id, start, requests[start : start + SLICE_ROWS])


def _add_requests(
    connection: Connection, shard_id: int, first_line: int, requests: Sequence[KeptRequest]
) -> None:
    held = {
        values[0]: values for values in HELD.rows(connection, sorted(one.fingerprint for one in requests))
    }
    next_id = int(connection.execute(select(func.max(request.c.id))).scalar() or 0) + 1
    added, again, attempts = [], [], []
    for line, one in enumerate(requests, first_line):
        known = held.get(one.fingerprint)
        if known is None:
            added.append((next_id, one.fingerprint, one.name, 1, None, None))
            attempts.append((shard_id, line, next_id, 1))
            next_id += 1
        else:
            again.append((known[1],))
            attempts.append((shard_id, line, known[1], known[5] + 1))
    ADD_REQUEST.run(connection, added)
    COUNT_AGAIN.run(connection, again)
    ADD_ATTEMPT.run(connection, attempts)


def _add_ids(connection: Connection, shard_id: int, fact: ShardFact, *, is_current: bool) -> None:
    """The input file and the batch of one attempt."""
    if fact.input_file_id is not None or not is_current:
        is_deleted = fact.is_fenced or fact.state == ShardState.FENCED
        state = "lost" if fact.input_file_id is None else "deleted" if is_deleted else "uploaded"
        tags = Tags(run=fact.run, slot=fact.slot, attempt=fact.attempt, sha=fact.sha, requests=fact.requests)
        connection.execute(
            insert(file).values(
                shard_id=shard_id,
                attempt=fact.attempt,
                kind="input",
                file_id=fact.input_file_id,
                filename=tags.filename,
                size_bytes=fact.size_bytes,
                state=state,
                created_at=fact.at,
                uploaded_at=fact.at if fact.input_file_id is not None else None,
            )
        )
    if fact.batch_id is None or _is_taken(connection, fact.server, fact.batch_id):
        return
    connection.execute(
        insert(batch).values(
            shard_id=shard_id,
            attempt=fact.attempt,
            server=fact.server,
            batch_id=fact.batch_id,
            input_file_id=fact.input_file_id,
            output_file_id=fact.output_file_id,
            error_file_id=fact.error_file_id,
            status=fact.status,
            created_at=iso_or_none(fact.submitted_at_s),
        )
    )


def _is_taken(connection: Connection, server: str, batch_id: str) -> bool:
    known = select(batch.c.id).where(batch.c.server == server, batch.c.batch_id == batch_id)
    return connection.execute(known).first() is not None


def append_facts(place: LedgerPlace, facts: Iterable[Mapping[str, Any]]) -> None:
    """What a rebuild has learned from the server, into the journal, before the new ledger counts."""
    journal = Journal(place.journal, ledger=place.name)
    for fact in facts:
        journal.append(fact)
