"""Everything below `.runner` is private, whatever the umask, after whole runs, kills and looks (I31)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import duckdb
import pytest

from runner.failpoints import VARIABLE
from tests.contract.dataset_factories import take, write
from tests.fault.run_factories import end, named, project_of, rows_of, watch
from tests.security.artefacts import open_to_others


def test_nothing_of_a_run_is_open_to_other_users(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=2)
    process = project.start()
    watch(process, named("batch_created"))
    while_running = open_to_others(project.folder / ".runner")
    end(process)
    after_kill = open_to_others(project.folder / ".runner")
    assert project.run().code == 0
    assert project.run("--refresh").code == 0
    assert (while_running, after_kill, open_to_others(project.folder / ".runner")) == ({}, {}, {})


def test_nothing_of_a_run_is_open_to_other_users_without_a_umask(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 2)
    subprocess.run(
        project.command("run", str(project.manifest_path)),
        cwd=project.folder,
        env=project.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        umask=0,
        check=True,
    )
    assert open_to_others(project.folder / ".runner") == {}


def test_a_plan_that_is_killed_leaves_nothing_open_to_other_users(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 20)
    assert project.run().code == 0
    rows = rows_of(20)
    project.write_rows([{**rows[0], "text": "another word"}, *rows[1:]])
    project.environ[VARIABLE] = "plan.ready"
    assert project.run().code == -9
    assert [path.name for path in (project.folder / ".runner" / "scratch").rglob("differing.parquet")]
    assert open_to_others(project.folder / ".runner") == {}


def test_rows_are_never_open_to_other_users_while_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at before and after each statement that a snapshot takes: equal rows are numbered in a second
    file."""
    seen: dict[str, set[str]] = {}

    class Watched:
        def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> object:
            for path in tmp_path.rglob("*.parquet"):
                seen.setdefault(path.name, set()).add(oct(path.stat().st_mode & 0o777))
            return getattr(self._connection, name)

    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *args, **named: Watched(connect(*args, **named)))
    take(write(tmp_path / "a.csv", "v\n1\n1\n2\n"), into=tmp_path)
    assert seen.keys() >= {"rows.parquet", "numbered.parquet"}
    assert set().union(*seen.values()) == {"0o600"}
