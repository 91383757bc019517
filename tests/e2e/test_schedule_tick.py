"""Ticks with a clock that is set by hand: what is due is started once, and nothing else is."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta

import pytest

from runner.core import due
from runner.core.model import ScheduleSettings
from runner.ledger import hold, locate
from tests.e2e.scheduled import Stage

pytestmark = pytest.mark.usefixtures("lent_duckdb")

FIRST, SECOND, THIRD = "2026-01-01T02:00", "2026-01-02T02:00", "2026-01-03T02:00"
BEFORE = "2026-01-01T01:00"


def started(stage: Stage, at: str) -> int:
    """How many due times a tick starts."""
    return len(stage.tick(at).started)


# ---------------------------------------------------------------- one due time


def test_a_due_time_is_started_once_and_collected_by_a_later_tick(stage: Stage) -> None:
    stage.manifest()
    assert started(stage, BEFORE) == 0
    stage.hold()
    report = stage.tick(FIRST)
    assert [one.exit_code for one in report.started] == [75]
    assert report.open_runs == 1
    assert started(stage, "2026-01-01T02:01") == 0
    assert stage.dues() == [("01-01 02:00", "started")]
    stage.release()
    (advanced,) = stage.tick("2026-01-01T02:02").advanced
    assert advanced.finished is not None
    assert (advanced.run, advanced.finished.succeeded) == (report.started[0].run, 3)
    assert stage.dues() == [("01-01 02:00", "finished")]
    assert stage.statuses() == {"succeeded": 3}
    quiet = stage.tick("2026-01-01T02:03")
    assert (quiet.started, quiet.advanced, quiet.open_runs) == ((), (), 0)
    assert set(stage.executed().values()) == {1}


def test_the_next_due_time_asks_what_changed_and_no_more(stage: Stage) -> None:
    stage.manifest()
    stage.tick(FIRST)
    stage.settle()
    stage.tick("2026-01-01T02:05")
    stage.rows("nightly", 5)
    stage.tick("2026-01-01T12:00")
    assert len(stage.executed()) == 3
    stage.hold()
    stage.tick(SECOND)
    stage.release()
    (advanced,) = stage.tick("2026-01-02T02:05").advanced
    assert advanced.finished is not None
    assert advanced.finished.requests_sent == 2
    assert stage.statuses() == {"succeeded": 5}
    assert set(stage.executed().values()) == {1}


@pytest.mark.parametrize("point", ["due.claimed", "due.begun", "commit.done", "end.recorded"])
def test_a_tick_killed_anywhere_starts_its_due_time_once_all_the_same(stage: Stage, point: str) -> None:
    stage.manifest()
    stage.tick(BEFORE)
    stage.kill(point, FIRST)
    stage.tick("2026-01-01T02:01")
    stage.settle()
    stage.tick("2026-01-01T02:02")
    stage.tick("2026-01-01T02:03")
    assert stage.dues() == [("01-01 02:00", "finished")]
    assert stage.statuses() == {"succeeded": 3}
    assert set(stage.executed().values()) == {1}


def test_while_one_tick_looks_at_a_manifest_another_leaves_it_alone(stage: Stage) -> None:
    path = stage.manifest()
    stage.manifest("other")
    stage.tick(BEFORE)
    with hold(locate(str(path), {}).schedule_lock(path)):
        report = stage.tick(FIRST)
    assert [one.name for one in report.started] == ["other"]
    assert report.failed == ()
    assert started(stage, FIRST) == 1


def test_two_ticks_at_once_start_each_due_time_once(stage: Stage) -> None:
    for number in range(4):
        stage.manifest(f"job{number}")
    codes = []
    ticks = [
        threading.Thread(
            target=lambda: codes.append(stage.program("schedule", "tick", ".", at=FIRST, point="")[0])
        )
        for _ in range(3)
    ]
    for one in ticks:
        one.start()
    for one in ticks:
        one.join()
    assert codes == [0, 0, 0]
    stage.settle()
    stage.tick("2026-01-01T02:01")
    assert stage.ledger("SELECT count(*), count(DISTINCT manifest_id) FROM due") == [(4, 4)]
    assert len(stage.executed()) == 12
    assert set(stage.executed().values()) == {1}


def test_jitter_starts_it_later_and_always_at_the_same_moment(stage: Stage) -> None:
    schedule = ScheduleSettings(cron="0 2 * * *", jitter_s=3000)
    starts = due.starts_at(schedule, datetime.fromisoformat(f"{FIRST}Z"), "nightly.yaml")
    assert starts.minute > 0, "the example needs a delay"
    stage.manifest(schedule__jitter="50m")
    stage.tick(BEFORE)
    early = stage.tick(f"{starts - timedelta(seconds=1):%Y-%m-%dT%H:%M:%S}")
    assert (early.started, early.next_start_at) == ((), starts), "a loop looks again then"
    assert started(stage, f"{starts:%Y-%m-%dT%H:%M:%S}") == 1
    assert [due_at for due_at, _ in stage.dues()] == ["01-01 02:00"]


# ---------------------------------------------------------------- missed


@pytest.mark.parametrize(
    ("missed", "states"),
    [
        ("latest", ["missed", "missed", "finished"]),
        ("none", ["missed", "missed", "missed"]),
        ("all", ["finished", "finished", "finished"]),
    ],
)
def test_asleep_over_three_due_times(stage: Stage, missed: str, states: list[str]) -> None:
    stage.manifest(schedule__missed=missed)
    stage.tick(BEFORE)
    at = "2026-01-03T08:{:02}"
    report = stage.tick(at.format(0))
    assert len(report.missed) == states.count("missed")
    for minute in range(1, 8):
        stage.settle()
        stage.tick(at.format(minute))
    assert [state for _, state in stage.dues()] == states
    assert set(stage.executed().values()) <= {1}


@pytest.mark.parametrize("wrong", [["2026-01-09T01:00"], [FIRST, "2026-01-09T02:00"]])
def test_a_clock_that_was_days_ahead_costs_no_due_time(stage: Stage, wrong: list[str]) -> None:
    """Whether it was wrong when the schedule was first seen, or for one look in between."""
    stage.manifest()
    for at in wrong:
        stage.tick(at)
        stage.settle()
    stage.tick("2026-01-01T12:00")
    assert started(stage, SECOND) == 1
    assert started(stage, SECOND) == 0


def test_what_could_not_be_started_in_time_is_left(stage: Stage) -> None:
    stage.manifest(schedule__start_within="30m")
    stage.tick(BEFORE)
    report = stage.tick("2026-01-01T02:31")
    assert ["30m" in one.message for one in report.missed] == [True]
    assert stage.dues() == [("01-01 02:00", "missed")]
    assert stage.executed() == {}


# ---------------------------------------------------------------- overlaps


def running(stage: Stage, overlap: str, **keys: str) -> None:
    """The first due time is started, and its batch does not end."""
    stage.manifest(schedule__overlap=overlap, **keys)
    stage.hold()
    assert started(stage, FIRST) == 1


def test_overlap_skip_leaves_the_due_time_that_comes_during_a_run(stage: Stage) -> None:
    running(stage, "skip")
    assert len(stage.tick(SECOND).skipped) == 1
    stage.release()
    stage.tick("2026-01-02T02:05")
    assert stage.dues() == [("01-01 02:00", "finished"), ("01-02 02:00", "skipped")]
    assert started(stage, THIRD) == 1


def test_overlap_queue_starts_it_when_the_run_before_is_done(stage: Stage) -> None:
    running(stage, "queue")
    report = stage.tick(SECOND)
    assert (report.started, report.skipped) == ((), ())
    assert stage.dues() == [("01-01 02:00", "started"), ("01-02 02:00", "claimed")]
    stage.rows("nightly", 4)
    stage.release()
    report = stage.tick("2026-01-02T09:00")
    assert [one.due_at and one.due_at.day for one in report.advanced] == [1]
    assert [one.due_at.day for one in report.started] == [2]
    stage.settle()
    stage.tick("2026-01-02T09:01")
    assert stage.dues() == [("01-01 02:00", "finished"), ("01-02 02:00", "finished")]
    assert stage.statuses() == {"succeeded": 4}
    assert set(stage.executed().values()) == {1}


def test_what_waits_in_the_queue_longer_than_start_within_is_left(stage: Stage) -> None:
    running(stage, "queue", schedule__start_within="1h")
    stage.tick(SECOND)
    stage.release()
    report = stage.tick("2026-01-02T03:01")
    assert len(report.skipped) == 1
    assert stage.dues() == [("01-01 02:00", "finished"), ("01-02 02:00", "skipped")]


def test_overlap_replace_cancels_the_run_and_asks_what_it_had_not_finished(stage: Stage) -> None:
    running(stage, "replace")
    stage.rows("nightly", 4)
    report = stage.tick(SECOND)
    assert [one.due_at.day for one in report.started] == [2]
    assert len(stage.cancelled()) == 1
    stage.release()
    for minute in range(1, 6):
        stage.tick(f"2026-01-02T02:{minute:02}")
        stage.settle()
    assert stage.dues() == [("01-01 02:00", "replaced"), ("01-02 02:00", "finished")]
    assert stage.statuses() == {"succeeded": 4}


def test_a_replacement_that_is_killed_before_it_begins_still_replaces(stage: Stage) -> None:
    running(stage, "replace")
    stage.kill("due.claimed", SECOND)
    assert stage.dues() == [("01-01 02:00", "replaced"), ("01-02 02:00", "claimed")]
    assert [one.due_at.day for one in stage.tick("2026-01-02T02:01").started] == [2]
    assert len(stage.cancelled()) == 1


def test_a_run_that_outlives_its_window_is_collected_when_it_ends(stage: Stage) -> None:
    """Three due times go by; each is skipped, and the run that was on its way is not forgotten."""
    running(stage, "skip")
    for at in (SECOND, THIRD, "2026-01-04T02:00"):
        assert len(stage.tick(at).skipped) == 1
    stage.release()
    (advanced,) = stage.tick("2026-01-04T02:05").advanced
    assert advanced.due_at is not None
    assert advanced.due_at.day == 1
    assert [state for _, state in stage.dues()] == ["finished", *["skipped"] * 3]


def test_what_the_provider_let_expire_is_asked_again_within_the_run(stage: Stage) -> None:
    """The batch's own window: it says `expired` with nothing answered."""
    stage.manifest()
    stage.server.arm("says-expired", times=0)
    stage.hold()
    stage.tick(FIRST)
    for minute in range(1, 4):
        stage.tick(f"2026-01-01T02:{minute:02}")
    assert len(stage.batches()) == 2, "retry.attempts is 2"
    assert stage.dues()[0][1] == "finished"
    assert stage.ledger("SELECT exit_code FROM due") == [(3,)]


