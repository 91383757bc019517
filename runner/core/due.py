"""When a schedule is due: cron expressions, time zones, clock changes, and what to do about what was missed.

Pure: the moment comes in, due times come out. The home of cronsim, which knows what Debian's cron does when
the clock is changed: a time of day that comes twice is due the first time, one that is left out is due at the
first moment after the gap; a schedule with `*` for its hour or minute follows the time that really goes by.

Due times are aware UTC datetimes, strictly ascending, on whole minutes. The moment at which one may be
started lies up to `jitter` later (`starts_at`), and depends on nothing but the manifest's path and the due
time: all who look come to the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from hashlib import sha256
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from runner.core.model import ScheduleSettings

ON_TIME_S = 900.0
"""So late a due time may be noticed and still count as on time, where `start_within` says nothing else: for
`missed: none`, and for the due time just before a schedule was first seen."""
MOST_MISSED = 1_000
"""Of more due times than this that nobody looked at, only the last ones are told or carried out."""
_FIELDS = 5
_STEPPED = (
    ("minute", 60, "hour", "; step in hours, such as 0 */2 * * *"),
    ("hour", 24, "day", "; step in days, such as 0 2 */2 * *"),
    ("day-of-month", 31, "month", "; step in months, such as 0 2 1 */2 *"),
    ("month", 12, "year", ""),
    ("day-of-week", 7, "week", ""),
)
"""Of each field: its name, how many values it has, in what, and how one steps beyond that."""
_GAPS_LOOKED_AT = 32
_NEAR = 3


class BadCronError(ValueError):
    """A cron expression that says nothing, or something else than it seems to; the text says what is wrong
    with it. `hint`: what to write, where that differs from what any expression needs."""

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class BadTimezoneError(ValueError):
    """No such time zone. `near` are names like it."""

    def __init__(self, near: tuple[str, ...]) -> None:
        super().__init__("is not a known time zone")
        self.near = near


# ---------------------------------------------------------------- checks


def check_cron(text: str) -> None:
    """Raises BadCronError where the expression is wrong, never comes true, or has a step that is longer than
    its field: that comes with each first value, so `*/90` with each hour."""
    fields = len(text.split())
    if fields != _FIELDS:
        raise BadCronError(f"has {fields} fields, not five")
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise BadCronError(f"its {str(error).removeprefix('Bad ')} is wrong") from error
    except StopIteration:
        raise BadCronError("never comes true") from None
    for field, (name, count, whole, instead) in zip(text.split(), _STEPPED, strict=True):
        for step in re.findall("/([0-9]+)", field):
            if int(step) > count:
                what = f"its {name} steps by {step}, and there are {count} in each {whole}"
                raise BadCronError(what, hint=f"steps begin anew with each {whole}{instead}")


def check_timezone(name: str) -> None:
    """Raises BadTimezoneError with near matches."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise BadTimezoneError(_near_timezones(name)) from None


def _near_timezones(name: str) -> tuple[str, ...]:
    """Names that differ by case and blanks alone, that end so (`Paris`), or that are alike."""
    wanted = name.strip().replace(" ", "_").casefold()
    known = {zone.casefold(): zone for zone in sorted(available_timezones())}
    if wanted in known:
        return (known[wanted],)
    ends = [zone for folded, zone in known.items() if folded.rpartition("/")[2] == wanted]
    alike = [known[one] for one in get_close_matches(wanted, known, n=_NEAR, cutoff=0.7)]
    return tuple(dict.fromkeys([*ends, *alike]))[:_NEAR]


def shortest_gap_s(schedule: ScheduleSettings) -> float:
    """The shortest time between two of its due times, of those around both clock changes of a year too."""
    starts = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3, 10))
    return min(
        (later - earlier).total_seconds()
        for start in starts
        for earlier, later in pairwise(upcoming(schedule, start, _GAPS_LOOKED_AT))
    )


# ---------------------------------------------------------------- due times


def due_times(schedule: ScheduleSettings, after: datetime) -> Iterator[datetime]:
    """All due times after this moment, without end but for an expression that has one."""
    last = after.astimezone(UTC)
    # From a moment that comes twice the walk may begin with the first of the two: that is over.
    for local in CronSim(schedule.cron, after.astimezone(ZoneInfo(schedule.timezone))):
        due = local.astimezone(UTC)
        if due > last:
            last = due
            yield due


def upcoming(schedule: ScheduleSettings, after: datetime, count: int) -> tuple[datetime, ...]:
    """The next `count` due times after this moment."""
    return tuple(islice(due_times(schedule, after), count))


