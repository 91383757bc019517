"""Due times: both clock changes, what was missed, jitter, and expressions that say nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runner.core import due
from runner.core.model import ScheduleSettings


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def daily(cron: str = "30 1 * * *", **others: object) -> ScheduleSettings:
    return ScheduleSettings(**{"cron": cron, "timezone": "Europe/London", **others})  # type: ignore[arg-type]


def hourly(**others: object) -> ScheduleSettings:
    return ScheduleSettings(**{"cron": "0 * * * *", **others})  # type: ignore[arg-type]


def listed(schedule: ScheduleSettings, after: str, count: int) -> list[str]:
    """The next due times, in UTC."""
    return [f"{one:%m-%d %H:%M}" for one in due.upcoming(schedule, at(after), count)]


# ---------------------------------------------------------------- clock changes


def test_a_time_that_comes_twice_in_autumn_is_due_once_the_first_time() -> None:
    """2026-10-25: 01:30 BST is 00:30 UTC, 01:30 GMT is 01:30 UTC."""
    assert listed(daily(), "2026-10-24T00:00", 4) == [
        *("10-24 00:30", "10-25 00:30"),
        *("10-26 01:30", "10-27 01:30"),
    ]


@pytest.mark.parametrize("minutes", range(0, 240, 7))
def test_it_is_due_once_in_autumn_whenever_one_looks(minutes: int) -> None:
    """Also from within the hour that comes twice."""
    after = at("2026-10-25T00:30") + timedelta(minutes=minutes)
    later = due.upcoming(daily(), after, 1)[0]
    assert later == at("2026-10-26T01:30" if after < at("2026-10-26T01:30") else "2026-10-27T01:30")


def test_a_time_that_is_left_out_in_spring_is_due_right_after_the_gap() -> None:
    """2026-03-29: the clock goes from 01:00 GMT to 02:00 BST, which is 01:00 UTC; there is no 01:30."""
    assert listed(daily(), "2026-03-28T00:00", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


def test_two_times_that_are_left_out_are_due_once_together() -> None:
    assert listed(daily("15,45 1 * * *"), "2026-03-28T12:00", 3) == [
        *("03-29 01:00", "03-30 00:15", "03-30 00:45")
    ]


def test_every_half_hour_follows_the_time_that_goes_by() -> None:
    """A schedule with a star for its hour has two more due times in autumn, two fewer in spring."""
    schedule = daily("*/30 * * * *")
    for day, times in (("2026-10-25", 50), ("2026-03-29", 46), ("2026-06-01", 48)):
        noon = at(f"{day}T12:00")
        around = due.past(schedule, noon - timedelta(days=1), noon + timedelta(days=1), 200)
        assert sum(due.local(schedule, one).date().isoformat() == day for one in around) == times, day


def test_without_a_time_zone_utc_counts_and_has_no_changes() -> None:
    assert listed(ScheduleSettings(cron="30 1 * * *"), "2026-10-24T12:00", 2) == [
        "10-25 01:30",
        "10-26 01:30",
    ]


# ---------------------------------------------------------------- what was missed

THREE = ("2026-01-01T01:00", "2026-01-01T02:00", "2026-01-01T03:00")


def judged(schedule: ScheduleSettings, now: str) -> tuple[list[str], list[str]]:
    """What is started and what is missed of the due times after half past midnight."""
    verdict = due.judge(schedule, path="m.yaml", since=at("2026-01-01T00:30"), now=at(now))
    return [f"{one:%H:%M}" for one in verdict.start], [f"{one.due_at:%H:%M}" for one in verdict.missed]


def test_asleep_over_three_due_times() -> None:
    assert judged(hourly(), "2026-01-01T03:20") == (["03:00"], ["01:00", "02:00"])
    assert judged(hourly(missed="all"), "2026-01-01T03:20") == (["01:00", "02:00", "03:00"], [])
    assert judged(hourly(missed="none"), "2026-01-01T03:20") == ([], ["01:00", "02:00", "03:00"])


def test_missed_none_starts_what_came_a_moment_ago() -> None:
    assert judged(hourly(missed="none"), "2026-01-01T03:15") == (["03:00"], ["01:00", "02:00"])


def test_start_within_bounds_every_policy() -> None:
    assert judged(hourly(start_within_s=600), "2026-01-01T03:11") == ([], ["01:00", "02:00", "03:00"])
    assert judged(hourly(start_within_s=600), "2026-01-01T03:10") == (["03:00"], ["01:00", "02:00"])
    assert judged(hourly(missed="all", start_within_s=4800), "2026-01-01T03:20") == (
        *(["02:00", "03:00"], ["01:00"]),
    )
    assert judged(hourly(missed="none", start_within_s=7200), "2026-01-01T03:59") == (
        *(["03:00"], ["01:00", "02:00"]),
    )


def test_nothing_is_due_before_its_time() -> None:
    assert judged(hourly(), "2026-01-01T00:59") == ([], [])
    assert judged(hourly(), "2026-01-01T01:00") == (["01:00"], [])


def test_after_a_decade_only_the_last_thousand_count_and_nobody_waits() -> None:
    schedule = ScheduleSettings(cron="* * * * *", missed="all")
    verdict = due.judge(schedule, path="m.yaml", since=at("2016-01-01T00:00"), now=at("2026-01-01T00:00"))
    assert len(verdict.start) == due.MOST_MISSED
    assert verdict.start[-1] == at("2026-01-01T00:00")


def test_a_schedule_that_is_new_begins_with_the_due_time_of_a_moment_ago() -> None:
    schedule = ScheduleSettings(cron="0 2 * * *")
    for now, wanted in (("02:00", ["02:00"]), ("02:14", ["02:00"]), ("02:16", []), ("01:59", [])):
        moment = at(f"2026-01-01T{now}")
        since = due.first_cursor(schedule, moment, "m.yaml")
        start = due.judge(schedule, path="m.yaml", since=since, now=moment).start
        assert [f"{one:%H:%M}" for one in start] == wanted, now


# ---------------------------------------------------------------- jitter


def test_jitter_is_the_same_for_all_who_look_and_another_for_each_due_time() -> None:
    schedule = hourly(jitter_s=600)
    times = due.upcoming(schedule, at("2026-01-01T00:00"), 50)
    delays = [(due.starts_at(schedule, one, "m.yaml") - one).total_seconds() for one in times]
    assert delays == [(due.starts_at(schedule, one, "m.yaml") - one).total_seconds() for one in times]
    assert all(0 <= delay <= 600 for delay in delays)
    assert len(set(delays)) > 30
    assert delays != [(due.starts_at(schedule, one, "other.yaml") - one).total_seconds() for one in times]


def test_a_due_time_waits_for_its_jitter() -> None:
    schedule = hourly(jitter_s=600)
    (first,) = due.upcoming(schedule, at("2026-01-01T00:30"), 1)
    starts = due.starts_at(schedule, first, "m.yaml")
    assert starts > first, "the example needs a delay"
    since, a_second = at("2026-01-01T00:30"), timedelta(seconds=1)
    assert due.judge(schedule, path="m.yaml", since=since, now=starts - a_second).start == ()
    assert due.judge(schedule, path="m.yaml", since=since, now=starts).start == (first,)


def test_the_next_start_is_that_of_a_due_time_that_waits_or_of_the_next() -> None:
    schedule = hourly(jitter_s=600)
    (first, second) = due.upcoming(schedule, at("2026-01-01T00:30"), 2)
    starts = due.starts_at(schedule, first, "m.yaml")
    assert starts > first, "the example needs a delay"
    for now in (at("2026-01-01T00:30"), first, starts - timedelta(seconds=1)):
        assert due.next_start(schedule, now, "m.yaml") == starts
    assert due.next_start(schedule, starts, "m.yaml") == due.starts_at(schedule, second, "m.yaml")


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    "text",
    [
        *("", "* * * *", "0 0 2 * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8"),
        *("a * * * *", "*/0 * * * *", "5-1 * * * *", "1,,2 * * * *", "- * * * *", "0 0 30 2 *", "@daily"),
        *("* * * * 1#6", "* * * * L", "* * L-1 * *", "\u0663 * * * *", "1/2/3 * * * *"),
        *("*/90 * * * *", "0 */25 * * *", "0 0 */32 * *", "0 0 1 */13 *", "0 0 * * */8", "0,5-10/61 * * * *"),
    ],
)
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    with pytest.raises(due.BadCronError):
        due.check_cron(text)


@pytest.mark.parametrize(
    "text",
    [
        *("0 2 * * MON-FRI", "*/5 * * * *", "0 0 L * *", "0 9 * * 1#1", "0 0 29 2 *"),
        *("*/60 * * * *", "0 */24 * * *", "0 0 */31 * *"),
    ],
)
def test_what_cron_knows_is_known(text: str) -> None:
    due.check_cron(text)
    assert len(due.upcoming(ScheduleSettings(cron=text), at("2026-01-01T00:00"), 3)) == 3


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "..", "/etc/passwd", "Europe", "a\0b", "\udc80"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(due.BadTimezoneError):
        due.check_timezone(name)


def test_in_words() -> None:
    schedule = daily("17 2 * * 1-5")
    assert due.in_words(schedule) == "At 02:17 on Monday through Friday (Europe/London)"


def test_the_shortest_gap_is_that_of_the_closest_due_times() -> None:
    assert due.shortest_gap_s(ScheduleSettings(cron="0,10 2 * * *")) == 600
    assert due.shortest_gap_s(ScheduleSettings(cron="*/5 * * * *")) == 300
