"""A plan becomes a fact: requests, attempts, shards and the manifest's rows, in one transaction.

Theory
------
Planning reads for a long time without holding the ledger; other processes may send the same requests
meanwhile (two manifests can share rows). So the commit looks again, inside the transaction that holds
the write lock: a request that is to be sent must stand as it did when that was decided (on its way to
nobody, sent as often, with the same last word), whatever the plan asks again. Where it does not, the plan has
moved (`PlanMovedError`), nothing is written, and the caller plans again. Hence I1: a request has one open
attempt at most, held by `open_shard_id`; and what was answered since is not bought again. So it is with a
request that nothing is sent for because it is on its way, or answered: a shard may have been taken back
since, and its row would wait for nobody.

All rows that can be sent get a request, also those not sent now: a row points to what it waits for. The
walk goes slice by slice over the staged rows, in order, so memory is flat; rows that stay as they were
are read and not written.

Request ids are given here (highest id + 1), because the transaction excludes every other writer and the
attempts need them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    delete,
    select,
    update,
)

from runner.core.identity import key_part
from runner.core.model import Cause
from runner.core.planning import Held, Standing
from runner.errors import StillRunningError
from runner.failpoints import failpoint
from runner.ledger.new_blocks import BlockWriter, Named, named_by
from runner.ledger.packing import ANSWERED_CODES, STATUSES
from runner.ledger.plan_statements import (
    ADD_ATTEMPT,
    ADD_REQUEST,
    ADD_ROW,
    ADD_ROW_CAUSE,
    ANSWER_SHARD,
    ANSWERED_AT,
    FREE_BY_ID,
    HELD,
    HELD_WITH_ANSWER,
    HIGHEST_REQUEST,
    LAST_ROWS,
    LAST_ROWS_AT,
    LAST_WORD_AT,
    LET_GO,
    PREVIOUS_ROWS,
    REMOVE_ROW,
    REMOVE_ROW_CAUSE,
    REMOVE_ROW_CAUSES_BEYOND,
    REMOVE_ROWS_BEYOND,
    RENAME,
    REPEATABLE_BY_ID,
    ROWS_AT,
    ROWS_BETWEEN,
    SEND_AGAIN,
    SET_CURRENT_RUN,
    SETTLED_ROWS,
    SLICE_ROWS,
)
from runner.ledger.records import LastColumns, LastRow, PackedBlock, StagedRow
from runner.ledger.staging import Staging
from runner.ledger.tables import attempt, request


class PlanMovedError(StillRunningError):
    """Another process sent or answered a request while this plan was made, or took it back. Plan again."""


# ---------------------------------------------------------------- reading


def load_held(connection: Connection, fingerprints: Sequence[bytes]) -> dict[bytes, Held]:
    """What is known of these fingerprints; those nobody ever wanted are missing."""
    return {
        found[0]: Held(
            request_id=found[1],
            name=found[2],
            status=None if found[3] is None else STATUSES[found[3]],
            is_open=found[4] is not None,
            attempts=found[5],
            retryable=bool(found[6]),
            excused=found[7],
            answered_at_s=found[8],
            has_failed_since=found[9] is not None,
        )
        for found in HELD_WITH_ANSWER.rows(connection, sorted(fingerprints))
    }


def has_requests(connection: Connection) -> bool:
    """Whether any request was ever recorded."""
    return HIGHEST_REQUEST.first(connection) is not None


def load_answered_at(connection: Connection, request_ids: Sequence[int]) -> dict[int, int]:
    """When the answers held for these requests were given; requests without one are missing."""
    found = ANSWERED_AT.rows(connection, request_ids)
    return {request_id: moment for request_id, moment in found if moment is not None}


def load_answer_shards(connection: Connection, request_ids: Sequence[int]) -> dict[int, int]:
    """In which shard the answers held for these requests were asked; requests without one are missing."""
    found = ANSWER_SHARD.rows(connection, request_ids)
    return {request_id: shard_id for request_id, shard_id in found if shard_id is not None}


def load_last_word_at(connection: Connection, request_ids: Sequence[int]) -> dict[int, int]:
    """When the last word on these requests was stored: a failure after an answer counts too."""
    found = LAST_WORD_AT.rows(connection, request_ids)
    return {request_id: moment for request_id, moment in found if moment is not None}


def load_previous(
    connection: Connection, manifest_id: int, after: int
) -> list[tuple[int, str, bytes | None]]:
    """Position, key and fingerprint of the next slice of the manifest's current rows."""
    return PREVIOUS_ROWS.rows(connection, manifest_id, after)


