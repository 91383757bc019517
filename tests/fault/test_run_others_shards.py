"""Shards of another manifest that this one's rows wait for: whose terms hold, and who pays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.commands.moments import Silent
from runner.failpoints import VARIABLE
from runner.schedule.ticking import tick
from tests.e2e.scheduled import seconds
from tests.fault.run_hostile_server import Batch, HostileServer, Look, Reply, failure, good, lines
from tests.project_factory import Done, Project


def killed_at(project: Project, point: str) -> None:
    project.environ[VARIABLE] = point
    assert project.run("--yes").code == -9
    del project.environ[VARIABLE]


def small(project: Project, rows: int = 1, **sections: Any) -> Path:
    """A manifest beside that of the project, which asks the first of its rows."""
    with (project.folder / "rows.csv").open() as file:
        first = list(csv.reader(file))[: rows + 1]
    with (project.folder / "few.csv").open("w", newline="") as file:
        csv.writer(file).writerows(first)
    own = {"name": "small", "dataset": {"path": "few.csv", "key": "id"}, "output": {"path": "few.jsonl"}}
    path = project.folder / "small.yaml"
    path.write_text(yaml.safe_dump({**project.manifest, **own, **sections}))
    return path


def run(project: Project, path: Path, *options: str) -> Done:
    done = project.call("run", str(path), "--json", *options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def ticked(project: Project, at: str) -> None:
    """One tick at this moment."""
    tick((project.manifest_path,), environ={}, reporter=Silent(), clock=lambda: seconds(at))


# ---------------------------------------------------------------- its terms


def test_what_is_cut_goes_on_in_the_window_that_it_was_planned_for(tmp_path: Path) -> None:
    def too_large(upload: int) -> Reply | None:
        return (413, b'{"error":{"message":"too large"}}') if upload == 1 else None

    with HostileServer(uploaded=too_large) as server:
        project = server.project(tmp_path / "p", 6)
        killed_at(project, "upload.begins")
        path = small(project, batch={"completion_window": "1h"})
        assert run(project, path).code == 0
        assert project.ledger(
            "SELECT requests, completion_window, model FROM shard WHERE state = 'done'"
        ) == [
            (3, "24h", "m"),
            (3, "24h", "m"),
        ]


# ---------------------------------------------------------------- who pays


LIMIT = 500_000
HALF_A_DOLLAR = {
    "parameters": {"max_tokens": LIMIT},
    "prices": {"input_per_million": 0, "output_per_million": 1},
}
"""The most that a request costs."""


def priced(server: HostileServer, folder: Path, rows: int, **sections: Any) -> Project:
    project = server.project(folder, rows, **sections)
    project.manifest["model"] |= HALF_A_DOLLAR
    project.write_manifest()
    return project


@pytest.mark.parametrize("is_collected_by_another", [False, True])
def test_what_another_run_collected_is_spent_all_the_same(
    tmp_path: Path, is_collected_by_another: bool
) -> None:
    """Both failures were billed, which is all that the first run may spend."""
    is_slow = True

    def billed(batch: Batch, _look: int) -> Look:
        if is_slow:
            counts = {"total": 2, "completed": 0, "failed": 0}
            return Look(fields={"status": "in_progress", "request_counts": counts})
        if batch.number > 1:
            return Look(output=good(batch))
        body = {"error": {"message": "broke"}, "usage": {"prompt_tokens": 0, "completion_tokens": LIMIT}}
        broken = {"response": {"status_code": 500, "request_id": "r", "body": body}, "error": None}
        return Look(output=lines(*({**failure(one), **broken} for one in batch.requests)))

    with HostileServer(billed) as server:
        project = priced(server, tmp_path / "p", 2, budget={"max_cost": 1.1}, schedule={"cron": "0 2 * * *"})
        path = small(project, retry={"attempts": 1}, budget={})
        ticked(project, "2026-01-01T02:00")
        is_slow = False
        if is_collected_by_another:
            assert run(project, path).code == 3
        ticked(project, "2026-01-01T02:05")
        assert project.ledger("SELECT exit_code FROM due") == [(3,)]
        assert len(server.batches) == 1, "nothing is left to send them again"
