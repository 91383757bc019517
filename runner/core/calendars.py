"""A cron expression in the words of other schedulers: systemd's calendar events, and the plainest cron.

Pure. The expression is one that `core.due` has checked, and cronsim has read it, so that what is written here
is what is due there: fields are sets of numbers, and where both days are named the rule is Debian's (either,
unless one of the two begins with a star). What can't be said in the other language is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_MONDAY_TO_FRIDAY = frozenset({1, 2, 3, 4, 5})
_EVERY_DAY = frozenset(range(1, 32))
_EVERY_WEEKDAY = frozenset(range(7))


class UntranslatableError(ValueError):
    """The other language has no words for this expression. The text says for what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Days:
    """Days of a month: numbers from its beginning, or from its end (`from_end`), on these weekdays."""

    numbers: frozenset[int]
    weekdays: frozenset[int]
    from_end: bool = False


# ---------------------------------------------------------------- systemd


def on_calendar(cron: str, timezone: str) -> tuple[str, ...]:
    """`OnCalendar=` values that elapse, taken together, when the expression is due (systemd.time(7)).

    Clock changes are systemd's own then: a time of day that is left out or comes twice may elapse at another
    moment than cron's. Raises UntranslatableError.
    """
    parsed = _parsed(cron)
    months = _listed(parsed.months, range(1, 13), "..")
    time = f"{_listed(parsed.hours, range(24), '..')}:{_listed(parsed.minutes, range(60), '..')}:00"
    events = []
    for days in _days_of(parsed):
        weekdays = "" if days.weekdays == _EVERY_WEEKDAY else f"{_named(days.weekdays)} "
        between = "~" if days.from_end else "-"
        numbers = _listed(days.numbers, range(1, 32), "..")
        events.append(f"{weekdays}*-{months}{between}{numbers} {time} {timezone}")
    return tuple(events)


def _days_of(parsed: CronSim) -> list[_Days]:
    """The days on which the expression is due, as alternatives."""
    of_month, of_week = list(_month_days(parsed.days)), list(_week_days(parsed.weekdays))
    if not parsed.day_and:
        return of_month + of_week
    both = [_both(one, other) for one in of_month for other in of_week]
    found = [days for days in both if days.numbers and days.weekdays]
    if not found:
        raise UntranslatableError("no day is on both of its days")
    return found


def _month_days(days: Iterable[int]) -> Iterable[_Days]:
    numbers = frozenset(day for day in days if day > 0)
    if numbers:
        yield _Days(numbers=numbers, weekdays=_EVERY_WEEKDAY)
    if CronSim.LAST in days:
        yield _Days(numbers=frozenset({1}), weekdays=_EVERY_WEEKDAY, from_end=True)
    if CronSim.LAST_WEEKDAY in days:
        # The last day of the month; or the Friday before it, where that is a Saturday or a Sunday.
        yield _Days(numbers=frozenset({1}), weekdays=_MONDAY_TO_FRIDAY, from_end=True)
        yield _Days(numbers=frozenset({2, 3}), weekdays=frozenset({5}), from_end=True)


def _week_days(items: Iterable[int | tuple[int, int]]) -> Iterable[_Days]:
    weekdays = frozenset(item % 7 for item in items if isinstance(item, int))
    if weekdays:
        yield _Days(numbers=_EVERY_DAY, weekdays=weekdays)
    for item in items:
        if isinstance(item, tuple):
            weekday, nth = item
            is_last = nth == CronSim.LAST
            first = 1 if is_last else 7 * (nth - 1) + 1
            numbers = frozenset(range(first, min(first + 7, 32)))
            yield _Days(numbers=numbers, weekdays=frozenset({weekday % 7}), from_end=is_last)


def _both(one: _Days, other: _Days) -> _Days:
    """Days that are in both. Numbers from the two ends of a month can't be compared."""
    weekdays = one.weekdays & other.weekdays
    if one.from_end == other.from_end:
        return _Days(numbers=one.numbers & other.numbers, weekdays=weekdays, from_end=one.from_end)
    at_end, at_start = (one, other) if one.from_end else (other, one)
    if at_start.numbers != _EVERY_DAY:
        raise UntranslatableError("it counts days from both ends of the month")
    return _Days(numbers=at_end.numbers, weekdays=weekdays, from_end=True)


def _named(weekdays: Collection[int]) -> str:
    """`Mon..Fri`, `Mon,Wed`, with the week beginning on Monday as systemd has it."""
    order = sorted((day - 1) % 7 for day in weekdays)
    return ",".join(
        f"{_WEEKDAYS[(run[0] + 1) % 7]}..{_WEEKDAYS[(run[-1] + 1) % 7]}"
        if len(run) > 2
        else ",".join(_WEEKDAYS[(day + 1) % 7] for day in run)
        for run in _runs(order)
    )


def _listed(numbers: Collection[int], every: range, between: str) -> str:
    """`*`, or numbers of two digits with runs drawn together."""
    if set(numbers) == set(every):
        return "*"
    return ",".join(
        f"{run[0]:02d}{between}{run[-1]:02d}" if len(run) > 2 else ",".join(f"{number:02d}" for number in run)
        for run in _runs(sorted(numbers))
    )


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


# ---------------------------------------------------------------- plain cron


def plain_cron(cron: str) -> str:
    """The expression as every cron reads it: stars, steps over stars, numbers, Sunday as 0.

    Raises UntranslatableError for days counted from the end and for numbered weekdays.
    """
    parsed = _parsed(cron)
    minute, hour, day, month, weekday = cron.upper().split()
    if any(number < 0 for number in parsed.days):
        raise UntranslatableError(f"only some crons know '{day}' as a day of the month")
    weekdays = {item % 7 for item in parsed.weekdays if isinstance(item, int)}
    if any(isinstance(item, tuple) for item in parsed.weekdays):
        raise UntranslatableError(f"only some crons know '{weekday}' as a day of the week")
    return " ".join(
        (
            _field(minute, parsed.minutes),
            _field(hour, parsed.hours),
            _field(day, parsed.days),
            _field(month, parsed.months),
            _field(weekday, weekdays),
        )
    )


def _field(text: str, numbers: Collection[int]) -> str:
    """A star stays: whether a day's field begins with one decides how the two are joined."""
    if text == "*" or (text.startswith("*/") and text[2:].isdigit()):
        return text
    if text.startswith("*"):
        raise UntranslatableError(f"only some crons know '{text}'")
    runs = _runs(sorted(numbers))
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


# ---------------------------------------------------------------- looking in between


def in_between(cron: str, minutes: int) -> str:
    """A plain expression that comes true every so many minutes (a divisor of 60), away from the schedule's
    own first minute, so that two calls don't meet where one will do."""
    first = (min(_parsed(cron).minutes) + minutes // 2) % minutes
    if minutes == 60:
        return f"{first} * * * *"
    return f"{first}-59/{minutes} * * * *" if first else f"*/{minutes} * * * *"


def _parsed(cron: str) -> CronSim:
    return CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))
