"""Due times in the ledger: claimed once, started one at a time, remembered as they were begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from runner.errors import LedgerError
from runner.ledger import Claim, DueRecord, Ledger
from runner.ledger.engine import writing_engine
from runner.ledger.schema import migrate, version_of
from tests.contract.ledger_factories import Clock, Project, place_in, run_start

NIGHT = datetime(2026, 1, 1, 2, tzinfo=UTC)
HOST = "here"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    opened = Project.open(tmp_path)
    yield opened
    opened.ledger.close()


def night(number: int) -> datetime:
    return NIGHT + timedelta(days=number)


def claimed(project: Project, *numbers: int) -> list[DueRecord]:
    claims = [Claim(due_at=night(number)) for number in numbers]
    return project.ledger.schedules().claim(project.manifest_id, claims, HOST)


def started(project: Project, one: DueRecord) -> None:
    """This due time has a run."""
    schedules = project.ledger.schedules()
    uid = uuid4().hex
    project.ledger.start_run(run_start(uid, project.manifest_id))
    schedules.begin_due(one)
    schedules.set_started(one.id, uid)


def states(project: Project) -> list[str]:
    found = project.ledger.schedules().dues(project.manifest_id)
    return [one.state for one in reversed(found)]


def test_a_due_time_is_claimed_by_the_first_who_sees_it(project: Project) -> None:
    assert [one.due_at for one in claimed(project, 0, 1)] == [night(0), night(1)]
    assert [one.due_at for one in claimed(project, 0, 1, 2)] == [night(2)]
    assert states(project) == ["claimed"] * 3
    assert project.ledger.schedules().last_due_at(project.manifest_id) == night(2)


def test_another_manifest_has_due_times_of_its_own(project: Project) -> None:
    claimed(project, 0)
    assert len(claimed(project.beside("other"), 0)) == 1


def test_the_database_itself_takes_no_due_time_twice(project: Project) -> None:
    claimed(project, 0)
    copy = (
        "INSERT INTO due (manifest_id, due_at, state, claimed_at, claimed_by, message) "
        "SELECT manifest_id, due_at, 'claimed', claimed_at, 'there', '' FROM due"
    )
    with (
        closing(sqlite3.connect(project.ledger.place.folder / "ledger.db")) as other,
        pytest.raises(sqlite3.IntegrityError, match="UNIQUE"),
    ):
        other.execute(copy)


def test_one_due_time_of_a_manifest_is_started_at_a_time(project: Project) -> None:
    first, second = claimed(project, 0, 1)
    started(project, first)
    with pytest.raises(LedgerError, match="rule of the ledger"):
        started(project, second)
    project.ledger.schedules().set_ended(first.id, "finished", exit_code=0)
    started(project, second)
    assert states(project) == ["finished", "started"]


def test_when_it_began_and_what_ran_before_stay_what_they_are(tmp_path: Path) -> None:
    clock = Clock()
    project = Project.open(tmp_path, clock=clock)
    schedules = project.ledger.schedules()
    first, second, third = claimed(project, 0, 1, 2)
    started(project, first)
    schedules.set_ended(first.id, "finished", exit_code=0)
    schedules.set_ended(second.id, "failed", message="x", exit_code=2)
    begun = schedules.begin_due(third)
    assert (begun.previous_at, begun.begun_at) == (night(0), begun.claimed_at)
    clock.now_s += 3600
    assert schedules.begin_due(third) == begun
    project.ledger.close()


def test_what_replaces_a_run_ends_it_in_the_same_moment(project: Project) -> None:
    (first,) = claimed(project, 0)
    started(project, first)
    schedules = project.ledger.schedules()
    new = schedules.claim(project.manifest_id, [Claim(due_at=night(1))], HOST, replaced=[first.id])
    assert (len(new), states(project)) == (1, ["replaced", "claimed"])
    again = schedules.claim(project.manifest_id, [Claim(due_at=night(1))], HOST, replaced=[new[0].id])
    assert (again, states(project)) == ([], ["replaced", "claimed"]), "who comes second replaces nothing"


def test_left_due_times_say_why(project: Project) -> None:
    schedules = project.ledger.schedules()
    claims = [Claim(due_at=night(0), state="missed", message="asleep"), Claim(due_at=night(1))]
    schedules.claim(project.manifest_id, claims, HOST)
    schedules.end(project.manifest_id, "no schedule any more")
    found = [(one.state, one.message) for one in schedules.dues(project.manifest_id)]
    assert found == [("skipped", "no schedule any more"), ("missed", "asleep")]


def test_trouble_is_news_once_for_as_long_as_it_lasts(project: Project) -> None:
    schedules = project.ledger.schedules()
    noted = [
        schedules.note_problem(project.manifest_id, text, NIGHT)
        for text in ("", "broken", "broken", "worse", "", "broken")
    ]
    assert noted == [False, True, False, True, False, True]


def test_a_ledger_of_the_first_version_is_brought_up_to_date_with_all_it_knows(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    place.prepare()
    engine = writing_engine(place.url, foreign_keys=False)
    migrate(engine, target="0001")
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO manifest (path, name) VALUES ('job.yaml', 'job')")
    assert version_of(engine) == "0001"
    engine.dispose()
    with Ledger.open(place) as ledger:
        (known,) = ledger.manifests()
        assert (known.path, ledger.schedules().all()) == ("job.yaml", [])
        assert len(ledger.schedules().claim(known.id, [Claim(due_at=NIGHT)], HOST)) == 1
