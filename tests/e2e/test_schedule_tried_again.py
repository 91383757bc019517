"""A due time whose start fails before anything is sent: tried again until it starts, or is left."""

from __future__ import annotations

from typing import Any

import pytest

from runner.schedule.reports import TickReport
from tests.e2e.scheduled import Stage

pytestmark = pytest.mark.usefixtures("lent_duckdb")

FIRST, SECOND = "2026-01-01T02:00", "2026-01-02T02:00"


def without_dataset(stage: Stage, **keys: Any) -> None:
    """A schedule whose dataset is not there yet."""
    stage.manifest(**keys)
    (stage.folder / "nightly.jsonl").unlink()


def told(report: TickReport) -> list[tuple[int, bool]]:
    """Exit code of each failure, and whether it is news."""
    return [(one.exit_code, one.is_new) for one in report.failed]


def brought_to_its_end(stage: Stage, at: str) -> None:
    """As many ticks as one run needs."""
    stage.tick(f"{at}:30")
    stage.settle()
    stage.tick(f"{at}:40")


def test_a_dataset_that_comes_late_is_asked_by_the_tick_that_sees_it(stage: Stage) -> None:
    without_dataset(stage)
    report = stage.tick(FIRST)
    assert (told(report), report.started, report.open_runs) == ([(2, True)], (), 0)
    assert told(stage.tick("2026-01-01T02:01")) == [(2, False)]
    stage.rows("nightly", 3)
    stage.hold()
    report = stage.tick("2026-01-01T02:02")
    assert (report.failed, [one.due_at.hour for one in report.started]) == ((), [2])
    assert stage.ledger("SELECT state, message, exit_code FROM due") == [("started", "", None)]
    stage.release()
    stage.tick("2026-01-01T02:03")
    assert (stage.dues(), stage.statuses()) == ([("01-01 02:00", "finished")], {"succeeded": 3})
    assert set(stage.executed().values()) == {1}


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_a_run_by_hand_in_between_is_not_taken_for_the_due_times_own(stage: Stage, overlap: str) -> None:
    without_dataset(stage, schedule__overlap=overlap)
    stage.tick(FIRST)
    stage.rows("nightly", 6)
    stage.hold()
    assert stage.program("run", "nightly.yaml", "--limit", "1", "--detach")[0] == 75
    (stage.folder / "nightly.jsonl").rename(stage.folder / "aside.jsonl")
    assert [one.exit_code for one in stage.tick("2026-01-01T02:01").failed] == [2]
    assert stage.dues() == [("01-01 02:00", "claimed")]
    (stage.folder / "aside.jsonl").rename(stage.folder / "nightly.jsonl")
    stage.tick("2026-01-01T02:02")
    stage.release()
    for minute in (3, 4):
        stage.tick(f"2026-01-01T02:{minute:02}")
        stage.settle()
    assert (stage.dues(), stage.statuses()) == ([("01-01 02:00", "finished")], {"succeeded": 6})


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_with_all_missed_ones_none_is_lost_behind_one_that_never_started(stage: Stage, overlap: str) -> None:
    without_dataset(stage, schedule__overlap=overlap, schedule__missed="all")
    for day in (1, 2, 3, 4):
        report = stage.tick(f"2026-01-0{day}T02:00")
        assert (report.skipped, report.open_runs) == ((), 0)
    stage.rows("nightly", 3)
    for minute in range(1, 6):
        stage.tick(f"2026-01-04T02:{minute:02}")
        stage.settle()
    assert [state for _, state in stage.dues()] == ["finished"] * 4
    assert set(stage.executed().values()) == {1}


def test_one_that_is_killed_in_its_second_try_is_tried_once_more(stage: Stage) -> None:
    without_dataset(stage)
    stage.tick(FIRST)
    stage.rows("nightly", 3)
    stage.kill("commit.done", "2026-01-01T02:01")
    brought_to_its_end(stage, "2026-01-01T02:02")
    brought_to_its_end(stage, "2026-01-01T02:03")
    assert (stage.dues(), stage.statuses()) == ([("01-01 02:00", "finished")], {"succeeded": 3})
    assert set(stage.executed().values()) == {1}


