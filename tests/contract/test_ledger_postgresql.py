"""The ledger on a real PostgreSQL: whole runs, kills, and the recipe's facts. Skipped where there is none."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import ledger as ledger_room
from runner.core.model import Status
from runner.core.states import held
from runner.errors import LedgerError
from runner.ledger import Ledger, LedgerPlace, locate, postgresql
from runner.ledger.bulk import Bulk
from runner.ledger.engine import database_file, reading_engine, writing_engine
from runner.ledger.faults import LedgerBusyError
from runner.ledger.opening import shown
from runner.ledger.urls import read_url, url_digest
from tests.contract.ledger_factories import (
    Clock,
    Project,
    failed,
    place_in,
    succeeded,
    to_send,
    unsendable,
    waiting,
)
from tests.fault.run_factories import complete, executed, project_of, rows_of, until_done
from tests.localserver_process import eventually
from tests.postgresql_server import (
    PASSWORD,
    NoServerError,
    PostgresServer,
    running_postgresql,
    why_not,
)
from tests.project_factory import Project as WholeProject
from tests.security.artefacts import files_with, pieces


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if reason := why_not():
        pytest.skip(reason)
    try:
        with running_postgresql() as running:
            yield running
    except NoServerError as error:
        pytest.skip(str(error))


def place_of(folder: Path, url: str) -> LedgerPlace:
    folder.mkdir(exist_ok=True)
    return dataclasses.replace(place_in(folder), url=url)


def refused(place: LedgerPlace) -> LedgerError:
    with pytest.raises(LedgerError) as caught:
        Ledger.open(place)
    return caught.value


# ---------------------------------------------------------------- whole runs


def project_on(folder: Path, url: str, rows: int) -> WholeProject:
    project = project_of(folder, rows)
    project.environ["RUNNER_LEDGER"] = url
    return project


def test_a_run_a_run_without_work_and_an_edit(server: PostgresServer, tmp_path: Path) -> None:
    project = project_on(tmp_path / "p", server.create("whole"), 4)
    done = [project.run(), project.run()]
    assert [one.code for one in done] == [0, 0]
    assert len(project.witness.executions()) == 4
    rows = rows_of(4)
    rows[1] = {"id": "k1", "text": "edited"}
    project.write_rows(rows)
    done += [project.run(), project.call("status"), project.call("explain", str(project.manifest_path), "k1")]
    assert [one.code for one in done] == [0] * 5, done
    complete(project, rows)
    assert len(project.witness.executions()) == 5
    assert set(executed(project).values()) == {1}
    said = "".join(one.stdout + one.stderr for one in done).encode()
    assert [piece for piece in pieces(PASSWORD) if piece in said] == []
    assert files_with(PASSWORD, project.folder) == []
    assert not (project.folder / ".runner" / "ledger.db").exists()
    assert server.asked("whole", "SELECT key, status FROM results ORDER BY position") == [
        (f"k{number}", "succeeded") for number in range(4)
    ]


@pytest.mark.parametrize("point", ["commit.before", "create.answered"])
def test_a_killed_run_goes_on_and_nothing_is_asked_twice(
    server: PostgresServer, tmp_path: Path, point: str
) -> None:
    project = project_on(tmp_path / "p", server.create(f"killed_{point.replace('.', '_')}"), 3)
    project.environ["RUNNER_FAILPOINT"] = point
    assert project.run().code == -9
    del project.environ["RUNNER_FAILPOINT"]
    until_done(project)
    complete(project, rows_of(3))
    assert set(executed(project).values()) == {1}


# ---------------------------------------------------------------- the same as with SQLite


def told(project: Project) -> list[Any]:
    """A story with every kind of row and outcome, and what the ledger says of it."""
    rows = [to_send(0, "a", line=0), to_send(1, "b", line=1), to_send(2, "c", line=2)]
    rows += [waiting(3, "d"), unsendable(4, "e"), waiting(5, "again", request="a", standing="unasked")]
    (first,) = project.commit(rows)
    sent = project.send(first)
    project.answer(sent, [(2, succeeded(model="other")), (0, succeeded()), (1, failed())])
    project.finish(sent)
    ledger, manifest_id = project.ledger, project.manifest_id
    (second,) = project.commit([to_send(0, "x", line=0), to_send(1, "b", line=1)])
    said: list[Any] = [
        ledger.rows(manifest_id, 0, 10),
        ledger.totals(manifest_id),
        ledger.answers_mark(manifest_id),
        ledger.wanted_shards(),
        list(ledger.repeatable(manifest_id, 3)),
    ]
    again = project.send(second)
    project.answer(again, [(0, succeeded()), (1, failed(status=Status.EXPIRED, retryable=False))], "more")
    project.finish(again)
    totals = dataclasses.replace(ledger.totals(manifest_id), cost=0.25)
    ledger.end_run(project.run_ids[-1], state="finished", exit_code=0, totals=totals)
    run = ledger.runs(manifest_id)[0]
    other = project.beside("other")
    (third,) = other.commit([to_send(0, "f", line=0)])
    plan = [waiting(0, "f", standing="in_flight")]
    project.beside("beside").commit_planned(plan)
    ledger.save(held(project.send(third), "nobody knows"), what="held")
    return [
        *said,
        [
            (path, dataclasses.replace(shard, run=""))
            for path, shard in ledger.held_elsewhere(project.beside("beside").manifest_id)
        ],
        ledger.rows(manifest_id, 0, 10),
        totals,
        ledger.all_ids(manifest_id),
        dataclasses.replace(run, uid=""),
        load_all(ledger),
    ]


def load_all(ledger: Ledger) -> list[Any]:
    """The view `results`, as people read it."""
    with ledger._reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql("SELECT * FROM results ORDER BY position")]


def test_a_story_is_told_as_with_sqlite(server: PostgresServer, tmp_path: Path) -> None:
    stories = []
    (tmp_path / "l").mkdir()
    for place in (place_in(tmp_path / "l"), place_of(tmp_path / "s", server.create("story"))):
        with Ledger.open(place, clock=Clock()) as ledger:
            stories.append(told(Project(ledger, ledger.ensure_manifest("job.yaml", "job"))))
    assert stories[0] == stories[1]


ODD = (
    *("", "{a,b}", "q\"uo'te", "back\\slash", "NULL", "line\nbreak", " blank "),
    *("é\U0001f600", "%s %(x)s", "'; --"),
)


def test_many_rows_at_once_are_kept_as_they_are(server: PostgresServer, tmp_path: Path) -> None:
    with Ledger.open(place_of(tmp_path, server.create("many"))) as ledger:
        project = Project(ledger, ledger.ensure_manifest("job.yaml", "job"))
        keys = [f"{number}{odd}" for number in range(3) for odd in ODD]
        rows = [to_send(place, key, line=place) for place, key in enumerate(keys)]
        rows += [unsendable(place, odd, odd) for place, odd in enumerate(ODD, len(keys))]
        project.commit(rows)
        held = ledger.rows(project.manifest_id, 0, 100)
        assert [row.key for row in held] == [*keys, *ODD]
        assert [row.error_message for row in held[len(keys) :]] == list(ODD)
        assert len({row.custom_id for row in held}) == len(keys) + 1


def all_bulks() -> Iterator[Bulk]:
    """Every statement for many rows, wherever it stands."""
    for module in pkgutil.iter_modules(ledger_room.__path__, f"{ledger_room.__name__}."):
        values = vars(importlib.import_module(module.name)).values()
        yield from (value for value in values if isinstance(value, Bulk))


def test_the_server_takes_every_statement_that_adds_many_rows(server: PostgresServer, tmp_path: Path) -> None:
    """Whatever the columns are called: one is `offset`, a word of SQL."""
    url = server.create("prepared")
    Ledger.open(place_of(tmp_path, url)).close()
    prepared = 0
    engine = writing_engine(url)
    with engine.begin() as connection:
        for found in all_bulks():
            if by_column := found.compiled(connection.dialect).by_column:
                first, *others = by_column[0].split("%s")
                text = first + "".join(f"${number}{other}" for number, other in enumerate(others, 1))
                prepared += 1
                connection.exec_driver_sql(f"PREPARE added_{prepared} AS {text}")
    engine.dispose()
    assert prepared >= 8


def test_events_are_only_ever_added(server: PostgresServer, tmp_path: Path) -> None:
    with Ledger.open(place_of(tmp_path, server.create("events"))) as ledger:
        project = Project(ledger, ledger.ensure_manifest("job.yaml", "job"))
        project.send(project.commit([to_send(0, "a", line=0)])[0])
    for change in ("UPDATE event SET what = ''", "DELETE FROM event"):
        with pytest.raises(Exception, match="only ever added"):
            server.asked("events", change)


# ---------------------------------------------------------------- the recipe


WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_one_transaction_writes_at_a_time_and_readers_do_not_wait(server: PostgresServer) -> None:
    url = server.create("recipe")
    writer, reader = writing_engine(url), reading_engine(url)
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tally (seen INTEGER)")
    counted: list[int] = []

    def count_and_insert() -> None:
        with writer.begin() as connection:
            counted.append(connection.exec_driver_sql("SELECT count(*) FROM tally").scalar_one())
            if len(counted) == 1:
                eventually(lambda: server.asked("recipe", WAITING) == [(1,)], what="the other one waits")
            with reader.connect() as looking:
                assert looking.exec_driver_sql("SELECT count(*) FROM tally").scalar_one() == counted[-1]
            connection.exec_driver_sql("INSERT INTO tally VALUES (1)")

    threads = [threading.Thread(target=count_and_insert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counted == [0, 1]
    with reader.connect() as connection, pytest.raises(Exception, match="read-only"):
        connection.exec_driver_sql("INSERT INTO tally VALUES (2)")
    with writer.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    writer.dispose()
    reader.dispose()


def test_a_lock_that_nobody_gives_back_is_told(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(tmp_path, server.create("busy"))
    Ledger.open(place).close()
    settings = ("SET lock_timeout = 100", *postgresql._WRITING_SETTINGS[1:])
    holder = writing_engine(place.url)
    monkeypatch.setattr(postgresql, "_WRITING_SETTINGS", settings)
    with holder.begin(), pytest.raises(LedgerBusyError) as caught:
        Ledger.open(place)
    holder.dispose()
    assert "locked" in caught.value.what


# ---------------------------------------------------------------- what is refused


def test_the_ledger_of_another_project_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    url = server.create("shared")
    Ledger.open(place_of(tmp_path / "one", url)).close()
    Ledger.open(place_of(tmp_path / "one", url)).close()
    assert "another project" in refused(place_of(tmp_path / "two", url)).what
    (tmp_path / "one" / ".runner").rename(tmp_path / "moved")
    (tmp_path / "three").mkdir()
    (tmp_path / "moved").rename(tmp_path / "three" / ".runner")
    Ledger.open(place_of(tmp_path / "three", url)).close()


def test_two_schemas_of_a_database_are_two_ledgers(server: PostgresServer, tmp_path: Path) -> None:
    url = server.create("schemas")
    server.asked("schemas", "CREATE SCHEMA other")
    other = f"{url}&options=-csearch_path%3Dother"
    for name, at in (("one", url), ("two", other)):
        with Ledger.open(place_of(tmp_path / name, at)) as ledger:
            ledger.ensure_manifest(f"{name}.yaml", name)
    assert server.asked("schemas", "SELECT name FROM public.manifest") == [("one",)]
    assert server.asked("schemas", "SELECT name FROM other.manifest") == [("two",)]


def test_a_database_of_others_or_of_another_encoding_is_refused(
    server: PostgresServer, tmp_path: Path
) -> None:
    foreign = place_of(tmp_path, server.create("foreign_one"))
    server.asked("foreign_one", "CREATE TABLE run (id INTEGER)")
    assert "other program" in refused(foreign).what
    narrow = place_of(tmp_path, server.create("narrow", encoding="SQL_ASCII"))
    assert "SQL_ASCII" in refused(narrow).what
    missing = refused(place_of(tmp_path, server.url("missing")))
    assert 'database "missing" does not exist' in missing.what
    assert "canary" not in missing.what + missing.next_step


def test_a_ledger_that_forgot_what_was_sent_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    place = place_of(tmp_path, server.create("forgetful"))
    with Ledger.open(place) as ledger:
        project = Project(ledger, ledger.ensure_manifest("job.yaml", "job"))
        project.send(project.commit([to_send(0, "a", line=0)])[0])
    server.asked("postgres", "DROP DATABASE forgetful")
    server.create("forgetful")
    error = refused(place)
    assert "does not know" in error.what
    assert "backup" in error.next_step


def test_a_key_with_a_nul_is_told_and_nothing_is_changed(server: PostgresServer, tmp_path: Path) -> None:
    with Ledger.open(place_of(tmp_path, server.create("nul"))) as ledger:
        project = Project(ledger, ledger.ensure_manifest("job.yaml", "job"))
        with pytest.raises(LedgerError, match="NUL") as caught:
            project.commit([to_send(0, "a", line=0), to_send(1, "b\0c", line=1)])
        assert "keys" in caught.value.next_step
        assert not ledger.has_requests()


# ---------------------------------------------------------------- without a server


def test_a_missing_driver_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refused(place_of(tmp_path, "postgresql://me:hush@host/db"))
    assert "pip install 'runner[postgresql]'" in error.next_step
    assert "hush" not in error.what + error.next_step


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hush@host:1/db",
        "postgres://me@host/db?password=hush&sslpassword=hush",
        "postgresql+psycopg://me:hu@sh:hush@host:port/db",
        "postgresql://me:p@hush@host/db",
        "postgresql://me:p@x/hush@host/db",
        "postgresql+psycopg2://me:hush@host/db",
        "mysql://me:hush@host/db",
    ],
)
def test_a_password_is_not_shown_wherever_it_stands(tmp_path: Path, url: str) -> None:
    place = locate(str(tmp_path / "job.yaml"), {"RUNNER_LEDGER": url})
    assert "hush" not in shown(place)
    assert database_file(url) is None
    if read_url(url) is None or "psycopg2" in url or "mysql" in url:
        error = refused(place_of(tmp_path, url))
        assert "hush" not in error.what + error.next_step
        assert "RUNNER_LEDGER" in error.what


def test_a_ledger_keeps_its_name_in_the_journal_when_a_password_changes(tmp_path: Path) -> None:
    names = {
        url_digest(f"{start}@host/db{rest}")
        for start in ("postgresql://me:old", "postgresql+psycopg://me:new", "postgres://you")
        for rest in ("", "?sslmode=require")
    }
    assert len(names) == 1
    assert names != {url_digest("postgresql://me@host/other")}
    assert place_of(tmp_path, "postgresql://me:old@host/db").name in names
