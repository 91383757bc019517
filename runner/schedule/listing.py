"""`run schedule list`: each schedule in words, how it went last, and when it is due next. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.commands.options import AS_WRITTEN, ManifestOptions
from runner.core import due
from runner.core.model import ScheduleSettings
from runner.ledger import DueRecord
from runner.schedule.finding import Books, Found, check_targets, find

NEXT_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LastDue:
    """A due time and what became of it. `due_at` is by the schedule's clock; `run` is the run's uid."""

    due_at: datetime
    state: str
    run: str | None
    exit_code: int | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSchedule:
    """One manifest's schedule. Times are aware, by the schedule's clock.

    `problem` says why it can't be read; then `words` is empty and `next` too. `last` is the last due time
    that was not missed, `missed` those missed since.
    """

    manifest: str
    name: str
    words: str
    timezone: str
    last: LastDue | None
    missed: int
    next: tuple[datetime, ...]
    problem: str


def list_schedules(
    targets: Sequence[Path],
    *,
    environ: Mapping[str, str],
    now_s: float,
    bent: ManifestOptions = AS_WRITTEN,
) -> tuple[ListedSchedule, ...]:
    """The schedules of the targets' manifests, each `bent` alike. Raises InputError for a target that is not
    there, LedgerError."""
    now = datetime.fromtimestamp(now_s, UTC)
    with Books(writes=False) as books:
        check_targets(targets, books, environ)
        listed = (_listed(found, books, now) for found in find(targets, books, environ, bent))
        return tuple(one for one in listed if one is not None)


def _listed(found: Found, books: Books, now: datetime) -> ListedSchedule | None:
    schedule = found.manifest.schedule if found.manifest is not None else None
    if schedule is None and found.error is None:
        return None
    dues = _dues(found, books)
    told = [one for one in dues if one.state != "missed"]
    return ListedSchedule(
        manifest=str(found.path),
        name=found.manifest.name if found.manifest is not None else found.path.stem,
        words=due.in_words(schedule) if schedule is not None else "",
        timezone=schedule.timezone if schedule is not None else "",
        last=_last(schedule, told[0]) if told else None,
        missed=dues.index(told[0]) if told else len(dues),
        next=tuple(due.local(schedule, one) for one in due.upcoming(schedule, now, NEXT_SHOWN))
        if schedule is not None
        else (),
        problem=found.error.what if found.error is not None else "",
    )


def _dues(found: Found, books: Books) -> list[DueRecord]:
    ledger = books.known(found.place)
    manifest_id = ledger.find_manifest(found.place.relative(found.path)) if ledger is not None else None
    if ledger is None or manifest_id is None:
        return []
    return ledger.schedules().dues(manifest_id, limit=due.MOST_MISSED)


def _last(schedule: ScheduleSettings | None, one: DueRecord) -> LastDue:
    return LastDue(
        due_at=due.local(schedule, one.due_at),
        state=one.state,
        run=one.run,
        exit_code=one.exit_code,
        message=one.message,
    )
