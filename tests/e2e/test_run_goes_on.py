"""A run that was cut off, and nothing was edited since: the same command brings it to its end and plans
nothing. Wherever a plan would do more than that, it is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.failpoints import VARIABLE
from tests.fault.run_factories import (
    EXIT_STILL_RUNNING,
    all_well,
    executed,
    named,
    project_of,
    rows_of,
    watch,
)
from tests.project_factory import Done, Project, finish

ROWS = 4
KILLED = -9


def killed_at(project: Project, point: str) -> Done:
    project.environ[VARIABLE] = point
    done = project.run()
    del project.environ[VARIABLE]
    assert done.code == KILLED, (done.stdout, done.stderr)
    return done


def went_on(first: Done, then: Done) -> bool:
    """Whether the second process carried the first one's run on; else it must have planned its own."""
    is_same: bool = first.event("started")["run"] == then.event("started")["run"]
    has_planned = any(event["event"] == "planned" for event in then.events)
    assert is_same is not has_planned
    return is_same


@pytest.mark.parametrize(
    "point",
    [
        *("create.intended", "create.recorded", "poll.landed", "collect.begins"),
        *("finish.committed", "publish.begins", "publish.unrecorded", "publish.recorded", "end.begins"),
    ],
)
def test_what_was_cut_off_goes_on_as_it_was_planned(tmp_path: Path, point: str) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = killed_at(project, point)
    assert project.ledger("SELECT state FROM run") == [("running",)]
    then = project.run()
    assert then.code == 0, then.stderr
    assert went_on(first, then)
    assert then.event("finished")["requests_sent"] == (ROWS if point == "commit.done" else 0), (
        "by this process"
    )
    assert project.ledger("SELECT state, exit_code, requests_sent, succeeded FROM run") == [
        ("finished", 0, ROWS, ROWS)
    ]
    all_well(project, rows_of(ROWS))
    assert len(project.witness.creates()) == 1


def test_a_run_may_be_cut_off_again_and_again(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = killed_at(project, "create.intended")
    for point in (
        "resume.recorded",
        "create.landed",
        "resume.recorded",
        "poll.landed",
        "collect.begins",
        "end.begins",
    ):
        killed_at(project, point)
    assert went_on(first, project.run())
    assert project.ledger("SELECT state FROM run") == [("finished",)]
    all_well(project, rows_of(ROWS))


def edited_template(project: Project) -> None:
    project.write_template("Say {{ text }}.")


def edited_dataset(project: Project) -> None:
    project.write_rows([*rows_of(ROWS), {"id": "more", "text": "another"}])


def edited_manifest(project: Project) -> None:
    project.manifest["allow_failures"] = "50%"
    project.write_manifest()


@pytest.mark.parametrize("edit", [edited_template, edited_dataset, edited_manifest])
@pytest.mark.parametrize("point", ["create.landed", "collect.begins", "publish.begins"])
def test_after_an_edit_it_is_planned_anew(
    tmp_path: Path, point: str, edit: Callable[[Project], None]
) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = killed_at(project, point)
    edit(project)
    then = project.run()
    assert then.code == 0, then.stderr
    assert not went_on(first, then)
    assert {row["_status"] for row in project.results()} == {"succeeded"}
    assert set(executed(project).values()) == {1}


@pytest.mark.parametrize("options", [("--refresh",), ("--limit", "3"), ("--only", "failed")])
def test_a_run_that_is_asked_for_more_or_less_is_planned(tmp_path: Path, options: tuple[str, ...]) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = killed_at(project, "collect.begins")
    assert not went_on(first, project.run(*options))


def test_rows_that_the_first_run_left_out_are_planned(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = project.run("--limit", "2", "--detach")
    assert first.code == EXIT_STILL_RUNNING
    assert not went_on(first, project.run())
    all_well(project, rows_of(ROWS))


def test_a_failure_that_may_be_repeated_is_planned(tmp_path: Path) -> None:
    retry = {"attempts": 2, "backoff": {"initial": "20ms", "max": "20ms"}}
    project = project_of(tmp_path / "p", ROWS, token="[[local:fail 503]]", retry=retry)
    first = killed_at(project, "retry.begins")
    assert not went_on(first, project.run())
    assert set(executed(project).values()) == {2}


@pytest.mark.parametrize("point", ["commit.done", "upload.intended", "upload.recorded"])
def test_what_was_not_sent_is_planned(tmp_path: Path, point: str) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=2)
    first = killed_at(project, point)
    assert not went_on(first, project.run())
    all_well(project, rows_of(ROWS))


def test_a_refresh_that_was_cut_off_before_it_was_sent_is_not_sent_by_a_plain_run(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    assert project.run().code == 0
    project.environ[VARIABLE] = "commit.done"
    assert project.run("--refresh").code == KILLED
    del project.environ[VARIABLE]
    assert project.run().event("finished")["requests_sent"] == 0
    assert set(executed(project).values()) == {1}


def test_a_run_that_failed_is_planned(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = killed_at(project, "collect.begins")
    (snapshot,) = (project.folder / ".runner" / "snapshots").iterdir()
    snapshot.write_bytes(snapshot.read_bytes()[:-100])
    failed = project.run()
    assert failed.code not in (0, KILLED)
    assert went_on(first, failed)
    assert not went_on(failed, project.run())
    all_well(project, rows_of(ROWS))


def test_a_foreign_file_in_the_place_of_the_table_is_told_before_anything_else(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    first = killed_at(project, "collect.begins")
    table = project.folder / "results.jsonl"
    table.write_text("mine\n")
    refused = project.run()
    assert refused.code == 2
    assert "not a table of this program" in refused.stderr
    table.unlink()
    assert went_on(first, project.run())
    all_well(project, rows_of(ROWS))


def test_a_foreign_file_that_appears_during_the_run_costs_no_answer_and_nobody_says_nothing_was_sent(
    tmp_path: Path,
) -> None:
    project = project_of(tmp_path / "p", ROWS, token="[[local:slow 1]]")
    process = project.start()
    assert watch(process, named("batch_created")) is not None
    table = project.folder / "results.jsonl"
    table.write_text("mine\n")
    refused = finish(process)
    assert refused.code == 2
    assert "not a table of this program" in refused.stderr
    assert "every answer is kept" in refused.stderr
    assert "nothing was sent" not in refused.stderr
    assert table.read_text() == "mine\n"
    table.unlink()
    assert project.run().code == 0
    assert set(executed(project).values()) == {1}


def test_a_run_that_can_not_connect_is_as_it_was(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS, token="[[local:slow 1]]")
    assert project.run("--detach").code == EXIT_STILL_RUNNING
    project.state.rename(project.folder / "elsewhere")
    project.state.write_text("no folder")
    assert project.run().code not in (0, KILLED)
    assert project.ledger("SELECT state, exit_code FROM run") == [("detached", EXIT_STILL_RUNNING)]


def test_a_template_that_reads_the_clock_is_planned(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    project.write_template("{{ text }} at {{ run.scheduled_at }}")
    first = killed_at(project, "collect.begins")
    assert not went_on(first, project.run())


def test_what_a_person_cancelled_is_asked_again_by_the_run_that_goes_on(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS, token="[[local:slow 1]]")
    first = project.run("--detach")
    cancelled = project.call("cancel", str(project.manifest_path))
    assert cancelled.code == 0, cancelled.stderr
    then = project.run()
    assert went_on(first, then)
    assert {row["_status"] for row in project.results()} == {"succeeded"}
