"""Schedules and their due times: who claimed which, what became of it.

The rule: a due time is one row, under a UNIQUE constraint, and whoever adds the row has claimed it. What was
claimed and not started is carried out by the next one that looks, because whoever claimed it is gone (one
process at a time looks at a schedule), or was kept from starting it by something that may pass. A manifest
has one started due time at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from runner.failpoints import failpoint
from runner.ledger.tables import due, run, schedule
from runner.ledger.times import iso, moment, moment_or_none

DueState = Literal["claimed", "started", "finished", "failed", "replaced", "skipped", "missed"]
Transaction = Callable[[], AbstractContextManager[Connection]]
OPEN: tuple[DueState, ...] = ("claimed", "started")
_CARRIED_OUT: tuple[DueState, ...] = ("started", "finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A due time to be recorded: to be carried out (`claimed`), or left (`skipped`, `missed`) and why. The
    `message` of one to be carried out is the problem that kept the one before it from starting."""

    due_at: datetime
    state: DueState = "claimed"
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRecord:
    """A due time as it is remembered; times are aware UTC. `run` is its run's uid.

    `previous_at` is the due time before it that was carried out, `begun_at` when it was first tried: both
    stay what they are, however often that is. `message` says why it was left, or what is wrong with it.
    """

    id: int
    manifest_id: int
    due_at: datetime
    previous_at: datetime | None
    state: DueState
    claimed_at: datetime
    claimed_by: str
    begun_at: datetime | None
    ended_at: datetime | None
    run: str | None
    exit_code: int | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """A schedule that somebody has looked at. `rule` is its expression and time zone, `since` from where it
    counts, `problem` what was told last of its manifest, or empty."""

    manifest_id: int
    rule: str
    since: datetime
    problem: str


