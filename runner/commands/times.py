"""The moments a run is about: for its query as bound parameters, for its template as `run`.

A run that a schedule starts has them from its due time. One that a person starts repeats those of the last
due time, so that it asks nothing that was asked; a manifest that never came due has the one just past by
its schedule, and without a schedule the moment of the start. Where nothing ran before, the run before was
in 1970.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from runner.commands.workplace import Workplace
from runner.core import due
from runner.core.model import RunTimes, ScheduleSettings
from runner.core.wire import JsonError, decode_json

if TYPE_CHECKING:
    from runner.ledger import DueRecord, Ledger

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_GAP = timedelta(days=366 * 8)
NAMES = tuple(sorted(field.name for field in fields(RunTimes)))


def usual_times(workplace: Workplace, ledger: Ledger | None) -> RunTimes:
    """The moments of a run that no due time asked for."""
    schedule = workplace.manifest.schedule
    now = datetime.fromtimestamp(int(time.time()), UTC)
    if schedule is None:
        return _by_clock_of(None, now, EPOCH, now)
    last = _last_due(workplace, ledger)
    if last is not None:
        return _by_clock_of(schedule, last.due_at, last.previous_at, now)
    before = due.past(schedule, now - _LONGEST_GAP, now, 1)
    return _by_clock_of(schedule, before[0] if before else now, EPOCH, now)


def times_of_due(schedule: ScheduleSettings | None, one: DueRecord) -> RunTimes:
    """The moments of a due time that is carried out: the same however often it is tried."""
    return _by_clock_of(schedule, one.due_at, one.previous_at, one.begun_at or one.claimed_at)


def _last_due(workplace: Workplace, ledger: Ledger | None) -> DueRecord | None:
    manifest_id = ledger.find_manifest(workplace.manifest_path) if ledger is not None else None
    if ledger is None or manifest_id is None:
        return None
    return next(
        iter(ledger.schedules().dues(manifest_id, states=("started", "finished", "failed"), limit=1)), None
    )


def _by_clock_of(
    schedule: ScheduleSettings | None, scheduled: datetime, previous: datetime | None, started: datetime
) -> RunTimes:
    return RunTimes(
        scheduled_at=due.local(schedule, scheduled),
        previous_scheduled_at=due.local(schedule, previous or EPOCH),
        started_at=due.local(schedule, started.replace(microsecond=0)),
    )


# ---------------------------------------------------------------- for query, template and record


def as_parameters(times: RunTimes) -> dict[str, datetime]:
    """`$scheduled_at` and its like, in UTC."""
    return {name: getattr(times, name).astimezone(UTC) for name in NAMES}


def as_variables(times: RunTimes) -> dict[str, datetime]:
    """`run.scheduled_at` and its like, by the schedule's clock."""
    return {name: getattr(times, name) for name in NAMES}


def as_record(times: RunTimes) -> dict[str, str]:
    """What a run notes of them."""
    return {name: moment.isoformat() for name, moment in as_parameters(times).items()}


def recorded(inputs: str | None) -> dict[str, str]:
    """What a run has noted of them; empty where neither its query nor its template read any."""
    try:
        found: Any = decode_json(inputs or "")
    except JsonError:
        return {}
    times = found.get("times") if isinstance(found, dict) else None
    return dict(times) if isinstance(times, dict) else {}


def variables_of(noted: Mapping[str, str], timezone: str | None) -> dict[str, datetime]:
    """The template's `run` of an earlier run, as it was."""
    schedule = ScheduleSettings(cron="", timezone=timezone) if timezone is not None else None
    return {name: due.local(schedule, datetime.fromisoformat(text)) for name, text in noted.items()}
