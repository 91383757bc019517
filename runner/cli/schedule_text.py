"""What a tick did, and what is scheduled, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click

from runner.cli.texts import clean, clean_lines, counted
from runner.schedule.listing import ListedSchedule
from runner.schedule.reports import FailedManifest, TickReport

_WIDTH = 10
_WORDS = {"claimed": "to be started"}


def report_lines(report: TickReport, *, is_quiet: bool = False) -> Iterator[str]:
    """A line for everything that happened; quiet: only what went wrong."""
    if not is_quiet:
        for one in report.advanced:
            yield _line(
                "collected" if one.finished is not None else "under way", one.name, one.due_at, one.message
            )
        for skipped in report.skipped:
            yield _line("skipped", skipped.name, skipped.due_at, skipped.message)
        for missed in report.missed:
            yield _line("missed", missed.name, missed.due_at, missed.message)
        for started in report.started:
            yield _line("started", started.name, started.due_at, started.message)
    for failed in report.failed:
        yield from _failed(failed)
    if not is_quiet:
        yield _last_line(report)


def _line(word: str, name: str, due_at: datetime | None, message: str) -> str:
    due = f" {_moment(due_at)}" if due_at is not None else ""
    return f"{word:<{_WIDTH}}{clean(name)}{due}: {clean(message)}"


def _failed(one: FailedManifest) -> Iterator[str]:
    due = f" {_moment(one.due_at)}" if one.due_at is not None else ""
    head = click.style("error:", fg="red", bold=True)
    for line in clean_lines(one.message):
        yield f"{head} {clean(one.name)}{due}: {line}"
    if one.next_step:
        yield f"next:  {clean(one.next_step)}"


def _last_line(report: TickReport) -> str:
    under_way = f"{counted(report.open_runs, 'run')} under way"
    if report.next_due_at is None:
        return f"{under_way}; nothing is scheduled"
    return f"{under_way}; next due {_moment(report.next_due_at)}"


def _moment(moment: datetime) -> str:
    """`2026-11-27 02:00 UTC`, by the clock the moment has."""
    return f"{moment:%Y-%m-%d %H:%M %Z}"


def listed_lines(one: ListedSchedule) -> Iterator[str]:
    """A schedule in a few lines."""
    if one.problem:
        yield f"{clean(one.name)}  can't be read"
        yield from (f"  {line}" for line in clean_lines(one.problem))
    else:
        yield f"{clean(one.name)}  {clean(one.words)}"
    if one.last is not None:
        message = f": {clean(one.last.message)}" if one.last.message else ""
        yield f"  last  {_moment(one.last.due_at)}  {_WORDS.get(one.last.state, one.last.state)}{message}"
    elif not one.problem:
        yield "  last  never"
    if one.missed:
        yield f"        {counted(one.missed, 'due time')} missed since"
    for index, due_at in enumerate(one.next):
        yield f"  {'next' if index == 0 else '    '}  {due_at:%a} {_moment(due_at)}"