class Schedules:
    """The part of the ledger that is about schedules; made by `Ledger.schedules`."""

    def __init__(self, reading: Transaction, writing: Transaction, clock: Callable[[], float]) -> None:
        self._reading = reading
        self._writing = writing
        self._clock = clock

    # ------------------------------------------------------------ schedules

    def find(self, manifest_id: int) -> ScheduleRecord | None:
        """The schedule of a manifest, or None if nobody has looked at it yet."""
        with self._reading() as connection:
            found = connection.execute(
                select(schedule).where(schedule.c.manifest_id == manifest_id)
            ).one_or_none()
        return None if found is None else _schedule(found)

    def all(self) -> list[ScheduleRecord]:
        """Every schedule."""
        with self._reading() as connection:
            return [_schedule(found) for found in connection.execute(select(schedule))]

    def begin(self, manifest_id: int, rule: str, since: datetime) -> None:
        """The schedule counts from here: it is new, or says something else than before."""
        values = {"rule": rule, "since": _text(since)}
        with self._writing() as connection:
            changed = connection.execute(
                update(schedule).where(schedule.c.manifest_id == manifest_id).values(values)
            )
            if not changed.rowcount:
                connection.execute(insert(schedule).values(manifest_id=manifest_id, problem="", **values))

    def end(self, manifest_id: int, message: str, *, is_gone: bool = False) -> None:
        """There is no such schedule any more; what was claimed and not started is left. `is_gone`: nor is
        there the manifest, so what was started has come to its end too."""
        with self._writing() as connection:
            connection.execute(delete(schedule).where(schedule.c.manifest_id == manifest_id))
            connection.execute(
                update(due)
                .where(due.c.manifest_id == manifest_id, due.c.state == "claimed")
                .values(state="skipped", message=message, ended_at=iso(self._clock()))
            )
            if is_gone:
                connection.execute(
                    update(due)
                    .where(due.c.manifest_id == manifest_id, due.c.state == "started")
                    .values(state="failed", message=message, ended_at=iso(self._clock()))
                )

    def note_problem(self, manifest_id: int, problem: str, now: datetime) -> bool:
        """Record what is told of a manifest, empty for nothing. Whether that is news."""
        known = self.find(manifest_id)
        if known is None and problem:
            self.begin(manifest_id, "", now)  # its rule is not known yet
        if (known.problem if known is not None else "") == problem:
            return False
        with self._writing() as connection:
            connection.execute(
                update(schedule).where(schedule.c.manifest_id == manifest_id).values(problem=problem)
            )
        return bool(problem)

    # ------------------------------------------------------------ due times

    def claim(
        self,
        manifest_id: int,
        claims: Sequence[Claim],
        claimed_by: str,
        *,
        replaced: Sequence[int] = (),
        overtaken: Sequence[int] = (),
    ) -> list[DueRecord]:
        """Record due times, all or none. Gives those that nobody had recorded before.

        `replaced`: open due times that come to their end by this; `overtaken`: those of them that never
        started, which have failed for the reason that they have.
        """
        ids = []
        with self._writing() as connection:
            now = iso(self._clock())
            for one in claims:
                values = {
                    "manifest_id": manifest_id,
                    "due_at": _text(one.due_at),
                    "state": one.state,
                    "claimed_at": now,
                    "claimed_by": claimed_by,
                    "ended_at": None if one.state in OPEN else now,
                    "message": one.message,
                }
                try:
                    with connection.begin_nested():
                        (key,) = connection.execute(insert(due).values(values)).inserted_primary_key or (0,)
                except IntegrityError:
                    continue
                ids.append(key)
            if ids and replaced:
                message = "the next due time came (overlap: replace)"
                connection.execute(
                    update(due)
                    .where(due.c.id.in_(replaced), due.c.state.in_(OPEN))
                    .values(state="replaced", message=message, ended_at=now)
                )
            if ids and overtaken:
                connection.execute(
                    update(due)
                    .where(due.c.id.in_(overtaken), due.c.state == "claimed")
                    .values(state="failed", ended_at=now)
                )
            failpoint("due.before")
            found = [_load(connection, due_id) for due_id in ids]
        failpoint("due.claimed")
        return found

    def last_due_at(self, manifest_id: int, until: datetime | None = None) -> datetime | None:
        """The latest due time on record; of those not after `until`, if that is given."""
        query = select(func.max(due.c.due_at)).where(due.c.manifest_id == manifest_id)
        if until is not None:
            query = query.where(due.c.due_at <= _text(until))
        with self._reading() as connection:
            found = connection.execute(query).scalar()
        return moment_or_none(found)

    def forget_missed(self, manifest_id: int, after: datetime) -> None:
        """Take back that due times after this moment were missed."""
        with self._writing() as connection:
            connection.execute(
                delete(due).where(
                    due.c.manifest_id == manifest_id, due.c.state == "missed", due.c.due_at > _text(after)
                )
            )

    def dues(
        self, manifest_id: int, *, states: Sequence[DueState] | None = None, limit: int | None = None
    ) -> list[DueRecord]:
        """Due times of a manifest, the latest first; of these states, if any are given."""
        query = _query().where(due.c.manifest_id == manifest_id).order_by(due.c.due_at.desc()).limit(limit)
        if states is not None:
            query = query.where(due.c.state.in_(states))
        with self._reading() as connection:
            return [_due(found) for found in connection.execute(query)]

    def begin_due(self, one: DueRecord) -> DueRecord:
        """It is tried now: fixes which due time was carried out before it, and when it began."""
        with self._writing() as connection:
            before = (
                select(func.max(due.c.due_at))
                .where(
                    due.c.manifest_id == one.manifest_id,
                    due.c.due_at < _text(one.due_at),
                    due.c.state.in_(_CARRIED_OUT),
                )
                .scalar_subquery()
            )
            connection.execute(
                update(due)
                .where(due.c.id == one.id, due.c.begun_at.is_(None))
                .values(begun_at=iso(self._clock()), previous_at=connection.execute(select(before)).scalar())
            )
            found = _load(connection, one.id)
        failpoint("due.begun")
        return found

    def set_started(self, due_id: int, uid: str) -> None:
        """Its run is planned and on its way."""
        self._set(due_id, uid, state="started")
        failpoint("due.started")

    def set_ended(
        self, due_id: int, state: DueState, *, message: str = "", exit_code: int | None = None, uid: str = ""
    ) -> None:
        """What became of it."""
        ended_at = iso(self._clock())
        self._set(due_id, uid, state=state, ended_at=ended_at, exit_code=exit_code, message=message)
        failpoint("due.ended")

    def set_problem(self, due_id: int, message: str, exit_code: int) -> bool:
        """Record what keeps an open due time from going on. Whether that is news."""
        with self._writing() as connection:
            known = _load(connection, due_id)
            connection.execute(
                update(due).where(due.c.id == due_id).values(message=message, exit_code=exit_code)
            )
        return known.message != message

    def clear_problem(self, one: DueRecord) -> None:
        """It goes on."""
        if one.message:
            self._set(one.id, "", message="", exit_code=None)

    def _set(self, due_id: int, uid: str, **values: Any) -> None:
        if uid:
            values["run_id"] = select(run.c.id).where(run.c.uid == uid).scalar_subquery()
        with self._writing() as connection:
            connection.execute(update(due).where(due.c.id == due_id).values(values))


def _query() -> Any:
    return select(due, run.c.uid).join(run, run.c.id == due.c.run_id, isouter=True)


def _load(connection: Connection, due_id: int) -> DueRecord:
    return _due(connection.execute(_query().where(due.c.id == due_id)).one())


def _due(found: Row[Any]) -> DueRecord:
    return DueRecord(
        id=found.id,
        manifest_id=found.manifest_id,
        due_at=moment(found.due_at),
        previous_at=moment_or_none(found.previous_at),
        state=found.state,
        claimed_at=moment(found.claimed_at),
        claimed_by=found.claimed_by,
        begun_at=moment_or_none(found.begun_at),
        ended_at=moment_or_none(found.ended_at),
        run=found.uid,
        exit_code=found.exit_code,
        message=found.message,
    )


def _schedule(found: Row[Any]) -> ScheduleRecord:
    return ScheduleRecord(
        manifest_id=found.manifest_id, rule=found.rule, since=moment(found.since), problem=found.problem
    )


def _text(at: datetime) -> str:
    return iso(at.timestamp())
