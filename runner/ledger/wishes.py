"""What people wished to be stopped, and whether that was before or after a run was asked for.

Theory. A wish counts against what was asked for before it, never against what is asked for later: the next
run that wants what was cancelled asks it again. Which of the two came first, the ids of events say. They are
given under the write lock, one after another, whatever becomes of the clock meanwhile. A run may go on in
other processes, so the last event before somebody asked for it is noted in an event of its own.

`run cancel` names the batches that are to stop, and it can't name what does not exist yet: the failures that
a run is about to send again, the larger limits that it is about to ask with. So it records a wish for the
whole manifest first, and then one for each open shard. A shard that was made before the first is among the
others; one that is made later is not sent because of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Integer, Text, bindparam, cast, func, literal_column, or_, select

from runner.ledger.bulk import Query
from runner.ledger.events import CANCEL_REQUESTED, add_event
from runner.ledger.tables import event, shard
from runner.ledger.times import iso, moment, moment_or_none

Transaction = Callable[[], AbstractContextManager[Connection]]
ASKED_FOR = "asked for"
"""The event of a person, or a schedule, that asks for a run; its detail is the last event before that."""
MANIFEST_CANCELLED = "manifest cancelled"
"""The event of a person who wants nothing more sent for a manifest; its detail is the manifest's id."""

_LAST = Query(select(func.coalesce(func.max(event.c.id), 0)))
_LAST_UNTIL = Query(
    select(func.coalesce(func.max(event.c.id), 0)).where(event.c.at <= bindparam("until")), "until"
)
_ASKED_FOR = Query(
    select(event.c.detail, event.c.at)
    .where(event.c.run_id == bindparam("of_run"), event.c.what == ASKED_FOR)
    .order_by(event.c.id.desc())
    .limit(literal_column("1")),
    "of_run",
)
_CANCELLED = Query(
    select(event.c.shard_id)
    .where(event.c.id > bindparam("after"), event.c.what == CANCEL_REQUESTED)
    .distinct(),
    "after",
)
_OF_MANIFEST_SINCE = Query(
    select(event.c.at)
    .where(event.c.id > bindparam("after"), event.c.what == MANIFEST_CANCELLED)
    .where(event.c.detail == bindparam("of_manifest"))
    .order_by(event.c.id)
    .limit(literal_column("1")),
    *("after", "of_manifest"),
)
_asking = event.alias("asking")
_SHARD_WAS_ASKED_FOR = (
    select(func.max(cast(_asking.c.detail, Integer)))
    .where(_asking.c.run_id == shard.c.run_id, _asking.c.what == ASKED_FOR)
    .correlate(shard)  # the one of the outermost query, not all of them
    .scalar_subquery()
)
_UNWISHED = Query(
    select(shard.c.id)
    .where(shard.c.id == bindparam("this_shard"))
    .where(
        or_(
            shard.c.cancel_requested == literal_column("1"),
            select(event.c.id)
            .where(event.c.what == MANIFEST_CANCELLED, event.c.id > _SHARD_WAS_ASKED_FOR)
            .where(event.c.detail == cast(shard.c.manifest_id, Text))
            .exists(),
        )
    ),
    "this_shard",
)


class Asked(NamedTuple):
    """When a run was asked for last: after which event of the ledger, and at which moment."""

    after: int
    at: datetime


class Wishes:
    """The part of the ledger that is about wishes to stop; made by `Ledger.wishes`."""

    def __init__(self, reading: Transaction, writing: Transaction, clock: Callable[[], float]) -> None:
        self._reading = reading
        self._writing = writing
        self._clock = clock

    def last_event(self, until: datetime | None = None) -> int:
        """The newest event, of those up to this moment where one is given; 0 where there is none."""
        with self._reading() as connection:
            if until is not None:
                return int(_LAST_UNTIL.first(connection, iso(until.timestamp())))
            return int(_LAST.first(connection))

    def note_asked_for(self, run_id: int, after: int) -> None:
        """Somebody has asked for this run, after this event."""
        self._add(ASKED_FOR, str(after), run_id)

    def asked_for(self, run_id: int) -> Asked | None:
        """When somebody asked for this run last; None where that was never noted."""
        with self._reading() as connection:
            for after, at in _ASKED_FOR.rows(connection, run_id):
                return Asked(int(after), moment(at))
        return None

    def cancelled_since(self, after: int) -> set[int]:
        """The shards whose batch somebody wanted stopped since this event."""
        with self._reading() as connection:
            return {int(shard_id) for (shard_id,) in _CANCELLED.rows(connection, after)}

    def cancel_manifest(self, manifest_id: int) -> None:
        """Nothing more is to be sent for this manifest by a run that was asked for before."""
        self._add(MANIFEST_CANCELLED, str(manifest_id), None)

    def is_cancelled(self, manifest_id: int, after: int) -> bool:
        """Whether somebody has cancelled the manifest since this event."""
        return self.cancelled_at(manifest_id, after) is not None

    def cancelled_at(self, manifest_id: int, after: int) -> datetime | None:
        """When somebody has cancelled the manifest first since this event."""
        with self._reading() as connection:
            return moment_or_none(_OF_MANIFEST_SINCE.first(connection, after, str(manifest_id)))

    def is_unwished(self, shard_id: int) -> bool:
        """Whether nothing of this shard is to be sent any more: somebody has cancelled it, or its manifest
        since its run was asked for last."""
        with self._reading() as connection:
            return _UNWISHED.first(connection, shard_id) is not None

    def _add(self, what: str, detail: str, run_id: int | None) -> None:
        with self._writing() as connection:
            now_s = self._clock()
            add_event(connection, what=what, detail=detail, run_id=run_id, shard_id=None, now_s=now_s)