@pytest.mark.parametrize("overlap", ["skip", "queue", "replace"])
def test_the_next_due_time_takes_the_place_of_one_that_never_started(stage: Stage, overlap: str) -> None:
    """It overlaps with nothing, and its problem is no news."""
    without_dataset(stage, schedule__overlap=overlap)
    stage.tick(FIRST)
    report = stage.tick(SECOND)
    assert (told(report), report.skipped) == ([(2, False)], ())
    assert stage.dues() == [("01-01 02:00", "failed"), ("01-02 02:00", "claimed")]
    stage.rows("nightly", 3)
    brought_to_its_end(stage, "2026-01-02T02:01")
    assert [state for _, state in stage.dues()] == ["failed", "finished"]


def test_where_all_are_made_up_for_each_is_carried_out(stage: Stage) -> None:
    without_dataset(stage, schedule__missed="all")
    stage.tick(FIRST)
    assert told(stage.tick(SECOND)) == [(2, False)]
    stage.rows("nightly", 3)
    brought_to_its_end(stage, "2026-01-02T02:01")
    brought_to_its_end(stage, "2026-01-02T02:02")
    assert stage.dues() == [("01-01 02:00", "finished"), ("01-02 02:00", "finished")]
    assert set(stage.executed().values()) == {1}


@pytest.mark.parametrize(
    ("keys", "late"),
    [({"schedule__start_within": "30m"}, "02:31"), ({"schedule__missed": "none"}, "02:16")],
    ids=["start_within", "missed none"],
)
def test_it_is_tried_no_longer_than_it_may_be_late(stage: Stage, keys: dict[str, str], late: str) -> None:
    without_dataset(stage, **keys)
    stage.tick(FIRST)
    stage.tick("2026-01-01T02:14")
    assert [state for _, state in stage.dues()] == ["claimed"]
    report = stage.tick(f"2026-01-01T{late}")
    assert (report.failed, len(report.skipped)) == ((), 1)
    assert "nightly.jsonl" in report.skipped[0].message
    assert [state for _, state in stage.dues()] == ["skipped"]


def test_a_refusal_by_the_budget_is_an_end(stage: Stage) -> None:
    prices = {"input_per_million": 1000, "output_per_million": 1000}
    stage.manifest(budget={"max_cost": 0.000001})
    manifest = stage.folder / "nightly.yaml"
    manifest.write_text(manifest.read_text().replace("  name: m\n", f"  name: m\n  prices: {prices}\n"))
    assert told(stage.tick(FIRST)) == [(2, True)]
    assert stage.tick("2026-01-01T02:01").failed == ()
    assert [state for _, state in stage.dues()] == ["failed"]


def test_a_run_that_is_being_replaced_is_not_taken_for_that_of_the_next_one(stage: Stage) -> None:
    """Its batch is still under way when the next one fails to start."""
    stage.manifest(schedule__overlap="replace")
    stage.hold()
    stage.tick(FIRST)
    (stage.folder / "nightly.jsonl").unlink()
    assert told(stage.tick(SECOND)) == [(2, True)]
    assert [state for _, state in stage.dues()] == ["replaced", "claimed"]
    stage.release()
    assert len(stage.tick("2026-01-02T02:01").advanced) == 1, "it is collected meanwhile"
    stage.rows("nightly", 4)
    brought_to_its_end(stage, "2026-01-02T02:02")
    brought_to_its_end(stage, "2026-01-02T02:03")
    assert [state for _, state in stage.dues()] == ["replaced", "finished"]
    assert stage.statuses() == {"succeeded": 4}


def test_the_list_says_what_keeps_it(stage: Stage) -> None:
    without_dataset(stage)
    code, _, _ = stage.program("schedule", "tick", "--quiet", at=FIRST)
    _, stdout, _ = stage.program("schedule", "list", at="2026-01-01T02:01")
    assert code == 2
    assert "  last  2026-01-01 02:00 UTC  to be started: " in stdout
