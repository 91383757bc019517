"""While batches are on their way the ledger is asked every few seconds: no question walks through the rows.

A real run against the local server, in this process; every statement that SQLite carries out on its ledger
between the first batch and the last one's end is taken down by SQLite's own trace, with its values, and
SQLite is asked how it would carry it out.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from runner import run
from runner.commands.moments import BatchCreated, BatchDone, Moment
from tests.fault.run_factories import project_of, until_done
from tests.project_factory import Project

GROWING = ("request", "attempt", "row", "event", "row_cause", "attempt_cause", "quarantine")
"""Tables that grow with the rows, or for as long as the ledger lives."""


class Listener:
    """Statements on any connection from the moment that the first batch exists until the last one is done."""

    def __init__(self, batches: int) -> None:
        self.statements: set[str] = set()
        self.created = 0
        self._open = batches
        self._is_polling = False

    def tell(self, moment: Moment) -> None:
        if isinstance(moment, BatchCreated):
            self.created += 1
            self._is_polling = True
        if isinstance(moment, BatchDone):
            self._open -= 1
            self._is_polling = self._open > 0

    def confirm(self, question: str) -> bool:
        return True

    def opened(self, driver: sqlite3.Connection, _entry: object) -> None:
        """A connection: hear what it carries out."""
        driver.set_trace_callback(self.carried_out)

    def carried_out(self, text: str) -> None:
        if self._is_polling and text.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH"):
            self.statements.add(text)


@pytest.fixture
def listened(tmp_path: Path) -> tuple[Project, Listener]:
    project = project_of(tmp_path, 6, shards=2)
    listener = Listener(batches=2)
    event.listen(Engine, "connect", listener.opened)
    try:
        run(project.manifest_path, environ={}, reporter=listener)
    finally:
        event.remove(Engine, "connect", listener.opened)
    return project, listener


def walks(ledger: Path, text: str) -> list[str]:
    """The tables, of those that grow, which SQLite would read from end to end."""
    with closing(sqlite3.connect(ledger)) as connection:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}")]
    return [step for step in steps if step.startswith("SCAN") and step.split()[1] in GROWING]


def test_polling_walks_through_no_table_that_grows(listened: tuple[Project, Listener]) -> None:
    project, listener = listened
    ledger = project.folder / ".runner" / "ledger.db"
    assert listener.created == 2
    asked = {
        table
        for text in listener.statements
        for table in GROWING
        if re.search(rf"\b(FROM|JOIN|INTO|UPDATE) {table}\b", text)
    }
    assert {"request", "attempt", "event"} <= asked, "polling, storing and finishing were all seen"
    found = {text: walks(ledger, text) for text in listener.statements}
    assert {text: steps for text, steps in found.items() if steps} == {}


def test_a_walk_would_be_seen(tmp_path: Path) -> None:
    project = project_of(tmp_path, 2)
    until_done(project)
    ledger = project.folder / ".runner" / "ledger.db"
    assert walks(ledger, "SELECT count(*) FROM request WHERE status = 1") == ["SCAN request"]
    assert walks(ledger, "SELECT name FROM request WHERE id = 1") == []
