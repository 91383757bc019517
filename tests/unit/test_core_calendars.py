"""A cron expression in other schedulers' words is due when the expression is, or it is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.calendars import UntranslatableError, in_between, on_calendar, plain_cron
from runner.core.due import BadCronError, check_cron, upcoming
from runner.core.model import ScheduleSettings

EVENTS = [
    ("17 2 * * 1-5", ["Mon..Fri *-*-* 02:17:00"]),
    ("*/15 * * * *", ["*-*-* *:00,15,30,45:00"]),
    ("0 9-17 * * mon,wed", ["Mon,Wed *-*-* 09..17:00:00"]),
    ("0 22 * jan-mar,12 7", ["Sun *-01..03,12-* 22:00:00"]),
    ("0 0 13 * 5", ["*-*-13 00:00:00", "Fri *-*-* 00:00:00"]),  # either day, as in Debian's cron
    ("0 0 */16 * 5", ["Fri *-*-01,17 00:00:00"]),  # both, where one begins with a star
    ("0 9 L * *", ["*-*~01 09:00:00"]),
    ("30 8 LW * *", ["Mon..Fri *-*~01 08:30:00", "Fri *-*~02,03 08:30:00"]),
    ("0 12 * * 5#2", ["Fri *-*-08..14 12:00:00"]),
    ("0 12 * * 1#5", ["Mon *-*-29..31 12:00:00"]),
    ("0 12 * * 5L", ["Fri *-*~01..07 12:00:00"]),
    ("0 0 L * */2", ["Tue,Thu,Sat,Sun *-*~01 00:00:00"]),
]


@pytest.mark.parametrize(("cron", "events"), EVENTS)
def test_systemd_is_told_in_its_own_words(cron: str, events: list[str]) -> None:
    assert on_calendar(cron, "Europe/London") == tuple(f"{event} Europe/London" for event in events)


@pytest.mark.parametrize(("cron", "_events"), EVENTS)
def test_systemd_reads_them_as_they_are_meant(cron: str, _events: list[str]) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("this machine has no systemd-analyze; what they mean is tried without it below")
    found: set[datetime] = set()
    for event in on_calendar(cron, "Europe/London"):
        shown = subprocess.run(
            [tool, "calendar", "--iterations=12", "--base-time=2026-11-01 00:00:00", event],
            env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        times = re.findall(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", shown)
        found.update(datetime.fromisoformat(time).replace(tzinfo=UTC) for time in times)
    schedule = ScheduleSettings(cron=cron, timezone="Europe/London")
    assert sorted(found)[:12] == list(upcoming(schedule, datetime(2026, 11, 1, tzinfo=UTC), 12))


# ---------------------------------------------------------------- any expression


@st.composite
def _fields(draw: st.DrawFn, low: int, high: int) -> str:
    number = st.integers(low, high)
    one = draw(number)
    other = draw(st.integers(one, high))
    step = draw(st.integers(1, high))
    forms = ["*", f"*/{step}", f"{one}", f"{one}-{other}", f"{one}-{other}/{step}", f"{one},{other}"]
    return draw(st.sampled_from(forms))


CRONS = st.tuples(_fields(0, 59), _fields(0, 23), _fields(1, 31), _fields(1, 12), _fields(0, 7)).map(" ".join)
START = datetime(2027, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=45)


def is_cron(text: str) -> bool:
    try:
        check_cron(text)
    except BadCronError:
        return False
    return True


def due_in_span(cron: str) -> list[datetime]:
    found = upcoming(ScheduleSettings(cron=cron), START - timedelta(minutes=1), 400)
    return [due for due in found if due < START + SPAN]


def numbers(text: str, every: range) -> set[int]:
    """What `*` or `01,03..05` stands for."""
    if text == "*":
        return set(every)
    ends = [[int(end) for end in part.split("..")] for part in text.split(",")]
    return {number for pair in ends for number in range(pair[0], pair[-1] + 1)}


WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def elapses(event: str) -> Iterator[datetime]:
    """The times of a calendar event of the forms that are written here; systemd.time(7) by hand."""
    *weekdays, date, time, _zone = event.split()
    named = [
        range(WEEK.index(ends[0]), WEEK.index(ends[-1]) + 1)
        for part in (weekdays[0].split(",") if weekdays else ["Mon..Sun"])
        for ends in [part.split("..")]
    ]
    found = re.fullmatch(r"\*-(.+?)-(.+)", date)
    assert found is not None, event
    months, days = numbers(found[1], range(1, 13)), numbers(found[2], range(1, 32))
    hours, minutes = (
        numbers(part, range(size)) for part, size in zip(time.split(":")[:2], (24, 60), strict=True)
    )
    day = START
    while day < START + SPAN:
        if day.month in months and day.day in days and any(day.weekday() in part for part in named):
            yield from (day.replace(hour=h, minute=m) for h in sorted(hours) for m in sorted(minutes))
        day += timedelta(days=1)


@settings(max_examples=40)
@given(CRONS.filter(is_cron))
def test_calendar_events_elapse_when_the_expression_is_due(cron: str) -> None:
    due = due_in_span(cron)
    found = sorted({time for event in on_calendar(cron, "UTC") for time in elapses(event)})
    assert found[: len(due)] == due
    assert len(found) == len(due) or len(due) == 400


@settings(max_examples=40)
@given(CRONS.filter(is_cron))
def test_plain_cron_is_due_when_the_expression_is(cron: str) -> None:
    plain = plain_cron(cron)
    assert due_in_span(plain) == due_in_span(cron)
    assert re.fullmatch(r"[*/0-9, -]+", plain)
    assert "7" not in plain.split()[4].replace("/7", "")  # Sunday is 0: not all know it by 7


@pytest.mark.parametrize("cron", ["0 9 L * *", "0 9 LW * *", "0 9 * * 5L", "0 9 * * 5#2", "0 9 *,5 * *"])
def test_what_plain_cron_has_no_words_for_is_refused(cron: str) -> None:
    with pytest.raises(UntranslatableError, match=r"^only some crons know '"):
        plain_cron(cron)


@pytest.mark.parametrize(
    ("cron", "minutes", "between"),
    [
        ("17 2 * * *", 10, "2-59/10 * * * *"),
        ("5 2 * * *", 10, "*/10 * * * *"),
        ("0 2 * * *", 10, "5-59/10 * * * *"),
        ("0 2 * * *", 60, "30 * * * *"),
        ("0 2 * * *", 1, "*/1 * * * *"),
    ],
)
def test_looks_in_between_keep_away_from_the_due_minute(cron: str, minutes: int, between: str) -> None:
    assert in_between(cron, minutes) == between
    times = upcoming(ScheduleSettings(cron=between), START, 3)
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(minutes=minutes)}