def load_last_rows(connection: Connection, manifest_id: int, start: int, stop: int) -> list[LastRow]:
    """The manifest's current rows from position `start` up to, not including, `stop`."""
    return [LastRow._make(values) for values in LAST_ROWS.rows(connection, manifest_id, start, stop)]


def load_last_rows_at(connection: Connection, manifest_id: int, positions: Sequence[int]) -> list[LastRow]:
    """Those of the manifest's current rows that stand at these positions."""
    return [LastRow._make(values) for values in LAST_ROWS_AT.rows(connection, positions, manifest_id)]


def load_last_columns(connection: Connection, manifest_id: int, start: int, stop: int) -> LastColumns | None:
    """The same as columns; None without a row."""
    found = LAST_ROWS.rows(connection, manifest_id, start, stop)
    return LastColumns._make(zip(*found, strict=True)) if found else None


def load_settled_rows(
    connection: Connection, manifest_id: int, start: int, stop: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Positions of the manifest's current rows from `start` up to, not including, `stop` whose request has
    succeeded and was not asked since, and the ids of these requests."""
    found = SETTLED_ROWS.rows(connection, manifest_id, start, stop)
    positions, request_ids = zip(*found, strict=True) if found else ((), ())
    return positions, request_ids


# ---------------------------------------------------------------- a whole plan


class _Known(NamedTuple):
    """A request as the ledger has it now."""

    request_id: int
    name: str
    status: int | None
    open_shard_id: int | None
    attempts: int
    retryable: int


_NOT_NAMED: Named = (None, None)
_NO_CAUSE = (None, None, None)


class _Additions:
    """What one slice adds, collected before it is written."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, ...]] = []
        self.again: list[tuple[Any, ...]] = []
        self.renamed: list[tuple[Any, ...]] = []
        self.attempts: list[tuple[Any, ...]] = []

    def write(self, connection: Connection) -> None:
        ADD_REQUEST.run(connection, self.requests)
        RENAME.run(connection, self.renamed)
        SEND_AGAIN.run(connection, self.again)
        self.attempts.sort()  # as they stand in the table: its pages fill up one after the other
        ADD_ATTEMPT.run(connection, self.attempts)


class PlanWriter:
    """Writes one plan inside the caller's transaction. `shard_ids` maps slots to shards.

    write -> _blocks.place (requests, attempts of blocks of which nothing is known)
          -> per slice: _known, _place_requests (requests, attempts), _replace_rows -> _remove_beyond
    """

    def __init__(
        self,
        connection: Connection,
        manifest_id: int,
        shard_ids: Mapping[int, int],
    ) -> None:
        self._connection = connection
        self._manifest_id = manifest_id
        self._shard_ids = shard_ids
        self._first_new_id = self._next_id = int(HIGHEST_REQUEST.first(connection) or 0) + 1
        self._blocks = BlockWriter(connection, manifest_id, shard_ids)
        self._keeps = False
        """Rows stand where this plan has none of its own: they are kept, and none is missing between."""

    def write(self, staging: Staging, run_id: int) -> None:
        """Everything. Errors: PlanMovedError, and then the transaction must be rolled back."""
        self._keeps = staging.last_kept >= 0
        if LET_GO.rows(self._connection, staging.awaited):
            raise _let_go("a request")
        self._next_id = self._blocks.place(staging, self._next_id)
        after = -1
        for found in staging.slices():
            replace, last = self._place(found)
            failpoint("commit.requests_placed")
            replace(after)
            failpoint("commit.rows_replaced")
            after = last
        after = max(after, staging.last_kept)
        self._remove_beyond(after)
        SET_CURRENT_RUN.run(self._connection, [(run_id, self._manifest_id)])

    def _place(self, found: list[StagedRow] | PackedBlock) -> tuple[Callable[[int], None], int]:
        """Requests and attempts; gives what replaces the rows after a position, and the last position."""
        if isinstance(found, PackedBlock) and (first_id := self._blocks.first_id(found)) is not None:
            if not found.inside:
                return partial(self._replace_block, found, first_id), found.ends[1]
            named = named_by(found.unpacked(), first_id) | self._place_requests(found.inside)
        else:
            named = self._place_requests(list(found))
        rows = list(found)
        return partial(self._replace_rows, rows, named), rows[-1].position

    def _replace_block(self, block: PackedBlock, first_id: int, after: int) -> None:
        """The rows of a block whose requests are new."""
        if self._rows_between(block.ends[0] - 1 if self._keeps else after, block.ends[1]):
            self._replace_rows(list(block), named_by(block.unpacked(), first_id), after)
        else:
            self._blocks.add_rows(block, first_id)

    def _place_requests(self, rows: Sequence[StagedRow]) -> dict[bytes, Named]:
        """Requests and attempts of a slice. Gives each fingerprint's request."""
        wanted = {row.fingerprint: row for row in reversed(rows) if row.fingerprint is not None}
        placed = {
            row.fingerprint: row for row in rows if row.slot is not None and row.fingerprint is not None
        }
        # Of equal rows the placed one names the request: the custom_id in the shard is made of its key.
        wanted.update(placed)
        # In the order of the fingerprints, because their index takes sorted values a third faster.
        known = self._known(sorted(wanted))
        _refuse_let_go(rows, known)
        additions = _Additions()
        named: dict[bytes, Named] = {
            fingerprint: (found.request_id, found.name if self._is_settled(found) else None)
            for fingerprint, found in known.items()
        }
        self._add_new(wanted, known, additions, named)
        for fingerprint in placed.keys() & known.keys():
            named[fingerprint] = self._send_known(placed[fingerprint], known[fingerprint], additions)
        if len(additions.attempts) != sum(row.slot is not None for row in rows):
            raise PlanMovedError("a request is placed twice", next_step="nothing was sent; report this")
        additions.write(self._connection)
        return named

    def _known(self, fingerprints: Sequence[bytes]) -> dict[bytes, _Known]:
        if self._next_id == 1:
            return {}
        return {found[0]: _Known._make(found[1:]) for found in HELD.rows(self._connection, fingerprints)}

    def _is_settled(self, known: _Known) -> bool:
        """Whether a request's name is fixed: it was known before this plan, or this plan has placed it."""
        return known.request_id < self._first_new_id or known.attempts > 0

    def _add_new(
        self,
        wanted: Mapping[bytes, StagedRow],
        known: Mapping[bytes, _Known],
        additions: _Additions,
        named: dict[bytes, Named],
    ) -> None:
        """Requests nobody has wanted before. Written for a million of them: no calls but the unavoidable."""
        shard_ids = self._shard_ids
        request_id = self._next_id
        for fingerprint in sorted(wanted.keys() - known.keys()):
            _, key, _, _, slot, line, _, given, _, _ = wanted[fingerprint]
            name = given or key_part(key)
            if slot is None:
                additions.requests.append((request_id, fingerprint, name, 0, None, None))
                named[fingerprint] = (request_id, None)
            else:
                shard_id = shard_ids[slot]
                additions.requests.append((request_id, fingerprint, name, 1, shard_id, line))
                additions.attempts.append((shard_id, line, request_id, 1))
                named[fingerprint] = (request_id, name)
            request_id += 1
        self._next_id = request_id

    def _send_known(self, row: StagedRow, known: _Known, additions: _Additions) -> Named:
        if not _stands_as_seen(row, known):
            raise _moved(row)
        name = row.name
        if not self._is_settled(known):
            name = name or key_part(row.key)  # recorded a moment ago for an equal row that is not sent
            if name != known.name:
                additions.renamed.append((name, known.request_id))
        elif name is not None and name != known.name:
            raise _moved(row)
        shard_id = self._shard_ids[row.slot]  # type: ignore[index]
        additions.again.append((shard_id, row.line, known.request_id))
        additions.attempts.append((shard_id, row.line, known.request_id, known.attempts + 1))
        return known.request_id, name or known.name

    def _replace_rows(self, rows: Sequence[StagedRow], named: Mapping[bytes, Named], after: int) -> None:
        """The slice's rows; what stands there already and is equal stays untouched."""
        if self._keeps:
            held = self._rows_at([row.position for row in rows])
        else:
            held = self._rows_between(after, rows[-1].position)
        added: list[tuple[Any, ...]] = []
        causes: list[tuple[Any, ...]] = []
        removed: list[int] = []
        manifest_id = self._manifest_id
        for position, key, fingerprint, _, _, _, cause, _, _, _ in rows:
            request_id, name = _NOT_NAMED if fingerprint is None else named[fingerprint]
            why = _NO_CAUSE if request_id is not None else _cause_values(cause)
            before = held.pop(position, None)
            if before is not None:
                if before == (key, request_id, *why):
                    continue
                removed.append(position)
            added.append((manifest_id, position, None if name == key else key, request_id))
            if request_id is None:
                causes.append((manifest_id, position, *why))
        removed.extend(held)
        places = [(manifest_id, position) for position in removed]
        REMOVE_ROW_CAUSE.run(self._connection, places)
        REMOVE_ROW.run(self._connection, places)
        ADD_ROW.run(self._connection, added)
        ADD_ROW_CAUSE.run(self._connection, causes)

    def _rows_between(self, after: int, up_to: int) -> dict[int, tuple[Any, ...]]:
        found = ROWS_BETWEEN.rows(self._connection, self._manifest_id, after, up_to)
        return {values[0]: values[1:] for values in found}

    def _rows_at(self, positions: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        found = ROWS_AT.rows(self._connection, positions, self._manifest_id)
        return {values[0]: values[1:] for values in found}

    def _remove_beyond(self, after: int) -> None:
        REMOVE_ROW_CAUSES_BEYOND.run(self._connection, [(self._manifest_id, after)])
        REMOVE_ROWS_BEYOND.run(self._connection, [(self._manifest_id, after)])


def _cause_values(cause: Cause | None) -> tuple[str, str | None, str]:
    if cause is None:
        return "unsendable", None, "no request could be made of this row"
    return cause.error_class, cause.code, cause.message


def _stands_as_seen(row: StagedRow, known: _Known) -> bool:
    """Whether nothing has happened to a row's request since it was placed."""
    status = None if known.status is None else STATUSES[known.status]
    is_free = known.open_shard_id is None
    return is_free and (known.attempts, status) == (row.attempts, row.status)


def _refuse_let_go(rows: Sequence[StagedRow], known: Mapping[bytes, _Known]) -> None:
    """Errors: PlanMovedError where nothing is sent for a row, and its request is not on its way any more, nor
    answered. There is hardly ever one."""
    idle = {
        fingerprint: found
        for fingerprint, found in known.items()
        if found.open_shard_id is None and found.status not in ANSWERED_CODES
    }
    for row in rows if idle else ():
        found = idle.get(row.fingerprint or b"")
        if found is not None and row.slot is None and _is_let_go(row, found):
            raise _let_go(f"row {row.key!r}: its request")


def _is_let_go(row: StagedRow, idle: _Known) -> bool:
    """Whether an idle request was taken for another when its row was planned. One that failed since may be
    worth another attempt, which a new plan finds out."""
    if row.standing == Standing.IN_FLIGHT:
        return idle.status is None or bool(idle.retryable)
    return idle.status is None and row.standing in (Standing.ANSWERED, Standing.FAILED)


def _let_go(what: str) -> PlanMovedError:
    return PlanMovedError(
        f"{what} was on its way, or answered, when this run was planned, and is not any more",
        next_step="nothing was sent; run the same command again",
    )


def _moved(row: StagedRow) -> PlanMovedError:
    return PlanMovedError(
        f"row {row.key!r}: another run has sent its request since this one was planned",
        next_step="nothing was sent; run the same command again",
    )


# ---------------------------------------------------------------- a retry of known requests


def place_known(
    connection: Connection,
    placements: Iterable[tuple[int, int, int]],
    shard_ids: Mapping[int, int],
    *,
    max_attempts: int | None = None,
) -> None:
    """Known requests go into new shards: (slot, line, request_id). Errors: PlanMovedError.

    With `max_attempts` they are those that were worth repeating when they were chosen. That was before this
    transaction, and another run may have asked them since: they must be worth it still.
    """
    for chunk in _slices(placements):
        request_ids = [request_id for _, _, request_id in chunk]
        attempts: dict[int, int] = {}
        if max_attempts is None:
            attempts.update(FREE_BY_ID.rows(connection, request_ids))
        else:
            attempts.update(REPEATABLE_BY_ID.rows(connection, request_ids, max_attempts))
        if any(request_id not in attempts for request_id in request_ids):
            raise PlanMovedError(
                "another run has sent a request again since this one was planned",
                next_step="nothing was sent; run the same command again",
            )
        again = [(shard_ids[slot], line, request_id) for slot, line, request_id in chunk]
        numbered = [
            (shard_ids[slot], line, request_id, attempts[request_id] + 1) for slot, line, request_id in chunk
        ]
        if SEND_AGAIN.run(connection, again) != len(again):
            raise PlanMovedError(
                "a request stands twice in what is to be sent", next_step="nothing was sent; report this"
            )
        ADD_ATTEMPT.run(connection, numbered)


def _slices(items: Iterable[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    walk = iter(items)
    while chunk := list(islice(walk, SLICE_ROWS)):
        yield chunk


# ---------------------------------------------------------------- shards that were never bought


def free_requests(connection: Connection, shard_id: int) -> None:
    """Forget the attempts of a shard that was never bought: its requests are as if never placed."""
    placed = select(attempt.c.request_id).where(attempt.c.shard_id == shard_id)
    connection.execute(
        update(request)
        .where(request.c.id.in_(placed), request.c.open_shard_id == shard_id)
        .values(attempts=request.c.attempts - 1, open_shard_id=None, open_line=None)
    )
    connection.execute(delete(attempt).where(attempt.c.shard_id == shard_id, attempt.c.status.is_(None)))