def past(schedule: ScheduleSettings, after: datetime, until: datetime, limit: int) -> list[datetime]:
    """The last `limit` due times after `after`, up to and including `until`.

    Looked for backwards, in longer and longer spans: a clock that was decades behind costs no minute of
    counting.
    """
    span = timedelta(hours=1)
    while True:
        start = max(after, until - span) if until - after > span else after
        found = []
        for due in due_times(schedule, start):
            if due > until:
                break
            found.append(due)
        if len(found) >= limit or start == after:
            return found[-limit:]
        span *= 8


def starts_at(schedule: ScheduleSettings, due: datetime, path: str) -> datetime:
    """When a due time may be started: later by a share of `jitter` that looks like chance, and is not."""
    seconds = int(schedule.jitter_s)
    if not seconds:
        return due
    digest = sha256(f"{path}\n{due.isoformat()}".encode("utf-8", "surrogateescape")).digest()
    return due + timedelta(seconds=int.from_bytes(digest[:8]) % (seconds + 1))


def next_start(schedule: ScheduleSettings, now: datetime, path: str) -> datetime | None:
    """The next moment at which a due time, come or to come, may be started; None where there is none."""
    after = now - timedelta(seconds=schedule.jitter_s)
    starts = (starts_at(schedule, one, path) for one in due_times(schedule, after))
    return next((one for one in starts if one > now), None)


def local(schedule: ScheduleSettings | None, moment: datetime) -> datetime:
    """The same moment by the clock on the wall of the schedule's time zone; without one, UTC."""
    return moment.astimezone(ZoneInfo(schedule.timezone) if schedule is not None else UTC)


def in_words(schedule: ScheduleSettings) -> str:
    """`At 02:00 on Monday through Friday (Europe/London)`."""
    return f"{CronSim(schedule.cron, datetime(2026, 1, 1, tzinfo=UTC)).explain()} ({schedule.timezone})"


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A due time that is not carried out, and why."""

    due_at: datetime
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What has come due: `start` in this order, and leave `missed`."""

    start: tuple[datetime, ...]
    missed: tuple[Missed, ...]


def first_cursor(schedule: ScheduleSettings, now: datetime, path: str) -> datetime:
    """From where a schedule counts that is seen for the first time: from now, or from just before the last
    due time where that was a moment ago (`ON_TIME_S`), so that a job which something else starts on the
    minute does not let its first night go by."""
    late = timedelta(seconds=ON_TIME_S)
    recent = past(schedule, now - late, now, 1)
    return recent[0] - timedelta(seconds=1) if recent and starts_at(schedule, recent[0], path) <= now else now


def judge(schedule: ScheduleSettings, *, path: str, since: datetime, now: datetime) -> Verdict:
    """What to do about the due times after `since` that have come by `now`.

    `latest`: of several the last is started. `none`: the last one, if it came a moment ago. `all`: each of
    them. What is older than `start_within` is missed whatever `missed` says.
    """
    come = _come(schedule, path, since, now)
    if not come:
        return Verdict(start=(), missed=())
    within_s = bound_s(schedule)
    start: list[datetime] = []
    missed: list[Missed] = []
    for due in come:
        late_s = (now - starts_at(schedule, due, path)).total_seconds()
        if schedule.missed != "all" and due != come[-1]:
            missed.append(Missed(due_at=due, why="nobody looked before the next due time came"))
        elif within_s is not None and late_s > within_s:
            missed.append(Missed(due_at=due, why=f"noticed {_span(late_s)} late; {_bound(schedule)}"))
        else:
            start.append(due)
    return Verdict(start=tuple(start), missed=tuple(missed))


def bound_s(schedule: ScheduleSettings) -> float | None:
    """How late a due time may be started for the first time; None where nothing says."""
    if schedule.start_within_s is None and schedule.missed == "none":
        return ON_TIME_S
    return schedule.start_within_s


def _come(schedule: ScheduleSettings, path: str, since: datetime, now: datetime) -> list[datetime]:
    """In order; what follows one that must still wait for its jitter waits with it."""
    come = past(schedule, since, now, MOST_MISSED)
    ready = next((index for index, due in enumerate(come) if starts_at(schedule, due, path) > now), len(come))
    return come[:ready]


def _bound(schedule: ScheduleSettings) -> str:
    if schedule.start_within_s is not None:
        return f"start_within is {_span(schedule.start_within_s)}"
    return f"missed is none, which allows {_span(ON_TIME_S)} unless start_within says more"


def _span(seconds: float) -> str:
    """`6h`, `1h 30m`, `45s`."""
    whole = round(seconds)
    parts = [(whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    shown = [f"{count}{unit}" for count, unit in parts if count][:2]
    return " ".join(shown) or "0s"
