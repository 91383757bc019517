"""A server that loses replies, lies about effects, refuses, stalls or lags: each request is executed once."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runner.core.states import CLEAN_SCANS_NEEDED
from tests.fault.run_factories import (
    EXIT_REFUSED,
    all_gone,
    all_well,
    arm,
    end,
    named,
    project_of,
    rows_of,
    server_of,
    until_done,
    watch,
)
from tests.localserver_process import eventually
from tests.project_factory import Project

CREATE, UPLOAD = "POST /v1/batches", "POST /v1/files"


def troubles(done_events: list[dict[str, object]]) -> str:
    return "\n".join(str(event["what"]) for event in done_events if event["event"] == "trouble")


@pytest.mark.parametrize("shards", [1, 3])
def test_a_lost_reply_to_an_upload_is_uploaded_again_and_bought_once(tmp_path: Path, shards: int) -> None:
    project = project_of(tmp_path / "p", 6, shards=shards)
    arm(project, "lost-reply", route=UPLOAD)
    assert project.run().code == 0
    all_well(project, rows_of(6))
    assert len(project.witness.uploads()) == shards + 1
    assert len(project.witness.creates()) == shards


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("lost-reply", {}),
        ("error-after-effect", {"status": 500}),
        ("error-after-effect", {"status": 502}),
        ("error-after-effect", {"status": 504}),
    ],
)
def test_a_create_that_took_effect_without_saying_so_is_found_and_adopted(
    tmp_path: Path, shards: int, kind: str, params: dict[str, int]
) -> None:
    project = project_of(tmp_path / "p", 6, shards=shards)
    arm(project, kind, route=CREATE, params=params)
    done = project.run()
    assert done.code == 0, done.stderr
    adopted = [
        event for event in done.events if event["event"] == "batch_created" and event["is_adopted"] is True
    ]
    assert len(adopted) == 1
    assert len(project.witness.creates()) == shards
    all_well(project, rows_of(6))


def test_every_create_may_lose_its_reply(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=3)
    arm(project, "lost-reply", route=CREATE, times=0)
    assert project.run().code == 0
    assert len(project.witness.creates()) == 3
    all_well(project, rows_of(6))


@pytest.mark.parametrize("kind", ["internal-500", "gateway-502", "gateway-504", "unavailable-503"])
def test_a_create_that_may_have_failed_is_fenced_before_it_is_sent_anew(tmp_path: Path, kind: str) -> None:
    project = project_of(tmp_path / "p", 4)
    arm(project, kind, route=CREATE)
    done = project.run()
    assert done.code == 0, done.stderr
    uploads = project.witness.uploads()
    first, second = (one for one in uploads if not one["filename"].endswith("-canary.jsonl"))
    assert first["filename"] != second["filename"]
    assert len(uploads) == 2 + CLEAN_SCANS_NEEDED, "each listing after the fence has a canary"
    deleted = [change["id"] for change in project.witness.changes() if change["action"] == "delete"]
    assert first["file_id"] in str(deleted) or any(
        first["file_id"] in str(c) for c in project.witness.changes()
    )
    (created,) = project.witness.creates()
    assert created["input_file_id"] == second["file_id"]
    all_well(project, rows_of(4))


def test_a_kill_while_a_create_is_unknown_changes_nothing(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    arm(project, "lost-reply", route=CREATE)
    process = project.start()
    assert watch(process, named("trouble")) is not None
    process.kill()
    process.communicate()
    all_gone(project.folder)
    until_done(project)
    assert len(project.witness.creates()) == 1
    all_well(project, rows_of(4))


def test_a_kill_while_a_create_is_on_the_wire_is_settled_by_the_next_run(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    arm(project, "slow-request", route=CREATE, params={"seconds": 30})
    process = project.start()
    assert watch(process, named("uploaded", 2)) is not None
    watch(process, named("batch_created"))
    process.kill()
    process.communicate()
    all_gone(project.folder)
    done = until_done(project)
    assert "looking" in troubles(done.events), "a wait of seconds is told"
    all_well(project, rows_of(4))


@pytest.mark.parametrize(
    ("kind", "route"),
    [
        ("balance-402", CREATE),
        ("volume-429", CREATE),
        ("unauthorized-401", CREATE),
        ("unauthorized-401", UPLOAD),
        ("unauthorized-401", "GET /v1/batches/*"),
        ("unauthorized-401", "GET /v1/files/*/content"),
    ],
)
def test_a_refusal_in_mid_run_keeps_everything_and_the_next_run_goes_on(
    tmp_path: Path, kind: str, route: str
) -> None:
    project = project_of(tmp_path / "p", 6, shards=3)
    arm(project, kind, route=route, nth=2, times=4)
    done = project.run()
    assert done.code == EXIT_REFUSED, done.stderr
    assert "run the same command again" in done.stderr
    assert done.event("error")["exit_code"] == EXIT_REFUSED
    with server_of(project) as server:
        server.call("DELETE", "//faults")
    until_done(project)
    all_well(project, rows_of(6))


def test_nothing_new_is_sent_once_the_server_has_refused_payment(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 12, shards=12)
    arm(project, "balance-402", route=CREATE, times=0)
    assert project.run().code == EXIT_REFUSED
    refused = [
        one for one in project.witness.http() if one["method"] == "POST" and one["path"] == "/v1/batches"
    ]
    # Four go up at once, and while their creates are on the way perhaps four more.
    assert len(refused) <= len(project.witness.uploads()) <= 8
    assert project.witness.creates() == []


@pytest.mark.parametrize(("kind", "route"), [("capacity-429", CREATE), ("upload-queue-429", UPLOAD)])
def test_a_server_without_capacity_is_waited_for_and_the_wait_can_be_interrupted(
    tmp_path: Path, kind: str, route: str
) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    arm(project, kind, route=route)
    process = project.start()
    assert watch(process, named("trouble")) is not None
    assert end(process, signal.SIGINT).code == 130
    assert len(project.witness.creates()) <= 1
    until_done(project)
    all_well(project, rows_of(4))


@pytest.mark.parametrize("kind", ["gateway-502", "internal-500"])
def test_a_storm_on_the_polls_changes_no_state(tmp_path: Path, kind: str) -> None:
    project = project_of(tmp_path / "p", 4, shards=2, token="[[local:slow 1]]")
    arm(project, kind, route="GET /v1/batches/*", times=3)
    process = project.start("--wait", "60")
    end_of = process.communicate(timeout=90)
    assert process.returncode in (0, 75), end_of
    assert "Traceback" not in end_of[1]
    until_done(project)
    assert len(project.witness.creates()) == 2
    all_well(project, rows_of(4, "[[local:slow 1]]"))


@pytest.mark.parametrize("after_bytes", [1, 300, 1500])
def test_a_download_that_breaks_off_is_read_again(tmp_path: Path, after_bytes: int) -> None:
    project = project_of(tmp_path / "p", 6)
    arm(project, "abort-download", times=2, params={"after_bytes": after_bytes})
    assert project.run().code == 0
    all_well(project, rows_of(6))


def test_a_result_that_is_committed_late_is_not_overlooked(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 20, token="[[local:slow 0.4]]")
    arm(project, "late-row", params={"delay_s": 1.0})
    assert project.run().code == 0
    all_well(project, rows_of(20, "[[local:slow 0.4]]"))


def test_a_delete_whose_reply_is_lost_still_fences(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    with server_of(project) as server:
        server.arm("gateway-502", route=CREATE)
        server.arm("lost-reply", route="DELETE /v1/files/*")
    assert project.run().code == 0
    assert len(project.witness.creates()) == 1
    all_well(project, rows_of(4))


def test_a_kill_after_the_fence_was_drawn_draws_it_again_and_goes_on(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    with server_of(project) as server:
        server.arm("gateway-502", route=CREATE)
        server.arm("slow-request", route="GET /v1/batches", nth=7, params={"seconds": 30})
    process = project.start()
    assert watch(process, named("trouble")) is not None
    eventually(lambda: project.ledger("SELECT id FROM shard WHERE state = 'fenced'"), what="the fence")
    process.kill()
    process.communicate()
    all_gone(project.folder)
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE shard SET state = 'fencing'")  # as if killed before the reply was recorded
    until_done(project)
    all_well(project, rows_of(4))


def test_a_file_that_can_not_be_read_for_a_while_makes_no_row_unaccounted(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    arm(project, "gateway-502", route="GET /v1/files/*/content", times=36)
    assert project.run().code == 0
    assert len(project.witness.creates()) == 1
    all_well(project, rows_of(4))


def test_replicas_that_lag_are_no_proof_of_absence(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=3)
    with server_of(project) as server:
        server.arm("replica-lag", times=0, params={"seconds": 1.0})
        server.arm("lost-reply", route=CREATE, nth=2)
    assert project.run().code == 0
    assert len(project.witness.creates()) == 3
    all_well(project, rows_of(6))


def partly_slow(folder: Path) -> tuple[Project, list[dict[str, str]]]:
    """Rows that finish one after another, so that the output grows while the batch runs."""
    rows = [{"id": f"k{n}", "text": f"row-{n}-end [[local:slow {n * 0.25:.2f}]]"} for n in range(8)]
    project = project_of(folder, 8)
    project.write_rows(rows)
    return project, rows


def test_partial_output_is_stored_as_it_grows_and_every_line_once(tmp_path: Path) -> None:
    project, rows = partly_slow(tmp_path / "p")
    done = project.run()
    stored = [event["stored"] for event in done.events if event["event"] == "answers_stored"]
    assert len(stored) > 1
    assert sum(stored) == len(rows)
    all_well(project, rows)
    assert project.ledger("SELECT count(*) FROM quarantine") == [(0,)]


def test_a_kill_between_partial_readings_stores_the_rest(tmp_path: Path) -> None:
    project, rows = partly_slow(tmp_path / "p")
    kills = 0
    for nth in (1, 1, 2):
        process = project.start()
        is_under_way = watch(process, named("answers_stored", nth)) is not None
        process.kill()
        process.communicate()
        kills += is_under_way
    assert kills, "it was never killed between two readings"
    until_done(project)
    all_well(project, rows)


def test_faults_of_several_kinds_at_once_cost_nothing_twice(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 8, shards=4)
    with server_of(project) as server:
        server.arm("lost-reply", route=UPLOAD, nth=2)
        server.arm("lost-reply", route=CREATE, nth=1)
        server.arm("error-after-effect", route=CREATE, nth=2, params={"status": 503})
        server.arm("gateway-502", route=CREATE, nth=3)
        server.arm("abort-download", nth=2)
        server.arm("unavailable-503", route="GET /v1/batches", nth=1)
        server.arm("lost-reply", route="DELETE /v1/files/*", nth=1)
    until_done(project)
    all_well(project, rows_of(8))
    assert len(project.witness.creates()) == 4, "one batch for each file, whatever was said of it"


def test_uploads_that_earlier_runs_tried_do_not_stop_this_one(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    project.environ["RUNNER_FAILPOINT"] = "upload.begins"
    assert project.run().code == -signal.SIGKILL
    del project.environ["RUNNER_FAILPOINT"]
    with closing(sqlite3.connect(project.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
        ledger.execute("UPDATE shard SET attempt = 20")
    done = project.run()
    assert done.code == 0, done.stderr
    all_well(project, rows_of(4))
