"""Two days in a minute: three manifests, datasets that grow and are edited, a kill in each hour, two tickers.

The clock is the test's: 48 hours and a bit, three ticks in each. Before one of the three a second ticker is
there, a process that is killed at a moment chosen by dice, half of the time with a third one beside it. In
the end the ledger says of every due time that it was carried out, and the server's witness that each request
was executed once, no matter who died when.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.scheduled import Stage, theatre

pytestmark = pytest.mark.usefixtures("lent_duckdb")

BEGIN = datetime(2026, 10, 24, tzinfo=UTC)
"""So the clock of London is set back in the middle: 01:30 comes twice on the 25th."""
HOURS = 48
SCHEDULES = {
    "often": ("0 */3 * * *", "UTC"),
    "nightly": ("30 1 * * *", "Europe/London"),
    "twice": ("15 6,18 * * *", "Asia/Kolkata"),
}
WANTED = {
    "often": [f"10-{24 + hour // 24} {hour % 24:02}:00" for hour in range(0, 49, 3)],
    "nightly": ["10-24 00:30", "10-25 00:30"],
    "twice": ["10-24 00:45", "10-24 12:45", "10-25 00:45", "10-25 12:45", "10-26 00:45"],
}
MINUTES = (1, 31, 46)
"""When the ticker ticks in each hour: right after anything can have come due."""
IDLE_POINTS, BUSY_POINTS = 3, 360
"""So many named points a tick meets that has nothing to do, and one that starts three runs."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with theatre(tmp_path, answers_itself=True) as house:
        yield house.stage()


class Datasets:
    """Rows that come and are edited, and what they were when."""

    def __init__(self, stage: Stage, dice: random.Random) -> None:
        self._stage = stage
        self._dice = dice
        self.rows = {name: {f"k{at}": f"{name}-{at}" for at in range(3)} for name in SCHEDULES}
        self.past = {name: [(BEGIN, dict(rows))] for name, rows in self.rows.items()}
        for name in SCHEDULES:
            self._write(name)

    def change(self, now: datetime) -> None:
        """In one of them a row comes, or one is another from now on."""
        name = self._dice.choice(list(SCHEDULES))
        rows = self.rows[name]
        key = f"k{len(rows)}" if self._dice.random() < 0.6 else self._dice.choice(list(rows))
        rows[key] = f"{name}-{key}-{now:%d-%H%M}"
        self.past[name].append((now, dict(rows)))
        self._write(name)

    def _write(self, name: str) -> None:
        self._stage.write_rows(name, [{"id": key, "text": text} for key, text in self.rows[name].items()])

    def between(self, name: str, start: datetime) -> list[dict[str, str]]:
        """What a dataset was from this moment on."""
        before = [rows for at, rows in self.past[name] if at <= start]
        return [before[-1], *(rows for at, rows in self.past[name] if at > start)]


def is_right(stage: Stage, datasets: Datasets, name: str, due_at: str) -> None:
    """The table of a due time whose run has come to its end: all rows of the dataset as it was at some moment
    since, each with its own answer."""
    table = stage.results(name)
    since = datetime.strptime(f"2026-{due_at}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert {key: row["text"] for key, row in table.items()} in datasets.between(name, since)
    assert all(row["_status"] == "succeeded" for row in table.values())
    assert all(row["text"] in row["_answer"] for row in table.values())


def came_due(now: datetime) -> bool:
    """Whether something came due at the tick before this moment."""
    return any(f"{now - timedelta(minutes=1):%m-%d %H:%M}" in wanted for wanted in WANTED.values())


@pytest.mark.timeout(600)
def test_every_due_time_of_two_days_is_carried_out_once_whoever_dies(stage: Stage) -> None:
    dice = random.Random(48)
    for name, (cron, timezone) in SCHEDULES.items():
        stage.manifest(name, cron=cron, schedule__missed="all", schedule__timezone=timezone)
    datasets = Datasets(stage, dice)
    stage.tick(f"{BEGIN - timedelta(minutes=30):%Y-%m-%dT%H:%M}")
    looked_at: set[tuple[str, str]] = set()
    for hour in range(HOURS + 1):
        times = [BEGIN + timedelta(hours=hour, minutes=minute) for minute in MINUTES]
        deadly = dice.choice([now for now in times if came_due(now)] or times)
        edited = dice.choice(times)
        for now in times:
            at = f"{now:%Y-%m-%dT%H:%M}"
            if now == edited:
                datasets.change(now)
            if now == deadly:
                kill(stage, dice, at, is_busy=came_due(now))
            assert [one.message for one in stage.tick(at).failed] == []
            looked_at |= look_at_tables(stage, datasets, looked_at)
    stage.settle()
    stage.tick(at)
    looked_at |= look_at_tables(stage, datasets, looked_at)
    assert looked_at == {(name, due_at) for name, wanted in WANTED.items() for due_at in wanted}
    for name, wanted in WANTED.items():
        assert stage.dues(name) == [(due_at, "finished") for due_at in wanted]
    executed = stage.executed()
    assert set(executed.values()) == {1}
    assert stage.ledger("SELECT count(*), sum(status = 1) FROM request") == [(executed.total(),) * 2]
    assert stage.deaths == HOURS + 1


def look_at_tables(stage: Stage, datasets: Datasets, before: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Right after each run, whoever brought it to its end. Gives the due times that ended since."""
    ended = {
        (name, due_at)
        for name in SCHEDULES
        for due_at, state in stage.dues(name)
        if state == "finished" and (name, due_at) not in before
    }
    for name, due_at in dict(sorted(ended)).items():  # the last one of each: its table is the one that stands
        is_right(stage, datasets, name, due_at)
    return ended


def kill(stage: Stage, dice: random.Random, at: str, *, is_busy: bool) -> None:
    """A tick that dies at some point, perhaps with another one beside it that leaves it less to do."""
    before, points = stage.deaths, BUSY_POINTS if is_busy else IDLE_POINTS
    with stage.dying(f"*:{dice.randint(1, points)}", at):
        if dice.random() < 0.5:
            assert [one.message for one in stage.tick(at).failed] == []
    if stage.deaths == before:
        with stage.dying(f"*:{dice.randint(1, IDLE_POINTS)}", at):
            pass
