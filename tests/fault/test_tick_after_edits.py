"""Runs that ticks go on with after an edit of the manifest, or without the options they were started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.commands.moments import Silent
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick
from tests.e2e.scheduled import seconds
from tests.fault.run_hostile_server import Batch, HostileServer, Look, failure, good, lines
from tests.project_factory import Project

pytestmark = pytest.mark.usefixtures("lent_duckdb")

FIRST, LATER, SECOND, SOON_AFTER = (
    "2026-01-01T02:00",
    "2026-01-01T03:00",
    "2026-01-02T02:00",
    "2026-01-02T02:05",
)
NIGHTLY = {"cron": "0 2 * * *"}
COUNTS = {"total": 2, "completed": 0, "failed": 0}
UNDER_WAY: dict[str, Any] = {"status": "in_progress", "request_counts": COUNTS}


def ticked(project: Project, at: str) -> TickReport:
    """One tick at this moment."""
    return tick((project.manifest_path,), environ={}, reporter=Silent(), clock=lambda: seconds(at))


def moved_to(project: Project, server: HostileServer) -> None:
    """The manifest names another server from now on, and how often it is asked in words."""
    project.manifest["model"]["provider"].update(base_url=server.base_url, poll_interval_s="50ms")
    project.write_manifest()


def bought(server: HostileServer) -> list[str]:
    """The key of every request that was bought there."""
    return sorted(one.partition("-")[0] for batch in server.batches for one in batch.ids)


def dues(project: Project) -> list[tuple[str, str]]:
    """State and message of every due time, in order."""
    return [(state, text) for state, text in project.ledger("SELECT state, message FROM due ORDER BY due_at")]


# ---------------------------------------------------------------- another server


def without_credit(batch: Batch, _look: int) -> Look:
    """The first batch fails for want of credit, the second goes on and on."""
    if batch.number == 1:
        gone = {"code": "insufficient_quota", "message": "no credit"}
        return Look(output=lines(*(failure(one, **gone) for one in batch.requests)))
    return Look(fields=UNDER_WAY)


def test_a_tick_sends_nothing_to_a_server_for_which_it_was_not_rendered(tmp_path: Path) -> None:
    with HostileServer(without_credit) as old, HostileServer() as new:
        project = old.project(tmp_path / "p", 4, batch={"max_requests_per_file": 2}, schedule=NIGHTLY)
        ticked(project, FIRST)
        assert bought(old) == ["k0", "k1", "k2", "k3"]
        moved_to(project, new)
        (left,) = ticked(project, LATER).failed
        assert "another server" in left.message
        assert old.base_url in left.message
        assert ticked(project, LATER).failed == (), "told once"
        assert bought(new) == []
        assert [state for state, _ in dues(project)] == ["failed"]
        assert not (project.folder / "results.jsonl").exists(), "nothing has finished"
        assert project.ledger("SELECT state FROM shard") == [("done",), ("submitted",)]
        ticked(project, SECOND)
        ticked(project, SOON_AFTER)
        assert bought(new) == ["k0", "k1", "k2", "k3"]
        assert bought(old) == ["k0", "k1", "k2", "k3"]
        assert [row["_status"] for row in project.results()] == ["succeeded"] * 4


def test_what_was_left_at_another_server_is_collected_when_that_is_named_again(tmp_path: Path) -> None:
    looks = [Look(fields=UNDER_WAY)]
    with (
        HostileServer(lambda batch, _: looks[0] if looks else Look(output=good(batch))) as old,
        HostileServer() as new,
    ):
        project = old.project(tmp_path / "p", 2, schedule=NIGHTLY)
        ticked(project, FIRST)
        moved_to(project, new)
        ticked(project, LATER)
        looks.clear()
        moved_to(project, old)
        (advanced,) = ticked(project, LATER).advanced
        assert advanced.finished is not None
        assert advanced.finished.succeeded == 2
        assert (bought(old), bought(new)) == (["k0", "k1"], [])


def test_old_batches_at_the_server_of_now_keep_no_due_time_waiting(tmp_path: Path) -> None:
    """The run before the last one was made for it, and its batch is still under way there."""
    with HostileServer(lambda *_: Look(fields=UNDER_WAY)) as first, HostileServer(without_credit) as second:
        project = first.project(tmp_path / "p", 4, schedule=NIGHTLY)
        ticked(project, FIRST)
        moved_to(project, second)
        assert project.run("--detach", "--yes").code == 75
        moved_to(project, first)
        ticked(project, SECOND)
        assert [state for state, _ in dues(project)] == ["failed", "started"]
        assert bought(first) == ["k0", "k1", "k2", "k3"], "it waits for the batch that is there"
