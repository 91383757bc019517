"""What people wished to be stopped, and whether that was before or after a run was asked for.

Theory. A wish counts against what was asked for before it, never against what is asked for later: the next
run that wants what was cancelled asks it again. Which of the two came first, the ids of events say. They are
given under the write lock, one after another, whatever becomes of the clock meanwhile. A run may go on in
other processes, so the last event before somebody asked for it is noted in an event of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, literal_column, select

from runner.ledger.bulk import Query
from runner.ledger.submissions import CANCEL_REQUESTED, add_event
from runner.ledger.tables import event
from runner.ledger.times import iso, moment

Transaction = Callable[[], AbstractContextManager[Connection]]
ASKED_FOR = "asked for"
"""The event of a person, or a schedule, that asks for a run; its detail is the last event before that."""

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
        with self._writing() as connection:
            add_event(
                connection,
                what=ASKED_FOR,
                detail=str(after),
                run_id=run_id,
                shard_id=None,
                now_s=self._clock(),
            )

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
