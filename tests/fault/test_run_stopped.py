"""Processes that are stopped, killed or overlap: the witness is that of one process.

A process is stopped (SIGSTOP) at a named point between two effects, as by a closed lid or a paused virtual
machine. It keeps its locks; whoever comes meanwhile leaves or waits; nobody sends what it may have sent.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner.ledger import HeldElsewhereError, hold
from tests.fault.run_factories import (
    EXIT_DONE,
    EXIT_STILL_RUNNING,
    all_well,
    complete,
    executed,
    paid_once,
    project_of,
    rows_of,
    until_done,
)
from tests.fault.run_hostile_server import Batch, HostileServer, Look, answer, failure, good, lines
from tests.fault.test_run_races import second_manifest, start
from tests.fault.test_run_retries import cut_project, killed_at
from tests.localserver_process import eventually
from tests.project_factory import Project, finish

ROWS = 4
POINTS = (
    *(
        "plan.ready",
        "commit.before",
        "upload.intended",
        "upload.answered",
        "create.intended",
        "create.sending",
    ),
    *("create.answered", "save.journal_synced", "outcomes.before", "finish.before", "publish.sealed"),
)


def stopped_at(
    project: Project, point: str, *options: str, manifest: Path | None = None
) -> subprocess.Popen[str]:
    """A run that has just been stopped there."""
    project.environ["RUNNER_FAILPOINT"] = f"{point}@stop"
    process = start(project, manifest or project.manifest_path, *options)
    del project.environ["RUNNER_FAILPOINT"]

    def is_stopped() -> bool:
        assert process.poll() is None, process.communicate()
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    eventually(is_stopped, what=f"the stop at {point}")
    return process


@pytest.mark.parametrize("point", POINTS)
def test_while_a_run_is_stopped_nobody_takes_over_and_it_goes_on(tmp_path: Path, point: str) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=2)
    process = stopped_at(project, point)
    other = project.run()
    assert other.code == EXIT_STILL_RUNNING
    assert f"already running: process {process.pid} since" in other.stderr
    process.send_signal(signal.SIGCONT)
    assert finish(process).code == EXIT_DONE
    assert len(project.witness.creates()) == 2
    all_well(project, rows_of(ROWS))


@pytest.mark.parametrize("point", ["upload.intended", "create.intended", "outcomes.before"])
def test_a_manifest_beside_a_stopped_one_waits_for_what_both_want(tmp_path: Path, point: str) -> None:
    """Stopped in the middle of a change of the ledger, it keeps everybody out; else only its own shards."""
    project = project_of(tmp_path / "p", ROWS, shards=2)
    process = stopped_at(project, point)
    other = second_manifest(project)
    beside = start(project, other, "--wait", "1s")
    assert finish(beside).code == EXIT_STILL_RUNNING
    process.send_signal(signal.SIGCONT)
    assert finish(process).code == EXIT_DONE
    assert finish(start(project, other)).code == EXIT_DONE
    all_well(project, rows_of(ROWS))
    complete(project, rows_of(ROWS), project.folder / "other.jsonl")


@pytest.mark.parametrize("point", ["commit.before", "create.intended", "create.answered", "publish.sealed"])
def test_the_lock_of_a_killed_run_is_free_within_a_second(tmp_path: Path, point: str) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=2)
    process = stopped_at(project, point)
    (lock,) = (project.folder / ".runner" / "locks").glob("manifest-*.lock")

    def is_free() -> bool:
        try:
            with hold(lock):
                return True
        except HeldElsewhereError:
            return False

    assert not is_free()
    process.kill()
    eventually(is_free, wait_s=1.0, what="the lock of a killed process")
    finish(process)
    until_done(project)
    all_well(project, rows_of(ROWS))


def bought(server: HostileServer) -> list[list[str]]:
    """The rows of each batch, by their keys."""
    return [[custom_id.rpartition("-")[0] for custom_id in batch.ids] for batch in server.batches]


@pytest.mark.parametrize("point", ["retry.copied", "retry.sealed"])
def test_a_failure_that_was_repeated_while_a_run_was_stopped_is_not_repeated_again(
    tmp_path: Path, point: str
) -> None:
    """Stopped between looking what failed and recording that it is sent again."""

    def last_row_fails_once(batch: Batch, _look: int) -> Look:
        if batch.number > 1:
            return Look(output=good(batch))
        *others, last = batch.requests
        return Look(output=lines(*map(answer, others)), error=lines(failure(last)))

    with HostileServer(last_row_fails_once) as server:
        project = server.project(tmp_path / "p", ROWS)
        other = second_manifest(project)
        process = stopped_at(project, point)
        beside = finish(start(project, other))
        assert (beside.code, bought(server)[1:]) == (EXIT_DONE, [["k3"]])
        process.send_signal(signal.SIGCONT)
        done = finish(process)
        assert done.code == EXIT_DONE, (done.stdout, done.stderr)
        assert bought(server)[1:] == [["k3"]], "the answer that is there by now is not bought again"
        complete(project, rows_of(ROWS))
        assert list((project.folder / ".runner" / "shards").iterdir()) == []


def test_a_larger_request_that_was_asked_while_a_run_was_stopped_is_not_asked_again(tmp_path: Path) -> None:
    project = cut_project(tmp_path / "p", limit=5, ceiling=100)
    other = second_manifest(project)
    process = stopped_at(project, "raise.sealed")
    assert finish(start(project, other)).code == EXIT_DONE
    process.send_signal(signal.SIGCONT)
    done = finish(process)
    assert done.code == EXIT_DONE, (done.stdout, done.stderr)
    assert {row["_status"] for row in project.results()} == {"succeeded"}
    paid_once(project)
    assert list((project.folder / ".runner" / "shards").iterdir()) == []


@pytest.mark.parametrize(
    ("sections", "options"),
    [({}, []), ({"refresh": {"older_than": "90d"}}, []), ({}, ["--refresh"])],
    ids=["plain", "older", "refresh"],
)
def test_a_request_answered_since_the_plan_is_not_bought_again(
    tmp_path: Path, sections: dict[str, Any], options: list[str]
) -> None:
    """Stopped when somebody has said yes, and nothing is recorded yet."""
    project = project_of(tmp_path / "p", ROWS, **sections)
    other = second_manifest(project)
    process = stopped_at(project, "plan.passed", *options)
    assert finish(start(project, other)).code == EXIT_DONE
    process.send_signal(signal.SIGCONT)
    done = finish(process)
    assert (done.code, done.event("finished")["requests_sent"]) == (EXIT_DONE, 0), done.stderr
    all_well(project, rows_of(ROWS))


def test_an_old_answer_that_is_refreshed_once_is_not_refreshed_by_an_older_plan(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS)
    assert project.run().code == EXIT_DONE
    other = second_manifest(project)
    process = stopped_at(project, "plan.passed", "--refresh")
    assert finish(start(project, other, "--refresh")).code == EXIT_DONE
    process.send_signal(signal.SIGCONT)
    done = finish(process)
    assert (done.code, done.event("finished")["requests_sent"]) == (EXIT_DONE, 0), done.stderr
    assert set(executed(project).values()) == {2}


@pytest.mark.parametrize("is_known", [False, True], ids=["new", "kept"])
def test_a_row_that_waits_for_a_shard_that_is_taken_back_meanwhile_is_asked(
    tmp_path: Path, is_known: bool
) -> None:
    """The first dies with its shard unsent; while the second is asked for a yes, it is cancelled."""
    project = project_of(tmp_path / "p", ROWS)
    (project.folder / "more.csv").write_text(
        (project.folder / "rows.csv").read_text(encoding="utf-8") + "k4,row-4-end\n", encoding="utf-8"
    )
    other = second_manifest(project)
    killed_at(project, "commit.done")
    if is_known:
        assert finish(start(project, other, "--limit", "1", "--wait", "0s")).code == EXIT_STILL_RUNNING
    second_manifest(project, dataset={"path": "more.csv", "key": "id"})
    process = stopped_at(project, "plan.passed", manifest=other)
    cancelled = project.call("cancel", str(project.manifest_path), "--yes")
    assert "1 file that had not been sent" in cancelled.stderr
    process.send_signal(signal.SIGCONT)
    done = finish(process)
    assert done.code == EXIT_DONE, (done.stdout, done.stderr)
    complete(project, rows_of(ROWS + 1), project.folder / "other.jsonl")
    paid_once(project)


def test_a_run_whose_rows_wait_for_nobody_in_the_end_says_so_and_is_not_done(tmp_path: Path) -> None:
    """What it waits for is taken back when its plan is recorded and before it could send that itself."""
    project = project_of(tmp_path / "p", ROWS)
    other = second_manifest(project)
    killed_at(project, "commit.done")
    process = stopped_at(project, "commit.done", manifest=other)
    assert (
        "1 file that had not been sent" in project.call("cancel", str(project.manifest_path), "--yes").stderr
    )
    process.send_signal(signal.SIGCONT)
    done = finish(process)
    assert (done.code, done.event("finished")["pending"]) == (EXIT_STILL_RUNNING, ROWS), done.stderr
    assert "nothing is on its way for them" in done.events[-2]["what"]
    assert finish(start(project, other)).code == EXIT_DONE
    complete(project, rows_of(ROWS), project.folder / "other.jsonl")
    paid_once(project)


def test_the_files_of_a_plan_that_was_overtaken_are_removed(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=2)
    other = second_manifest(project)
    process = stopped_at(project, "plan.ready")
    assert finish(start(project, other)).code == EXIT_DONE
    process.send_signal(signal.SIGCONT)
    assert finish(process).code == EXIT_DONE
    all_well(project, rows_of(ROWS))
    assert list((project.folder / ".runner" / "shards").iterdir()) == []


def test_a_cron_job_that_overlaps_itself_is_one_run(tmp_path: Path) -> None:
    """Started again and again while the first is at work; some overlap, some come after."""
    token = "[[local:slow 1]]"
    project = project_of(tmp_path / "p", ROWS, shards=2, token=token)
    processes = []
    for _ in range(8):
        processes.append(project.start())
        eventually(lambda: (project.folder / ".runner" / "locks").exists(), what="a begin")
    codes = [finish(process).code for process in processes]
    assert set(codes) <= {EXIT_DONE, EXIT_STILL_RUNNING}
    until_done(project)
    assert len(project.witness.creates()) == 2
    all_well(project, rows_of(ROWS, token))


def test_four_manifests_four_times_each_share_one_ledger(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", ROWS, shards=2)
    manifests = [project.manifest_path, *(second_manifest(project, name) for name in ("b", "c", "d"))]
    processes = [start(project, manifest, "--wait", "60s") for manifest in manifests for _ in range(4)]
    for done in [finish(process) for process in processes]:
        assert "Traceback" not in done.stderr
        assert done.code == EXIT_DONE, (done.code, done.stdout, done.stderr)
    paid_once(project)
    for table in ("results.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"):
        complete(project, rows_of(ROWS), project.folder / table)
