"""The judge. Believes two things only: what the server executed (its witness), and the published table.

A request may be executed once; one that failed, as often as the manifest allows attempts. Every row of the
dataset stands in the table once, with its own answer. The one exception has a name: without a fence a
create whose outcome is unknown is held for a person (exit 4), and then its rows are pending and were
never executed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.localserver_process import eventually

_STILL_WORKING = """
SELECT (SELECT count(*) FROM batch WHERE seq > :batch AND settled = 0 AND input IS NOT NULL
        AND failed_us IS NULL AND cancelling_us IS NULL AND deleted_us IS NULL)
     + (SELECT count(*) FROM request WHERE batch > :batch AND state = 1)
"""
_EXECUTED = """
SELECT e.custom_id, e.result FROM witness_execution e JOIN witness_create c USING (batch_id)
WHERE e.seq > :execution AND c.seq > :creation AND c.owner = :owner
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where the tables of a server ended before a scenario; it reads on from there."""

    batch: int
    creation: int
    execution: int


@dataclass(slots=True)
class Judgement:
    """Counts of what must be nothing, and each in words."""

    duplicates: int = 0
    losses: int = 0
    extra_rows: int = 0
    tracebacks: int = 0
    problems: list[str] = field(default_factory=list)


class ServerBooks:
    """The database of one server."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "server.db"

    def mark(self) -> Mark:
        """Now."""
        ends = (
            self._ask(f"SELECT coalesce(max(seq), 0) FROM {table}")[0][0]
            for table in ("batch", "witness_create", "witness_execution")
        )
        batch, creation, execution = ends
        return Mark(batch=batch, creation=creation, execution=execution)

    def wait_until_idle(self, since: Mark) -> None:
        """Until every batch made since has its last word, those too that the program knows nothing of."""
        at = {"batch": since.batch}
        eventually(lambda: self._ask(_STILL_WORKING, at)[0][0] == 0, what="the end of every batch")

    def executed(self, since: Mark, key: str) -> list[tuple[str, str]]:
        """Custom_id and result of every execution for this API key."""
        owner = sha256(b"owner:" + key.encode()).hexdigest()[:16]  # as the witness writes it
        at = {"execution": since.execution, "creation": since.creation, "owner": owner}
        return [(custom_id, result) for custom_id, result in self._ask(_EXECUTED, at)]

    def _ask(self, sql: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=30)) as connection:
            return connection.execute(sql, values or {}).fetchall()


def judge(
    rows: Sequence[Mapping[str, str]],
    table: Path,
    executed: Sequence[tuple[str, str]],
    *,
    attempts: int,
    is_held: bool,
) -> Judgement:
    """Compare. `rows` are the dataset; a row whose text orders a failure or a cut must have it."""
    verdict = Judgement()
    for (custom_id, result), times in Counter(executed).items():
        allowed = attempts if result == "failed" else 1
        if times > allowed:
            verdict.duplicates += times - allowed
            verdict.problems.append(f"{custom_id} was executed {times} times ({result})")
    published = (
        [json.loads(line) for line in table.read_bytes().split(b"\n") if line] if table.exists() else []
    )
    by_key = Counter(row["_key"] for row in published)
    surplus = by_key - Counter(row["id"] for row in rows)
    verdict.extra_rows = surplus.total()
    if surplus:
        verdict.problems.append(f"rows that nobody wants: {dict(surplus)}")
    found = {row["_key"]: row for row in published}
    done = {custom_id.rpartition("-")[0] for custom_id, result in executed if result == "completed"}
    for row in rows:
        problem = _problem(row, found.get(row["id"]), is_held=is_held and row["id"] not in done)
        if problem:
            verdict.losses += 1
            verdict.problems.append(f"{row['id']}: {problem}")
    return verdict


_ORDERED = {"[[local:fail": "failed", "[[local:truncate": "truncated"}
"""What a row's text orders the local server to do with it."""


def _problem(row: Mapping[str, str], found: Mapping[str, Any] | None, *, is_held: bool) -> str:
    """What is wrong with a row of the table, or nothing."""
    if found is None:
        return "is not in the table"
    if is_held and found["_status"] == "pending":
        return ""
    wanted = next((status for order, status in _ORDERED.items() if order in row["text"]), "succeeded")
    if found["_status"] != wanted:
        return f"is {found['_status']} ({found['_error_class']}: {found['_error_message']}), not {wanted}"
    if wanted == "succeeded" and row["text"].split()[0] not in found["_answer"]:
        return f"has the answer of another row: {found['_answer']!r}"
    return ""
