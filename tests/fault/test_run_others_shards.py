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
    """A manifest beside that of the project, which asks the first of its rows, and one of its own."""
    with (project.folder / "rows.csv").open() as file:
        first = list(csv.reader(file))[: rows + 1]
    with (project.folder / "few.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*first, ["own", "a row of its own"]])
    own = {"name": "small", "dataset": {"path": "few.csv", "key": "id"}, "output": {"path": "few.jsonl"}}
    path = project.folder / "small.yaml"
    path.write_text(yaml.safe_dump({**project.manifest, **own, **sections}))
    return path


def run(project: Project, path: Path, *options: str) -> Done:
    done = project.call("run", str(path), "--json", *options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def ticked(path: Path, at: str) -> None:
    """One tick at this moment."""
    tick((path,), environ={}, reporter=Silent(), clock=lambda: seconds(at))


# ---------------------------------------------------------------- its terms


class NarrowServer(HostileServer):
    """Takes three requests in a file."""

    def _upload(self, body: bytes) -> Reply:
        is_large = body.count(b'"custom_id"') > 3
        return (413, b'{"error":{"message":"too large"}}') if is_large else super()._upload(body)


def test_what_is_cut_goes_on_in_the_window_that_it_was_planned_for(tmp_path: Path) -> None:
    with NarrowServer() as server:
        project = server.project(tmp_path / "p", 6)
        killed_at(project, "upload.begins")
        path = small(project, batch={"completion_window": "1h"})
        assert run(project, path).code == 0
        found = project.ledger("SELECT requests, completion_window FROM shard WHERE state = 'done'")
        assert sorted(found) == [(1, "1h"), (3, "24h"), (3, "24h")]


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


def broken(request: dict[str, Any]) -> dict[str, Any]:
    """A failure that may pass, and was billed as much as may be."""
    body = {"error": {"message": "broke"}, "usage": {"prompt_tokens": 0, "completion_tokens": LIMIT}}
    return {
        **failure(request),
        "response": {"status_code": 500, "request_id": "r", "body": body},
        "error": None,
    }


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
        return Look(output=lines(*map(broken, batch.requests)))

    with HostileServer(billed) as server:
        project = priced(server, tmp_path / "p", 2, budget={"max_cost": 1.1}, schedule={"cron": "0 2 * * *"})
        path = small(project, retry={"attempts": 1}, budget={})
        ticked(project.manifest_path, "2026-01-01T02:00")
        is_slow = False
        if is_collected_by_another:
            assert run(project, path).code == 3
        ticked(project.manifest_path, "2026-01-01T02:05")
        assert project.ledger("SELECT exit_code FROM due") == [(3,)]
        own = [["own"]] if is_collected_by_another else []
        assert sorted(bought(server)) == [["k0", "k1"], *own], "nothing is left to send them again"


def told(done: Done) -> str:
    return "\n".join(event["what"] for event in done.events if event["event"] == "trouble")


def bought(server: HostileServer) -> list[list[str]]:
    """The keys of the requests of each batch."""
    return [[one.rpartition("-")[0] for one in batch.ids] for batch in server.batches]


def killed_before_its_upload(server: HostileServer, folder: Path) -> Project:
    """Three requests of half a dollar each, which nobody has sent."""
    project = priced(server, folder, 3)
    killed_at(project, "upload.begins")
    return project


def test_what_another_manifest_never_sent_is_left_to_it_where_the_budget_is_too_small(tmp_path: Path) -> None:
    with HostileServer() as server:
        project = killed_before_its_upload(server, tmp_path / "p")
        path = small(project, budget={"max_cost": 1.9})
        done = run(project, path)
        assert (done.code, bought(server)) == (75, [["own"]])
        assert f"3 requests of {project.manifest_path}, which are not sent by this run" in told(done)
        assert f"`run {project.manifest_path}` sends them" in told(done)
        assert project.run("--yes").code == 0
        done = run(project, path)
        assert (done.code, bought(server)) == (0, [["own"], ["k0", "k1", "k2"]])


def test_what_another_manifest_never_sent_is_sent_where_it_fits_and_told(tmp_path: Path) -> None:
    with HostileServer() as server:
        project = killed_before_its_upload(server, tmp_path / "p")
        done = run(project, small(project, budget={"max_cost": 2.1}))
        assert (done.code, sorted(bought(server))) == (0, [["k0", "k1", "k2"], ["own"]])
        assert told(done).count(f"3 requests of {project.manifest_path}, which this run sends") == 1
        assert project.ledger("SELECT paid_output_tokens FROM run ORDER BY id DESC LIMIT 1") == [(8,)]


def test_what_was_sent_for_another_manifest_counts_before_anything_is_sent_again(tmp_path: Path) -> None:
    """Its own request has failed and was billed, while the three others may still cost one and a half."""
    is_slow = True

    def script(batch: Batch, _look: int) -> Look:
        if len(batch.requests) == 1:
            return Look(output=lines(*map(broken, batch.requests)))
        counts = {"total": 3, "completed": 0, "failed": 0}
        slow = Look(fields={"status": "in_progress", "request_counts": counts})
        return slow if is_slow else Look(output=good(batch))

    with HostileServer(script) as server:
        project = killed_before_its_upload(server, tmp_path / "p")
        path = small(project, budget={"max_cost": 2.1}, schedule={"cron": "0 2 * * *"})
        ticked(path, "2026-01-01T02:00")
        ticked(path, "2026-01-01T02:05")
        assert sorted(bought(server)) == [["k0", "k1", "k2"], ["own"]]
        is_slow = False
        ticked(path, "2026-01-01T02:10")
        assert project.ledger("SELECT exit_code FROM due") == [(3,)]


def test_where_the_other_manifest_is_gone_the_same_command_asks_its_own_rows(tmp_path: Path) -> None:
    with HostileServer() as server:
        project = killed_before_its_upload(server, tmp_path / "p")
        path = small(project, budget={"max_cost": 1.9})
        project.manifest_path.unlink()
        assert run(project, path).code == 75
        plan = project.call("plan", str(path), "--json")
        done = run(project, path)
        assert (done.code, bought(server)) == (0, [["own"], ["k0"]])
        assert '"requests_to_send":1' in plan.stdout, "the plan has said so"


def test_no_due_time_waits_for_what_another_manifest_never_sent(tmp_path: Path) -> None:
    with HostileServer() as server:
        project = killed_before_its_upload(server, tmp_path / "p")
        path = small(project, budget={"max_cost": 1.4}, schedule={"cron": "0 2 * * *"})
        for at in ("2026-01-01T02:00", "2026-01-01T02:05", "2026-01-02T02:00", "2026-01-02T02:05"):
            ticked(path, at)
        assert project.ledger("SELECT state, exit_code FROM due") == [("finished", 75)] * 2
        assert bought(server) == [["own"]]
