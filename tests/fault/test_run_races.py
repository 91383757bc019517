"""Several processes on one project: one manifest, manifests that share requests, a cancel beside a run."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fault.run_factories import (
    EXIT_FAILED_ROWS,
    EXIT_STILL_RUNNING,
    all_gone,
    all_well,
    arm,
    complete,
    end,
    executed,
    named,
    paid_once,
    project_of,
    rows_of,
    server_of,
    until_done,
    watch,
    work_off,
)
from tests.localserver_process import eventually
from tests.project_factory import Project, finish
from tests.warm_program import WarmPopen, run_warm

SLOW = "[[local:slow 5]]"


def second_manifest(project: Project, name: str = "other", **sections: object) -> Path:
    """Another manifest of the same project that wants the same requests for a table of its own."""
    path = project.folder / f"{name}.yaml"
    manifest = {**project.manifest, "name": name, "output": {"path": f"{name}.jsonl"}, **sections}
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


def start(project: Project, manifest: Path, *options: str) -> subprocess.Popen[str]:
    return WarmPopen(
        [sys.executable, "-m", "runner", "run", str(manifest), "--json", *options],
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


# ---------------------------------------------------------------- the same manifest


def test_a_second_run_of_a_manifest_says_who_has_it_and_changes_nothing(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, token=SLOW)
    first = project.start()
    assert watch(first, named("batch_created")) is not None
    second = project.run()
    assert second.code == EXIT_STILL_RUNNING
    assert f"process {first.pid}" in second.stderr
    assert finish(first).code == 0
    all_well(project, rows_of(4, SLOW))


def test_with_wait_a_second_run_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, token="[[local:slow 1]]")
    first = project.start()
    assert watch(first, named("batch_created")) is not None
    second = project.run("--wait", "60s")
    assert finish(first).code == 0
    assert (second.code, second.event("finished")["requests_sent"]) == (0, 0)
    assert f"already running: process {first.pid} since" in second.event("trouble")["what"]
    all_well(project, rows_of(4, "[[local:slow 1]]"))


def test_a_wait_for_another_run_ends_at_its_time_or_by_ctrl_c(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, token=SLOW)
    first = project.start()
    assert watch(first, named("batch_created")) is not None
    assert project.run("--wait", "0.5s").code == EXIT_STILL_RUNNING
    waiting = project.start("--wait", "60s")
    assert watch(waiting, named("trouble")) is not None
    assert end(waiting, signal.SIGINT).code == 130
    assert finish(first).code == 0


@pytest.mark.parametrize("processes", [4, 16])
def test_many_runs_of_one_manifest_at_once_buy_once(tmp_path: Path, processes: int) -> None:
    project = project_of(tmp_path / "p", 6, shards=3)
    started = [project.start() for _ in range(processes)]
    codes = [finish(process).code for process in started]
    assert set(codes) <= {0, EXIT_STILL_RUNNING}
    assert 0 in codes
    until_done(project)
    assert len(project.witness.creates()) == 3
    all_well(project, rows_of(6))


# ---------------------------------------------------------------- manifests that share requests


@pytest.mark.parametrize("shards", [1, 3])
def test_manifests_that_want_the_same_requests_at_once_share_them(tmp_path: Path, shards: int) -> None:
    project = project_of(tmp_path / "p", 6, shards=shards, token="[[local:slow 1]]")
    rows = rows_of(6, "[[local:slow 1]]")
    manifests = [project.manifest_path, *(second_manifest(project, name) for name in ("two", "three"))]
    processes = [start(project, manifest) for manifest in manifests]
    for done in [finish(process) for process in processes]:
        assert "Traceback" not in done.stderr
        assert done.code == 0, (done.code, done.stdout, done.stderr)
    paid_once(project)
    assert len(executed(project)) == 6
    for table in ("results.jsonl", "two.jsonl", "three.jsonl"):
        complete(project, rows, project.folder / table)


def test_a_run_collects_what_another_manifest_had_sent_before_it_died(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2, token=SLOW)
    other = second_manifest(project)
    first = project.start()
    assert watch(first, named("batch_created", 2)) is not None
    first.kill()
    first.communicate()
    done = finish(start(project, other))
    assert done.code == 0, done.stderr
    complete(project, rows_of(4, SLOW), project.folder / "other.jsonl")
    until_done(project)
    all_well(project, rows_of(4, SLOW))


def test_a_file_that_another_manifest_planned_and_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    arm(project, "slow-request", route="POST /v1/files", params={"seconds": 20})
    other = second_manifest(project)
    first = project.start()
    assert watch(first, named("planned")) is not None
    eventually(lambda: project.ledger("SELECT id FROM shard WHERE state = 'uploading'"), what="an upload")
    first.kill()
    first.communicate()
    for path in (project.folder / ".runner" / "shards").iterdir():
        path.unlink()
    stopped = finish(start(project, other))
    assert stopped.code == 1, stopped.stderr
    assert "can't be read" in stopped.stderr
    done = finish(start(project, other))
    assert done.code == 0, done.stderr
    complete(project, rows_of(4), project.folder / "other.jsonl")
    until_done(project)
    all_well(project, rows_of(4))


@pytest.mark.parametrize("moment", ["planned", "uploaded"])
def test_what_another_manifest_planned_and_never_sent_is_sent_once(tmp_path: Path, moment: str) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    arm(project, "slow-request", route="POST /v1/files", nth=2, params={"seconds": 20})
    other = second_manifest(project)
    first = project.start()
    assert watch(first, named(moment)) is not None
    if moment == "uploaded":
        eventually(lambda: project.ledger("SELECT id FROM shard WHERE state = 'uploading'"), what="an upload")
    first.kill()
    first.communicate()
    done = finish(start(project, other))
    assert done.code == 0, done.stderr
    complete(project, rows_of(4), project.folder / "other.jsonl")
    until_done(project)
    all_well(project, rows_of(4))


def test_a_run_takes_nothing_back_that_another_manifest_is_sending(tmp_path: Path) -> None:
    """The first dies with its shards unsent, the second sends them, the first starts again meanwhile."""
    project = project_of(tmp_path / "p", 4, shards=2)
    with server_of(project) as server:
        server.arm("slow-request", route="POST /v1/files", nth=1, times=4, params={"seconds": 2})
    other = second_manifest(project)
    first = project.start()
    eventually(lambda: ledger_has(project, "uploading"), what="an upload")
    first.kill()
    first.communicate()
    all_gone(project.folder)
    before = http_count(project, "/v1/files")
    second = start(project, other)
    eventually(lambda: http_count(project, "/v1/files") > before, what="an upload of the second run")
    again = project.start()
    for process in (second, again):
        done = finish(process)
        assert done.code == 0, (done.code, done.stdout, done.stderr)
    complete(project, rows_of(4), project.folder / "other.jsonl")
    all_well(project, rows_of(4))


def ledger_has(project: Project, state: str) -> bool:
    try:
        return bool(project.ledger(f"SELECT id FROM shard WHERE state = '{state}'"))
    except sqlite3.OperationalError:
        return False  # not made yet


def http_count(project: Project, path: str) -> int:
    return sum(request["method"] == "POST" and request["path"] == path for request in project.witness.http())


def test_a_plan_that_another_run_overtook_is_made_again(tmp_path: Path) -> None:
    """Both plan the same requests; the slower finds them sent when it commits."""
    project = project_of(tmp_path / "p", 12_000, shards=1)
    rows = rows_of(12_000)
    other = second_manifest(project, dataset={"path": "rows.csv", "key": "id", "query": "FROM dataset"})
    processes = [project.start(), start(project, other)]
    for process in processes:
        done = finish(process)
        assert "Traceback" not in done.stderr
        assert done.code == 0, (done.code, done.stdout[-2000:], done.stderr)
    paid_once(project)
    complete(project, rows)
    complete(project, rows, project.folder / "other.jsonl")


# ---------------------------------------------------------------- cancel


def cancel(project: Project) -> subprocess.CompletedProcess[str]:
    command = project.command("cancel", str(project.manifest_path), "--yes")
    return run_warm(command, cwd=project.folder, env=project.environment(), timeout=60)


def half_slow(project: Project) -> list[dict[str, str]]:
    """Three rows that are answered at once, three that take long."""
    rows = [
        {"id": f"k{n}", "text": f"row-{n}-end" + (" [[local:slow 60]]" if n >= 3 else "")} for n in range(6)
    ]
    project.write_rows(rows)
    return rows


def test_a_cancel_beside_a_run_ends_it_keeps_what_was_finished_and_the_next_run_asks_the_rest(
    tmp_path: Path,
) -> None:
    project = project_of(tmp_path / "p", 6)
    half_slow(project)
    process = project.start()
    eventually(lambda: ledger_has(project, "submitted") and len(executed(project)) >= 3, what="three answers")
    done = cancel(project)
    assert done.returncode == 0, done.stderr
    finished = finish(process)
    assert finished.code == EXIT_FAILED_ROWS, (finished.stdout, finished.stderr)
    assert [row["_status"] for row in project.results()] == ["succeeded"] * 3 + ["cancelled"] * 3
    assert len(project.witness.creates()) == 1, "what a person cancelled is not asked again by that run"
    process = project.start()
    created = watch(process, named("batch_created"))
    end(process)
    assert created is not None
    assert created["requests"] == 3
    paid_once(project)


def test_a_cancelled_detached_run_keeps_what_was_finished(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6)
    half_slow(project)
    assert project.run("--detach").code == EXIT_STILL_RUNNING
    with server_of(project):
        eventually(lambda: len(executed(project)) >= 3, what="three answers")
    assert cancel(project).returncode == 0
    all_gone(project.folder)
    with server_of(project) as server:
        work_off(server)
    project.write_rows(
        [{"id": f"k{n}", "text": f"row-{n}-end" + (" [[local:slow 0]]" if n >= 3 else "")} for n in range(6)]
    )
    done = project.run()
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 3), "the rest, by the very next run"
    paid_once(project)


def test_cancelling_what_is_finished_loses_nothing(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    assert project.run("--detach").code == EXIT_STILL_RUNNING
    with server_of(project) as server:
        work_off(server)
    done = cancel(project)
    assert done.returncode == 0, done.stderr
    until_done(project)
    all_well(project, rows_of(4))


def test_a_cancel_while_every_poll_writes_never_takes_a_state_back(tmp_path: Path) -> None:
    """The run moves its shards on while `cancel` records a wish: neither overwrites the other.

    What is in flight at the cancel is answered within the second that the built-in server's batches get.
    """
    rows = [{"id": f"k{n}", "text": f"row-{n}-end [[local:slow {n * 0.05:.2f}]]"} for n in range(16)]
    project = project_of(tmp_path / "p", 16, shards=8)
    project.write_rows(rows)
    process = project.start()
    assert watch(process, named("batch_done")) is not None
    assert cancel(project).returncode == 0
    finish(process)
    states = {state for (state,) in project.ledger("SELECT state FROM shard")}
    assert states == {"done"}
    until_done(project)
    all_well(project, rows)
    assert json.loads(project.call("status", str(project.manifest_path), "--json").stdout)