# ---------------------------------------------------------------- by hand beside it


def test_what_a_person_detached_is_collected_and_nothing_else_is_asked(stage: Stage) -> None:
    path = stage.manifest(cron=None)
    stage.hold()
    code, _, _ = stage.program("run", str(path), "--detach", "--limit", "2", "--yes")
    assert code == 75
    stage.release()
    (advanced,) = stage.tick(FIRST).advanced
    assert (advanced.due_at, advanced.finished and advanced.finished.succeeded) == (None, 2)
    assert advanced.exit_code == 0, "what a person left out is no row that waits"
    assert len(stage.executed()) == 2
    assert stage.statuses() == {"succeeded": 2, "pending": 1}


def test_an_edit_during_a_run_waits_for_the_next_due_time(stage: Stage) -> None:
    stage.manifest()
    stage.hold()
    stage.tick(FIRST)
    stage.rows("nightly", 4)
    (stage.folder / "nightly.j2").write_text("Be brief. {{ text }}")
    stage.release()
    (advanced,) = stage.tick("2026-01-01T02:05").advanced
    assert advanced.finished is not None
    assert len(stage.executed()) == 3
    assert len(stage.results()) == 3
    stage.tick(SECOND)
    stage.settle()
    stage.tick("2026-01-02T02:05")
    assert len(stage.executed()) == 7
    assert stage.statuses() == {"succeeded": 4}


