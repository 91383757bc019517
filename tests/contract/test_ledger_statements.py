"""Every statement that runs for many rows: found by a key in SQLite, understood by PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import ClauseElement
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from runner.core.model import Status
from runner.ledger import (
    facts,
    outcome_statements,
    plan_statements,
    reading,
    runs,
    submissions,
    unpacking,
    waits,
    wishes,
)
from runner.ledger.bulk import Bulk, KeyedInsert, Lookup, Query
from runner.ledger.engine import spelling
from runner.ledger.migrations.versions import m0001_first
from runner.ledger.tables import ONE_INPUT, ONE_STARTED, metadata, tell_of_postgresql
from tests.contract.ledger_factories import Project

MODULES = (outcome_statements, plan_statements, reading)
MODULES_OF_SHARDS = (facts, runs, submissions, waits, wishes)
SMALL = ("batch", "event", "file", "manifest", "run", "shard", "template")
"""A row for each file that is sent, not for each request."""


def few() -> Iterator[tuple[str, Bulk]]:
    """Every statement that a shard's steps or a run's begin and end ask, by its name."""
    for module in MODULES_OF_SHARDS:
        for name, value in vars(module).items():
            if isinstance(value, KeyedInsert):
                yield f"{module.__name__}.{name}", value._query._bulk
                yield f"{module.__name__}.{name} without RETURNING", value._bulk
            found = value._bulk if isinstance(value, Query) else value
            if isinstance(found, Bulk):
                yield f"{module.__name__}.{name}", found
    for name, bulk in runs._NOTES.items():
        yield f"runs._NOTES[{name}]", bulk


FEW = dict(few())


def bulks() -> Iterator[tuple[str, Bulk]]:
    """Every statement for many rows, by its name."""
    for module in MODULES:
        for name, value in vars(module).items():
            found = value._bulk if isinstance(value, Lookup | Query) else value
            if isinstance(found, Bulk):
                yield f"{module.__name__}.{name}", found
    for status in Status:
        yield f"STORE[{status}]", outcome_statements.STORE[status]
        yield f"SETTLE[{status}]", outcome_statements.SETTLE[status]


BULKS = dict(bulks())
PLAIN: dict[str, ClauseElement] = {
    "TOTALS": reading.TOTALS.params(manifest_id=1),
    "ANSWERS_MARK": reading.ANSWERS_MARK.params(manifest_id=1),
    "REPEATABLE": reading.REPEATABLE.params(manifest_id=1, max_attempts=3),
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.open(tmp_path)


def plan_of(project: Project, text: str, parameters: object) -> list[str]:
    with project.ledger._reader.begin() as connection:
        found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters).all()  # type: ignore[arg-type]
    return [step[3] for step in found]


def test_there_are_statements_to_look_at() -> None:
    assert len(BULKS) > 30


@pytest.mark.parametrize("name", BULKS)
def test_no_statement_walks_through_a_whole_table(project: Project, name: str) -> None:
    bulk = BULKS[name]
    with project.ledger._reader.begin() as connection:
        compiled = bulk.compiled(connection.dialect)
        parameters = compiled.parameters([tuple(1 for _ in bulk.names)])[0]
        text = bulk.text(connection.dialect, **dict.fromkeys(bulk.fixed, 1))
    steps = plan_of(project, text, parameters)
    assert [step for step in steps if step.startswith("SCAN") and "CONSTANT ROW" not in step] == []


@pytest.mark.parametrize("name", FEW)
def test_no_step_of_a_shard_looks_at_the_requests(project: Project, name: str) -> None:
    with project.ledger._reader.begin() as connection:
        compiled = FEW[name].compiled(connection.dialect)
        parameters = compiled.parameters([tuple(1 for _ in FEW[name].names)])[0]
    scanned = [step.split()[1] for step in plan_of(project, compiled.text, parameters) if "SCAN" in step]
    assert set(scanned) <= {*SMALL, "CONSTANT"}


@pytest.mark.parametrize("name", PLAIN)
def test_what_asks_for_all_rows_of_a_manifest_reads_only_those(project: Project, name: str) -> None:
    compiled = PLAIN[name].compile(
        dialect=project.ledger._reader.dialect, compile_kwargs={"literal_binds": True}
    )
    steps = plan_of(project, str(compiled), ())
    assert steps[0].startswith("SEARCH row USING PRIMARY KEY (manifest_id=?")
    assert [step for step in steps if step.startswith("SCAN")] == []


def test_a_key_is_looked_for_among_the_manifests_rows_only(project: Project) -> None:
    bulk = reading.ROW_BY_KEY._bulk
    with project.ledger._reader.begin() as connection:
        compiled = bulk.compiled(connection.dialect)
    assert "manifest_id=?" in plan_of(project, compiled.text, (1, "a"))[0]


@pytest.mark.parametrize("name", ["ADD_REQUESTS", "ADD_ATTEMPTS", "ADD_ROWS", "ADD_NAMED_ROWS"])
def test_what_unpacks_a_block_walks_through_no_table(project: Project, name: str) -> None:
    text = getattr(unpacking, name)
    highest = max(map(int, re.findall(r"[?]([0-9])", text)))
    steps = plan_of(project, text, (1,) * highest)
    assert [step for step in steps if step.startswith("SCAN") and "VIRTUAL TABLE" not in step] == []


# ---------------------------------------------------------------- PostgreSQL: compiled, not run


def postgres() -> Dialect:
    """PostgreSQL's dialect, without a driver or a server."""
    dialect: Dialect = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
    return dialect


