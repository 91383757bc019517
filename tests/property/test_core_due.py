"""Due times over any expression, zone and pace of looking: each comes up once, for all who look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from runner.core import due
from runner.core.model import ScheduleSettings

MINUTE = timedelta(minutes=1)
CHANGES = (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC))

minutes = st.sampled_from(["0", "30", "*/10", "5,35", "59", "*"])
hours = st.sampled_from(["*", "1", "0,1,2", "*/3", "23", "1-2"])
days = st.sampled_from(["* * *", "* * 0", "* * 1-5", "*/2 * *"])
zones = st.sampled_from(["UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])


@st.composite
def schedules(draw: st.DrawFn, missed: str = "latest") -> ScheduleSettings:
    cron = f"{draw(minutes)} {draw(hours)} {draw(days)}"
    return ScheduleSettings(cron=cron, timezone=draw(zones), missed=missed)


@st.composite
def moments(draw: st.DrawFn) -> datetime:
    """A moment in the days around a clock change, by the second."""
    return draw(st.sampled_from(CHANGES)) + timedelta(seconds=draw(st.integers(-90_000, 172_800)))


@given(schedule=schedules(), start=moments())
def test_due_times_ascend_and_lie_after_the_moment(schedule: ScheduleSettings, start: datetime) -> None:
    times = due.upcoming(schedule, start, 8)
    assert all(earlier < later for earlier, later in zip((start, *times), times, strict=False))


@given(schedule=schedules(), start=moments(), data=st.data())
def test_the_next_due_time_is_the_same_from_anywhere_before_it(
    schedule: ScheduleSettings, start: datetime, data: st.DataObject
) -> None:
    (wanted,) = due.upcoming(schedule, start, 1)
    before_s = int((wanted - start).total_seconds())
    looked = start + timedelta(seconds=data.draw(st.integers(0, max(before_s - 1, 0))))
    assert due.upcoming(schedule, looked, 1) == (wanted,)


@given(schedule=schedules(missed="all"), start=moments(), gaps=st.lists(st.integers(1, 400), max_size=12))
def test_whatever_the_pace_of_looking_each_due_time_is_started_once(
    schedule: ScheduleSettings, start: datetime, gaps: list[int]
) -> None:
    """As a ticker does it: from the last due time that was claimed, up to now."""
    cursor, now = start, start
    started: list[datetime] = []
    for gap in gaps:
        now += gap * MINUTE
        verdict = due.judge(schedule, path="m.yaml", since=cursor, now=now)
        started += verdict.start
        cursor = max(cursor, *verdict.start, cursor)
    assert started == due.past(schedule, start, now, 10_000)


@given(
    schedule=schedules(),
    missed=st.sampled_from(["latest", "none", "all"]),
    within=st.none() | st.integers(1, 20_000),
    start=moments(),
    minutes_later=st.integers(0, 2000),
)
def test_every_due_time_that_came_is_either_started_or_missed(
    schedule: ScheduleSettings, missed: str, within: int | None, start: datetime, minutes_later: int
) -> None:
    now = start + minutes_later * MINUTE
    bent = ScheduleSettings(
        cron=schedule.cron, timezone=schedule.timezone, missed=missed, start_within_s=within
    )
    verdict = due.judge(bent, path="m.yaml", since=start, now=now)
    told = sorted([*verdict.start, *(one.due_at for one in verdict.missed)])
    assert told == due.past(bent, start, now, due.MOST_MISSED)
    assert len(verdict.start) <= 1 or missed == "all"
    assert all((now - one).total_seconds() <= (within or 1e9) for one in verdict.start)


@given(schedule=schedules(), start=moments(), span=st.integers(0, 5000), limit=st.integers(1, 50))
def test_the_last_ones_are_those_of_all(
    schedule: ScheduleSettings, start: datetime, span: int, limit: int
) -> None:
    until = start + span * MINUTE
    assert due.past(schedule, start, until, limit) == due.past(schedule, start, until, 100_000)[-limit:]
