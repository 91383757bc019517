"""The engine recipe, fact by fact (each is a test but the one about power cuts), and the migrations."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, Table, bindparam, create_engine, insert
from sqlalchemy.exc import IntegrityError, OperationalError

from runner.errors import LedgerError
from runner.ledger import StagedRow, opening, seal
from runner.ledger.bulk import Bulk
from runner.ledger.engine import APPLICATION_ID, checkpoint, reading_engine, writing_engine
from runner.ledger.packing import STATUS_CODES
from runner.ledger.schema import (
    BETWEEN_STATEMENTS,
    FRESH,
    MIGRATIONS,
    VERSIONS,
    make,
    migrate,
    version_of,
)
from runner.ledger.tables import metadata
from tests.contract.ledger_factories import Project, to_send


def url_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'test.db'}"


def tables_of(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        return set(found.scalars())


def fail_after_creating_a_table(engine: Engine) -> None:
    def create_and_fail() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        create_and_fail()


def count_then_insert_twice(engine: Engine, *, patience_s: float) -> list[int]:
    """Two transactions at once; each counts, waits for the other to have counted, and inserts its count."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tally (seen INTEGER)")
    both_counted = threading.Barrier(2)
    counted: list[int] = []

    def count_and_insert() -> None:
        with contextlib.suppress(OperationalError, sqlite3.OperationalError), engine.begin() as connection:
            seen = connection.exec_driver_sql("SELECT count(*) FROM tally").scalar_one()
            counted.append(seen)
            with contextlib.suppress(threading.BrokenBarrierError):
                both_counted.wait(patience_s)
            connection.exec_driver_sql("INSERT INTO tally VALUES (?)", (seen,))

    threads = [threading.Thread(target=count_and_insert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return sorted(counted)


def test_fact_1_a_plain_engine_keeps_half_of_a_failed_transaction(tmp_path: Path) -> None:
    engine = create_engine(url_in(tmp_path))
    fail_after_creating_a_table(engine)
    assert "half" in tables_of(engine), "the driver was mended: the recipe may have become simpler"
    engine.dispose()


def test_fact_1_on_a_plain_engine_two_counts_both_see_nothing(tmp_path: Path) -> None:
    engine = create_engine(url_in(tmp_path))
    assert count_then_insert_twice(engine, patience_s=20) == [0, 0]
    engine.dispose()


def test_fact_2_on_the_recipe_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    engine = writing_engine(url_in(tmp_path))
    fail_after_creating_a_table(engine)
    assert tables_of(engine) == set()
    engine.dispose()


def test_fact_2_on_the_recipe_the_second_of_two_counts_sees_the_first(tmp_path: Path) -> None:
    engine = writing_engine(url_in(tmp_path))
    assert count_then_insert_twice(engine, patience_s=0.3) == [0, 1]
    engine.dispose()


def test_fact_2_the_pragmas_hold_on_every_connection(tmp_path: Path) -> None:
    engine = writing_engine(url_in(tmp_path))
    with engine.connect() as one, engine.connect() as other:
        for connection in (one.connection, other.connection):
            cursor = connection.cursor()
            found = {
                name: cursor.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
            assert found == {
                "journal_mode": "wal",
                "synchronous": 2,
                "foreign_keys": 1,
                "busy_timeout": 30_000,
            }
    engine.dispose()


def test_fact_3_a_plain_begin_that_reads_and_then_writes_fails_at_once(tmp_path: Path) -> None:
    engine = writing_engine(url_in(tmp_path))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tally (seen INTEGER)")
    plain = sqlite3.connect(tmp_path / "test.db", isolation_level=None, timeout=30)
    plain.execute("BEGIN")
    plain.execute("SELECT * FROM tally").fetchall()
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO tally VALUES (1)")
    with pytest.raises(sqlite3.OperationalError) as caught:
        plain.execute("INSERT INTO tally VALUES (2)")
    assert caught.value.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"
    plain.close()
    engine.dispose()


def test_fact_4_a_reader_on_the_second_engine_does_not_wait_for_the_writer(tmp_path: Path) -> None:
    writer, reader = writing_engine(url_in(tmp_path)), reading_engine(url_in(tmp_path))
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tally (seen INTEGER)")
    with writer.begin() as writing:
        writing.exec_driver_sql("INSERT INTO tally VALUES (1)")
        with reader.begin() as reading:
            assert reading.exec_driver_sql("SELECT count(*) FROM tally").scalar() == 0
    writer.dispose()
    reader.dispose()


def test_fact_4_the_second_engine_can_not_write(tmp_path: Path) -> None:
    writer, reader = writing_engine(url_in(tmp_path)), reading_engine(url_in(tmp_path))
    with writer.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE tally (seen INTEGER)")
    with pytest.raises(OperationalError, match="readonly"), reader.begin() as reading:
        reading.exec_driver_sql("INSERT INTO tally VALUES (1)")
    writer.dispose()
    reader.dispose()


# ---------------------------------------------------------------- migrations


def write_migrations(folder: Path, *bodies: str) -> Path:
    """A folder of migrations a0, a1, ..., each with its upgrade's body."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text((MIGRATIONS / "env.py").read_text())
    for number, body in enumerate(bodies):
        before = f'"a{number - 1}"' if number else "None"
        (folder / "versions" / f"a{number}.py").write_text(
            "from alembic import op\nimport sqlalchemy as sa\n"
            f'revision = "a{number}"\ndown_revision = {before}\n'
            f"branch_labels = None\ndepends_on = None\n\ndef upgrade():\n    {body}\n"
        )
    return folder


def test_fact_6_a_broken_migration_leaves_nothing_and_those_before_it_stay(tmp_path: Path) -> None:
    migrations = write_migrations(
        tmp_path / "migrations",
        'op.create_table("first", sa.Column("id", sa.Integer))',
        'op.create_table("second", sa.Column("id", sa.Integer)); 1 / 0',
    )
    engine = writing_engine(url_in(tmp_path), foreign_keys=False)
    with pytest.raises(ZeroDivisionError):
        migrate(engine, migrations=migrations)
    assert tables_of(engine) == {"first", "alembic_version"}
    assert version_of(engine) == "a0"
    engine.dispose()


REBUILD = (
    'with op.batch_alter_table("parent", recreate="always") as batch: '
    'batch.add_column(sa.Column("x", sa.Text))'
)


def test_fact_7_rebuilding_a_parent_keeps_its_children(tmp_path: Path) -> None:
    migrations = write_migrations(
        tmp_path / "migrations",
        'op.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)"); '
        'op.execute("CREATE TABLE child (id INTEGER REFERENCES parent (id) ON DELETE CASCADE)"); '
        'op.execute("INSERT INTO parent VALUES (1)"); op.execute("INSERT INTO child VALUES (1)")',
        REBUILD,
    )
    engine = writing_engine(url_in(tmp_path), foreign_keys=False)
    migrate(engine, migrations=migrations)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM child").scalar() == 1
    engine.dispose()


def test_fact_7_with_foreign_keys_on_the_children_would_be_gone(tmp_path: Path) -> None:
    migrations = write_migrations(
        tmp_path / "migrations",
        'op.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)"); '
        'op.execute("CREATE TABLE child (id INTEGER REFERENCES parent (id) ON DELETE CASCADE)"); '
        'op.execute("INSERT INTO parent VALUES (1)"); op.execute("INSERT INTO child VALUES (1)")',
        REBUILD,
    )
    engine = writing_engine(url_in(tmp_path), foreign_keys=True)
    migrate(engine, migrations=migrations)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM child").scalar() == 0
    engine.dispose()


def test_fact_7_a_migration_that_breaks_a_reference_is_undone(tmp_path: Path) -> None:
    migrations = write_migrations(
        tmp_path / "migrations",
        'op.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)"); '
        'op.execute("CREATE TABLE child (id INTEGER REFERENCES parent (id))"); '
        'op.execute("INSERT INTO parent VALUES (1)"); op.execute("INSERT INTO child VALUES (1)")',
        'op.execute("DELETE FROM parent")',
    )
    engine = writing_engine(url_in(tmp_path), foreign_keys=False)
    with pytest.raises(LedgerError, match="1 rows that point to nothing"):
        migrate(engine, migrations=migrations)
    assert version_of(engine) == "a0"
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM parent").scalar() == 1
    engine.dispose()


def shape_of(engine: Engine) -> dict[str, list[str]]:
    """The whole text of every table and index: its columns and constraints, in any order and spacing."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
    return {name: parts_of(sql) for name, sql in found}


def parts_of(sql: str) -> list[str]:
    """What stands before and after the outer brackets, and what commas divide inside them."""
    parts, depth = [""], 0
    for character in re.sub(r'[\s"]+', " ", sql):
        depth += (character == "(") - (character == ")")
        if (character == "," and depth == 1) or (character == "(" and depth == 1):
            parts.append("")
        elif character == ")" and depth == 0:
            parts.append("after ")
        else:
            parts[-1] += character
    return sorted(part.strip() for part in parts)


def test_fact_8_the_declared_tables_are_the_migrated_ones_checks_included(tmp_path: Path) -> None:
    declared = create_engine("sqlite://")
    metadata.create_all(declared)
    migrated = writing_engine(url_in(tmp_path), foreign_keys=False)
    migrate(migrated)
    wanted, found = shape_of(declared), shape_of(migrated)
    assert {name: found.get(name) for name in wanted} == wanted
    assert set(found) - set(wanted) == {
        *("alembic_version", "results", "event_is_kept_on_update", "event_is_kept_on_delete"),
    }
    assert sum(any("CHECK" in part for part in parts) for parts in wanted.values()) >= 6
    migrated.dispose()


def statements_of(engine: Engine) -> str:
    """Everything that makes this very database, as `fresh.sql` holds it."""
    with engine.connect() as connection:
        made = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
        )
        found = [sql for (sql,) in made]
        words = connection.exec_driver_sql("SELECT code, word FROM status ORDER BY code").all()
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    found += [f"INSERT INTO status (code, word) VALUES ({code}, '{word}')" for code, word in words]
    found.append(f"INSERT INTO alembic_version (version_num) VALUES ('{version}')")
    found.append(f"PRAGMA application_id={APPLICATION_ID}")
    return BETWEEN_STATEMENTS.join(found)


def test_a_fresh_ledger_is_what_the_migrations_make(tmp_path: Path) -> None:
    """WRITE_FRESH=1 writes `fresh.sql` anew, after a new migration."""
    engine = writing_engine(url_in(tmp_path), foreign_keys=False)
    migrate(engine)
    wanted = statements_of(engine)
    engine.dispose()
    if os.environ.get("WRITE_FRESH"):
        FRESH.write_text(wanted)
    assert FRESH.read_text() == wanted
    fresh = writing_engine(f"sqlite:///{tmp_path / 'fresh.db'}", foreign_keys=False)
    make(fresh)
    assert statements_of(fresh) == wanted
    fresh.dispose()


def test_requests_of_an_older_ledger_are_kept_and_none_comes_twice(tmp_path: Path) -> None:
    engine = writing_engine(url_in(tmp_path), foreign_keys=False)
    migrate(engine, target="0002")
    columns = "id, fingerprint, name, retryable, attempts, excused"
    add = f"INSERT INTO request ({columns}) VALUES (?, ?, 'n', 0, 1, 0)"
    with engine.begin() as connection:
        for number in (3, 7):
            connection.exec_driver_sql(add, (number, bytes([number]) * 16))
    migrate(engine)
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT id, hex(fingerprint), attempts FROM request").all()
        assert [tuple(one) for one in found] == [(3, "03" * 16, 1), (7, "07" * 16, 1)]
        assert connection.exec_driver_sql("SELECT count(*) FROM results").scalar() == 0
        with pytest.raises(IntegrityError):
            connection.exec_driver_sql(add, (8, bytes([7]) * 16))
    engine.dispose()


def test_the_known_versions_are_the_migrations(tmp_path: Path) -> None:
    engine = writing_engine(url_in(tmp_path), foreign_keys=False)
    migrate(engine)
    assert version_of(engine) == VERSIONS[-1]
    assert len(list((MIGRATIONS / "versions").glob("m*.py"))) == len(VERSIONS)
    engine.dispose()


def test_the_words_of_a_status_are_in_the_database(tmp_path: Path) -> None:
    with Project.open(tmp_path).ledger as ledger:
        found = Project(ledger, 1).asked("SELECT word, code FROM status")
    assert dict(found) == {status.value: code for status, code in STATUS_CODES.items()}


def test_the_file_says_whose_it_is(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    assert project.asked("PRAGMA application_id") == [(APPLICATION_ID,)]
    project.ledger.close()


def test_an_event_can_not_be_changed_or_removed(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    project.send(project.commit(one_row())[0])
    for statement in ("UPDATE event SET what = 'x'", "DELETE FROM event"):
        connection = sqlite3.connect(project.ledger.place.folder / "ledger.db")
        with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
            connection.execute(statement)
        connection.close()
    project.ledger.close()


def test_a_state_that_is_no_state_is_refused(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    project.commit(one_row())
    with pytest.raises(IntegrityError), project.ledger._writer.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("UPDATE shard SET state = 'sent'")
    project.ledger.close()


def test_a_compiled_statement_is_never_run_outside_a_transaction(tmp_path: Path) -> None:
    engine = writing_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    tally = Table("tally", MetaData(), Column("seen", Integer))
    tally.create(engine)
    add = Bulk(insert(tally).values(seen=bindparam("seen")), "seen")
    for rows in ([(1,)], [(number,) for number in range(300)]):
        with engine.connect() as connection:
            assert add.run(connection, rows) == len(rows)
            with pytest.raises(sqlite3.OperationalError, match="locked"), closing(other(tmp_path)) as also:
                also.execute("INSERT INTO tally VALUES (2)")
        with closing(other(tmp_path)) as also:
            assert also.execute("SELECT count(*) FROM tally").fetchall() == [(0,)]
    engine.dispose()


def other(folder: Path) -> sqlite3.Connection:
    """Somebody else's connection, who waits for nobody."""
    return sqlite3.connect(folder / "ledger.db", timeout=0)


def test_closing_leaves_no_log_beside_the_file(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    project.commit(one_row())
    log = project.ledger.place.folder / "ledger.db-wal"
    assert log.stat().st_size > 0
    project.ledger.close()
    assert not log.exists()
    project.ledger.close()


def test_a_checkpoint_that_a_reader_prevents_is_no_error(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    project.commit(one_row())
    assert project.ledger._writer is not None
    with project.ledger._reader.begin() as reading:
        reading.exec_driver_sql("SELECT count(*) FROM request").scalar()
        checkpoint(project.ledger._writer)
    project.ledger.close()


def one_row() -> list[StagedRow]:
    return [to_send(0, "a", line=0)]


def test_a_log_that_is_removed_while_it_is_looked_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last process to close a database removes its log, and another one opens it at that moment."""
    monkeypatch.setattr(Path, "exists", lambda *_, **__: True)
    assert not seal.has_log(tmp_path / "ledger.db")
    assert opening.is_missing(str(tmp_path / "ledger.db"))