@pytest.mark.parametrize("name", BULKS)
def test_postgresql_understands_every_statement(name: str) -> None:
    bulk = BULKS[name]
    compiled = bulk.compiled(postgres())
    assert all(f"%({parameter})" in compiled.text for parameter in bulk.names)
    assert compiled.parameters([tuple(range(len(bulk.names)))]) == [
        {parameter: number for number, parameter in enumerate(bulk.names)}
    ]


@pytest.mark.parametrize("name", FEW)
def test_postgresql_gets_our_values_and_the_statements_own(name: str) -> None:
    bulk = FEW[name]
    compiled = bulk.compiled(postgres())
    (parameters,) = compiled.parameters([tuple(range(len(bulk.names)))])
    assert {parameter: parameters[parameter] for parameter in bulk.names} == {
        parameter: number for number, parameter in enumerate(bulk.names)
    }
    assert compiled.text % dict.fromkeys(parameters, "?")
    assert "POSTCOMPILE" not in compiled.text


def test_an_old_sqlite_tells_the_key_of_a_new_row_too(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.ledger._writing() as connection:
        first = runs.ensure_manifest(connection, "a/manifest.yaml", "a")
        monkeypatch.setattr(connection.dialect, "insert_returning", False)
        second = runs.ensure_manifest(connection, "b/manifest.yaml", "b")
        assert [runs.find_manifest(connection, f"{name}/manifest.yaml") for name in "ab"] == [first, second]
        assert first != second


def test_postgresql_understands_every_table() -> None:
    dialect = postgres()
    tell_of_postgresql()
    for index in (ONE_INPUT, ONE_STARTED):
        assert " WHERE " in str(CreateIndex(index).compile(dialect=dialect))
    for table in metadata.sorted_tables:
        text = str(CreateTable(table).compile(dialect=dialect))
        assert "WITHOUT ROWID" not in text
        for index in table.indexes:
            assert str(CreateIndex(index).compile(dialect=dialect)).startswith("CREATE")


def test_the_view_is_spelled_for_both_databases() -> None:
    for name in ("sqlite", "postgresql"):
        spelled = spelling(name)
        text = m0001_first._VIEW.format(
            custom_id=spelled.custom_id,
            response_uuid=spelled.response_uuid,
            answered_at=spelled.answered_at,
        )
        assert "{" not in text