def test_an_edit_of_model_and_schema_changes_nothing_of_the_table_of_the_run_under_way(stage: Stage) -> None:
    stage.manifest()
    stage.hold()
    stage.tick(FIRST)
    (stage.folder / "answer.json").write_text(
        json.dumps({"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]})
    )
    stage.manifest(output={"path": "nightly.results.jsonl", "schema": "answer.json"})
    stage.release()
    stage.tick("2026-01-01T02:05")
    assert stage.statuses() == {"succeeded": 3}
    assert "x" not in stage.results()["k0"]


# ---------------------------------------------------------------- manifests that change


def test_a_manifest_that_is_broken_is_told_once_and_the_others_go_on(stage: Stage) -> None:
    stage.manifest()
    stage.manifest("other")
    stage.tick(BEFORE)
    good = (stage.folder / "nightly.yaml").read_text()
    (stage.folder / "nightly.yaml").write_text(good.replace("dataset:", "datset:"))
    report = stage.tick(FIRST)
    assert [(one.name, one.exit_code, one.is_new) for one in report.failed] == [("nightly", 2, True)]
    assert "datset" in report.failed[0].message
    assert [one.name for one in report.started] == ["other"]
    assert [one.is_new for one in stage.tick("2026-01-01T02:01").failed] == [False]
    (stage.folder / "nightly.yaml").write_text(good)
    report = stage.tick("2026-01-01T05:00")
    assert report.failed == ()
    assert [(one.name, one.due_at.hour) for one in report.started] == [("nightly", 2)]


def test_a_manifest_that_is_deleted_during_a_run_is_told_until_it_is_back(stage: Stage) -> None:
    path = stage.manifest()
    stage.manifest("other")
    stage.hold()
    stage.tick(FIRST)
    text = path.read_text()
    path.unlink()
    report = stage.tick("2026-01-01T02:01")
    assert [(one.name, one.is_new) for one in report.failed] == [("nightly", True)]
    assert "on their way" in report.failed[0].message
    assert [one.name for one in report.advanced] == ["other"]
    assert [one.is_new for one in stage.tick("2026-01-01T02:02").failed] == [False]
    path.write_text(text)
    stage.release()
    stage.tick("2026-01-01T02:03")
    assert stage.dues() == [("01-01 02:00", "finished")]


def test_a_manifest_that_is_deleted_with_nothing_under_way_is_told_once(stage: Stage) -> None:
    path = stage.manifest()
    stage.tick(BEFORE)
    path.unlink()
    assert [one.message for one in stage.tick(FIRST).failed] == [f"{path}: the manifest is gone"]
    assert stage.tick("2026-01-01T02:01").failed == ()


def test_under_its_new_name_a_manifest_pays_for_nothing_again(stage: Stage) -> None:
    path = stage.manifest()
    stage.hold()
    stage.tick(FIRST)
    path.rename(stage.folder / "renamed.yaml")
    report = stage.tick("2026-01-01T12:00")
    assert [one.name for one in report.failed] == ["nightly"]
    stage.release()
    stage.tick(SECOND)
    stage.tick("2026-01-02T02:01")
    assert stage.dues("renamed") == [("01-02 02:00", "finished")]
    assert stage.dues() == [("01-01 02:00", "failed")]
    assert stage.statuses() == {"succeeded": 3}
    assert set(stage.executed().values()) == {1}


def test_after_a_rebuild_the_next_due_time_collects_what_was_under_way(stage: Stage) -> None:
    stage.manifest()
    assert started(stage, BEFORE) == 0
    stage.hold()
    assert started(stage, FIRST) == 1
    for path in (stage.folder / ".runner").glob("ledger.db*"):
        path.unlink()
    code, _, stderr = stage.program("rebuild", "nightly.yaml")
    assert code == 0, stderr
    assert stage.tick("2026-01-01T02:05").failed == ()
    stage.release()
    (again,) = stage.tick(SECOND).started
    assert again.finished is not None
    assert stage.statuses() == {"succeeded": 3}
    assert set(stage.executed().values()) == {1}


def test_a_schedule_that_is_edited_counts_from_then_on(stage: Stage) -> None:
    """14:00 of a day on which nobody had said 14:00 yet is not made up for."""
    stage.manifest()
    stage.tick(FIRST)
    stage.settle()
    stage.tick("2026-01-01T02:05")
    stage.manifest(cron="0 14 * * *")
    assert started(stage, "2026-01-01T15:00") == 0
    assert started(stage, "2026-01-02T02:00") == 0
    assert started(stage, "2026-01-02T14:00") == 1


def test_a_schedule_that_was_taken_out_for_a_while_makes_up_for_nothing(stage: Stage) -> None:
    stage.manifest()
    stage.tick(BEFORE)
    stage.manifest(cron=None)
    stage.tick(FIRST)
    stage.manifest()
    assert started(stage, "2026-01-05T12:00") == 0
    assert started(stage, "2026-01-06T02:00") == 1


def test_other_files_of_the_folder_are_none_of_its_business(stage: Stage) -> None:
    stage.manifest()
    (stage.folder / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (stage.folder / "torn.yaml").write_text("a: [1,\n")
    (stage.folder / "base.yaml").write_text("version: 1\nschedule: {cron: 0 2 * * *}\n")
    report = stage.tick(FIRST)
    assert (len(report.started), report.failed) == (1, ())


# ---------------------------------------------------------------- what is asked again


def asked_in_second_run(stage: Stage, reprocess: object) -> int:
    """Requests of the second due time; the first had three rows, of which the first one failed."""
    stage.manifest(schedule__reprocess=reprocess, retry={"attempts": 1})
    stage.model.statuses = [400]
    for at in (FIRST, "2026-01-01T02:01"):
        stage.tick(at)
        stage.settle()
    assert stage.statuses() == {"succeeded": 2, "failed": 1}
    before = stage.executed().total()
    stage.age_answers(60)
    stage.rows("nightly", 4)
    for at in (SECOND, "2026-01-02T02:01"):
        stage.tick(at)
        stage.settle()
    assert [state for _, state in stage.dues()] == ["finished", "finished"]
    return stage.executed().total() - before


@pytest.mark.parametrize(
    ("reprocess", "asked"),
    [("changed", 1), ("failed", 2), ("all", 4), ({"older_than": "30s"}, 3)],
)
def test_reprocess_says_what_is_asked_beside_new_rows(stage: Stage, reprocess: object, asked: int) -> None:
    assert asked_in_second_run(stage, reprocess) == asked


def test_old_answers_are_asked_again_where_nothing_else_moved(stage: Stage) -> None:
    stage.manifest(schedule__reprocess={"older_than": "30s"})
    for at in (FIRST, "2026-01-01T02:01"):
        stage.tick(at)
        stage.settle()
    stage.tick(SECOND)
    assert set(stage.executed().values()) == {1}
    stage.age_answers(60)
    for at in (THIRD, "2026-01-03T02:01"):
        stage.tick(at)
        stage.settle()
    assert set(stage.executed().values()) == {2}


def test_asking_all_again_is_paid_once_though_the_tick_is_killed(stage: Stage) -> None:
    """And though somebody collects by hand before the next tick carries the due time out again."""
    path = stage.manifest(schedule__reprocess="all")
    for at in (FIRST, "2026-01-01T02:01"):
        stage.tick(at)
        stage.settle()
    stage.age_answers(60)
    stage.kill("end.recorded", SECOND)
    stage.settle()
    assert stage.program("run", str(path), "--yes", "--quiet")[0] == 0
    for at in ("2026-01-02T02:01", "2026-01-02T02:02", "2026-01-02T02:03"):
        stage.tick(at)
        stage.settle()
    assert [state for _, state in stage.dues()] == ["finished", "finished"]
    assert set(stage.executed().values()) == {2}


def test_an_old_answer_is_asked_again_once_however_late_the_tick_goes_on(stage: Stage) -> None:
    path = stage.manifest(schedule__reprocess={"older_than": "30s"})
    for at in (FIRST, "2026-01-01T02:01"):
        stage.tick(at)
        stage.settle()
    stage.age_answers(60)
    stage.kill("end.recorded", SECOND)
    stage.settle()
    assert stage.program("run", str(path), "--yes", "--quiet")[0] == 0
    stage.age_answers(60)
    stage.age_begun_due(60)
    for at in ("2026-01-02T02:02", "2026-01-02T02:03"):
        stage.tick(at)
        stage.settle()
    assert [state for _, state in stage.dues()] == ["finished", "finished"]
    assert set(stage.executed().values()) == {2}


@pytest.mark.parametrize("then", ["a run by hand", "publish.recorded"])
def test_a_failed_row_is_asked_again_once_though_the_tick_is_killed(stage: Stage, then: str) -> None:
    """And though it failed again before the due time is carried out again."""
    path = stage.manifest(schedule__reprocess="failed", retry={"attempts": 1})
    for at in (FIRST, "2026-01-01T02:01"):
        stage.model.statuses = [400]
        stage.tick(at)
        stage.settle()
    stage.age_answers(60)
    stage.hold()  # so that the batch does not end within the tick that sends it
    stage.kill("end.recorded", SECOND)
    stage.release()
    stage.settle()
    if then == "a run by hand":
        assert stage.program("run", str(path), "--yes", "--quiet")[0] == 3
    else:
        stage.kill(then, "2026-01-02T02:01")
    for at in ("2026-01-02T02:02", "2026-01-02T02:03"):
        stage.tick(at)
        stage.settle()
    assert [state for _, state in stage.dues()] == ["finished", "finished"]
    assert sorted(stage.executed().values()) == [1, 1, 2]


# ---------------------------------------------------------------- the moments of a run


def test_a_query_asks_for_what_came_since_the_run_before(stage: Stage) -> None:
    query = (
        "SELECT * FROM dataset WHERE updated_at::TIMESTAMP > $previous_scheduled_at "
        "AND updated_at::TIMESTAMP <= $scheduled_at"
    )
    stage.manifest(dataset={"path": "nightly.jsonl", "key": "id", "query": query})
    times = ["2025-12-31T12:00:00", "2026-01-01T01:00:00", "2026-01-01T12:00:00", "2026-01-03T01:00:00"]
    rows = [{"id": f"k{at}", "text": f"row {at}", "updated_at": moment} for at, moment in enumerate(times)]
    stage.write_rows("nightly", rows)
    asked = []
    for day in ("01-01", "01-02", "01-03"):
        stage.tick(f"2026-{day}T02:00")
        stage.settle()
        stage.tick(f"2026-{day}T02:01")
        asked.append(sorted(stage.results()))
    assert asked == [["k0", "k1"], ["k2"], ["k3"]]
    assert set(stage.executed().values()) == {1}


def test_a_missed_night_is_part_of_the_next_one_that_is_carried_out(stage: Stage) -> None:
    stage.manifest()
    stage.tick(FIRST)
    stage.settle()
    stage.tick("2026-01-01T02:01")
    stage.tick("2026-01-04T08:00")
    found = stage.ledger("SELECT due_at, previous_at FROM due WHERE begun_at IS NOT NULL ORDER BY due_at")
    assert [(due_at[:10], (previous or "")[:10]) for due_at, previous in found] == [
        *(("2026-01-01", ""), ("2026-01-04", "2026-01-01"))
    ]


def test_a_template_with_the_due_time_is_asked_once_for_each_due_time(stage: Stage) -> None:
    path = stage.manifest(schedule__timezone="Europe/London", cron="30 0 * * *")
    (stage.folder / "nightly.j2").write_text("{{ run.scheduled_at.date() }}: {{ text }}")
    code, stdout, stderr = stage.program("validate", str(path))
    assert code == 0
    assert "reads run.scheduled_at: every due time asks all rows again" in stdout + stderr
    stage.tick("2026-07-01T23:00")
    stage.kill("commit.done", "2026-07-01T23:30")
    for minute in (31, 32, 33):
        stage.tick(f"2026-07-01T23:{minute}")
        stage.settle()
    assert set(stage.executed().values()) == {1}
    assert len(stage.executed()) == 3
    code, stdout, stderr = stage.program("explain", str(path), "k0", "--json")
    assert json.loads(stdout)["prompt"][0]["content"] == "2026-07-02: nightly 0", "by the clock of London"
    code, stdout, _ = stage.program("run", str(path), "--json", "--yes")
    assert json.loads(stdout.strip().split("\n")[-1])["requests_sent"] == 0, "by hand it is the same night"
    stage.tick("2026-07-02T23:30")
    stage.settle()
    stage.tick("2026-07-02T23:31")
    assert len(stage.executed()) == 6


def test_a_moment_that_is_none_is_a_mistake_at_its_place(stage: Stage) -> None:
    path = stage.manifest()
    (stage.folder / "nightly.j2").write_text("{{ text }}\n{{ run.schedule_at }}")
    code, _, stderr = stage.program("validate", str(path))
    assert code == 2
    assert "nightly.j2:2" in stderr
    assert "did you mean `scheduled_at`?" in stderr


def test_a_column_named_run_stays_a_column(stage: Stage) -> None:
    path = stage.manifest(cron=None)
    stage.rows("nightly", 2, run="ten miles")
    (stage.folder / "nightly.j2").write_text("{{ text }} {{ run }}")
    code, stdout, stderr = stage.program("validate", str(path))
    assert (code, "does not use" in stdout + stderr) == (0, False)
    assert "asks all rows again" not in stdout + stderr
    stage.program("run", str(path), "--yes", "--quiet")
    _, stdout, _ = stage.program("explain", str(path), "k0", "--json")
    assert json.loads(stdout)["prompt"][0]["content"] == "nightly 0 ten miles"


# ---------------------------------------------------------------- the command line


def test_the_command_says_what_happened(stage: Stage) -> None:
    stage.manifest()
    stage.hold()
    code, stdout, stderr = stage.program("schedule", "tick", at=FIRST)
    assert (code, stdout) == (0, "")
    assert "started   nightly 2026-01-01 02:00 UTC: under way" in stderr
    stage.release()
    code, stdout, _ = stage.program("schedule", "tick", "--json", at="2026-01-01T02:01")
    told = json.loads(stdout)
    assert (code, told["format_version"], told["exit_code"]) == (0, 1, 0)
    assert told["advanced"][0]["finished"]["succeeded"] == 3
    assert told["next_due_at"].startswith("2026-01-02T02:00")


def test_the_exit_code_is_that_of_what_went_wrong(stage: Stage) -> None:
    stage.manifest()
    stage.model.status = 400
    stage.hold()
    code, _, _ = stage.program("schedule", "tick", at=FIRST)
    stage.release()
    later, _, stderr = stage.program("schedule", "tick", "--quiet", at="2026-01-01T02:01")
    assert (code, later) == (0, 3)
    assert "error: nightly 2026-01-01 02:00 UTC: 0 of 3 rows answered, 3 failed" in stderr
    (stage.folder / "nightly.yaml").write_text("schedule: {cron: 0 2 * * *}\nversion: 2\n")
    code, _, stderr = stage.program("schedule", "tick", "--quiet", at="2026-01-01T02:02")
    assert code == 2
    assert "nightly.yaml:2:10" in stderr
    code, _, stderr = stage.program("schedule", "tick", "nowhere.yaml", at="2026-01-01T02:02")
    assert (code, "no such file or folder" in stderr) == (2, True)


def test_the_list_says_what_is_due_when(stage: Stage) -> None:
    stage.manifest(schedule__timezone="Europe/London", cron="17 2 * * 1-5")
    stage.manifest("plain", cron=None)
    code, stdout, _ = stage.program("schedule", "list", at="2026-03-27T12:00")
    assert code == 0
    assert stdout.split("\n") == [
        "nightly  At 02:17 on Monday through Friday (Europe/London)",
        "  last  never",
        "  next  Mon 2026-03-30 02:17 BST",
        "        Tue 2026-03-31 02:17 BST",
        "        Wed 2026-04-01 02:17 BST",
        "        Thu 2026-04-02 02:17 BST",
        "        Fri 2026-04-03 02:17 BST",
        "",
    ]
    stage.program("schedule", "tick", at="2026-03-30T01:17")
    _, stdout, _ = stage.program("schedule", "list", "--json", at="2026-03-30T01:20")
    (listed,) = json.loads(stdout)["schedules"]
    assert listed["last"]["state"] in ("started", "finished")
    assert listed["last"]["due_at"] == "2026-03-30T02:17:00+01:00"
    assert len(listed["next"]) == 5


def test_the_list_says_of_no_schedule_that_it_never_ran_where_the_ledger_is_damaged(stage: Stage) -> None:
    stage.manifest()
    (stage.folder / ".runner" / "ledger.db").write_bytes(b"no database")
    code, stdout, stderr = stage.program("schedule", "list", at=FIRST)
    assert (code, stdout) == (1, "")
    assert "the file is no database" in stderr
    assert "run rebuild" in stderr


def test_a_due_time_that_empties_a_full_table_is_told_in_the_report(stage: Stage) -> None:
    stage.manifest()
    stage.tick(FIRST)
    stage.settle()
    stage.tick("2026-01-01T02:05")
    nothing = "SELECT * FROM dataset WHERE id = 'none'"
    stage.manifest(dataset={"path": "nightly.jsonl", "key": "id", "query": nothing})
    code, stdout, stderr = stage.program("schedule", "tick", "--json", at=SECOND)
    (begun,) = json.loads(stdout)["started"]
    (told,) = begun["warnings"]
    assert "the dataset has no rows, so the table will be empty; the one before has 3 rows" in told
    assert (code, told in stderr) == (0, True)


def test_a_manifest_of_the_folder_whose_schedule_is_misspelt_is_reported(stage: Stage) -> None:
    """It is not silently one without a schedule."""
    path = stage.manifest(cron=None, shedule={"cron": "0 2 * * *"})
    (stage.folder / "compose.yaml").write_text("version: 1\nschedules: {cron: '0 2 * * *'}\n")
    (failed,) = stage.tick(FIRST).failed
    assert (failed.manifest, failed.exit_code) == (str(path), 2)
    assert "shedule: unknown key; did you mean 'schedule'?" in failed.message
    _, stdout, _ = stage.program("schedule", "list", at=FIRST)
    assert "nightly  can't be read" in stdout
