"""Runs that ticks go on with after an edit of the manifest, or without the options they were started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.commands.moments import Silent
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick
from tests.e2e.scheduled import seconds
from tests.fault.run_hostile_server import Batch, HostileServer, Look, answer, failure, good, lines
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
        states = project.ledger("SELECT state FROM shard")
        assert sorted(states) == [("done",), ("submitted",)], "whichever was made first lacked credit"
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


# ---------------------------------------------------------------- what a run was started with


def billed(batch: Batch, _look: int) -> Look:
    """The first batch breaks, and each of its requests is billed with half a dollar; the others are well."""
    if batch.number > 1:
        return Look(output=good(batch))
    usage = {"prompt_tokens": 0, "completion_tokens": 500_000, "total_tokens": 500_000}
    broken = {"status_code": 500, "request_id": "r", "body": {"error": {"message": "broke"}, "usage": usage}}
    return Look(
        output=lines(*({**failure(one), "response": broken, "error": None} for one in batch.requests))
    )


def detached(project: Project, *options: str) -> None:
    done = project.run("--detach", "--yes", *options)
    assert done.code == 75, done.stderr


@pytest.mark.parametrize("option", ["budget.max_cost=1.2", "retry.attempts=1"])
def test_a_tick_sends_again_what_the_run_would_that_was_started_so(tmp_path: Path, option: str) -> None:
    """Two failures for a dollar: they go again in a run without the option, and in none with it."""
    for options, batches in ((("--set", option), 1), ((), 2)):
        with HostileServer(billed) as server:
            project = server.project(tmp_path / str(batches), 2)
            prices = {"input_per_million": 0, "output_per_million": 1}
            project.manifest["model"] |= {"prices": prices, "parameters": {"max_tokens": 500_000}}
            project.write_manifest()
            detached(project, *options)
            ticked(project, FIRST)
            ticked(project, LATER)
            assert len(server.batches) == batches


def test_files_of_what_a_tick_sends_again_are_as_small_as_the_run_was_told(tmp_path: Path) -> None:
    with HostileServer(billed) as server:
        project = server.project(tmp_path / "p", 2)
        detached(project, "--set", "batch.max_requests_per_file=1", "--set", "batch.completion_window=1h")
        ticked(project, FIRST)
        assert [len(batch.requests) for batch in server.batches] == [1, 1, 1]
        assert {window for (window,) in project.ledger("SELECT completion_window FROM shard")} == {"1h"}


def cut_below(most: int) -> Any:
    """Answers are cut where their limit is this or less."""

    def told(request: dict[str, Any]) -> dict[str, Any]:
        value = answer(request)
        if request["body"]["max_tokens"] <= most:
            value["response"]["body"]["choices"][0]["finish_reason"] = "length"
        return value

    return lambda batch, _: Look(output=lines(*map(told, batch.requests)))


def narrowed(server: HostileServer, folder: Path) -> Project:
    """All four answers were cut; then the first row alone was asked with a larger limit, and left alone."""
    project = server.project(folder, 4)
    project.manifest["model"]["parameters"] = {"max_tokens": 100}
    project.write_manifest()
    assert project.run().code == 3
    project.manifest["on_truncated"] = {"max_tokens_factor": 4, "ceiling": 1600}
    project.write_manifest()
    detached(project, "--limit", "1")
    return project


def limits(server: HostileServer) -> list[list[int]]:
    return [[one["body"]["max_tokens"] for one in batch.requests] for batch in server.batches]


def test_a_tick_asks_only_those_again_with_a_larger_limit_that_the_run_was_about(tmp_path: Path) -> None:
    with HostileServer(cut_below(400)) as server:
        project = narrowed(server, tmp_path / "p")
        ticked(project, FIRST)
        ticked(project, LATER)
        assert limits(server) == [[100] * 4, [400], [1600]]
        assert [row["_status"] for row in project.results()] == ["succeeded"] + ["truncated"] * 3


def test_the_same_command_without_its_limit_plans_the_larger_requests_of_all(tmp_path: Path) -> None:
    with HostileServer(cut_below(100)) as server:
        project = narrowed(server, tmp_path / "p")
        assert project.run().event("planned")["requests_to_send"] == 3
        assert limits(server) == [[100] * 4, [400], [400] * 3]


def test_larger_limits_that_are_edited_in_wait_for_the_next_run(tmp_path: Path) -> None:
    with HostileServer(cut_below(100)) as server:
        project = server.project(tmp_path / "p", 2)
        project.manifest["model"]["parameters"] = {"max_tokens": 100}
        project.write_manifest()
        detached(project)
        project.manifest["on_truncated"] = {"max_tokens_factor": 4, "ceiling": 1600}
        project.write_manifest()
        ticked(project, FIRST)
        assert limits(server) == [[100] * 2]
        project.run()
        assert limits(server) == [[100] * 2, [400] * 2]
