"""Shards of another manifest that this one's rows wait for: whose terms hold, and who pays."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml

from runner.failpoints import VARIABLE
from tests.fault.run_hostile_server import HostileServer, Reply
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
