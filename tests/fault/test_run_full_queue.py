"""A server that lets only so many tokens wait, as OpenAI does: what does not fit goes in portions, later."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.fault.run_factories import EXIT_DONE, EXIT_FAILED_ROWS, EXIT_STILL_RUNNING
from tests.fault.run_hostile_server import Batch, HostileServer, Look, good
from tests.localserver_process import eventually
from tests.project_factory import Project


class Queue:
    """Every byte of a request is a token. `let_in` and `turned_away` are batches by their number; one that
    was let in has ended when it was looked at `looks_a_batch` times."""

    looks_a_batch = 3
    is_cancelled = False

    def __init__(self, limit_tokens: int | None, room_tokens: int) -> None:
        self._said = "" if limit_tokens is None else f" Limit: {limit_tokens:,} enqueued tokens."
        self.room_tokens = room_tokens
        self._waiting: dict[int, int] = {}
        self.let_in: list[int] = []
        self.turned_away: list[int] = []

    def script(self, batch: Batch, look: int) -> Look:
        if look == 1:
            tokens = sum(len(json.dumps(request)) for request in batch.requests)
            if sum(self._waiting.values()) + tokens > self.room_tokens:
                self.turned_away.append(batch.number)
            else:
                self._waiting[batch.number] = tokens
                self.let_in.append(batch.number)
        if batch.number in self.turned_away:
            error = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached." + self._said}
            counts = {"total": 0, "completed": 0, "failed": 0}
            errors = {"object": "list", "data": [error]}
            return Look(fields={"status": "failed", "errors": errors, "request_counts": counts})
        if self.is_cancelled:
            return Look(output=b"", fields={"status": "cancelled"})
        if look < self.looks_a_batch:
            return Look(fields={"status": "in_progress"})
        self._waiting.pop(batch.number, None)
        return Look(output=good(batch))


def test_what_does_not_fit_into_the_queue_goes_in_portions_and_costs_no_attempt(tmp_path: Path) -> None:
    queue = Queue(limit_tokens=200, room_tokens=1_000)
    with HostileServer(queue.script) as server:
        project = server.project(tmp_path / "p", 12, retry={"attempts": 1, "backoff": {"initial": 0}})
        done = project.run()
    assert done.code == EXIT_DONE, done.stderr
    rows = project.results()
    assert all(f"answer to {row['text']}" in row["_answer"] for row in rows)
    assert queue.turned_away == [1, 3], "portions fit, but for the one that tried whether twice as much would"
    sizes = [len(batch.requests) for batch in server.batches]
    assert sizes == [12, 3, 7, 3, 3, 3]
    assert sorted(row["_attempts"] for row in rows) == [2] * 5 + [3] * 7
    told = [event["what"] for event in done.events if "not let in" in event.get("what", "")]
    words = "nothing of it ran (Enqueued token limit reached. Limit: 200 enqueued tokens.); as much as fits"
    assert [words in what for what in told] == [True, True]


def test_portions_are_halved_where_a_token_is_shorter_than_it_was_taken_for(tmp_path: Path) -> None:
    queue = Queue(limit_tokens=2_000, room_tokens=800)
    with HostileServer(queue.script) as server:
        project = server.project(tmp_path / "p", 12, retry={"attempts": 1, "backoff": {"initial": 0}})
        assert project.run().code == EXIT_DONE
    assert {row["_status"] for row in project.results()} == {"succeeded"}
    assert 1 < len(queue.turned_away) < 12


def test_a_queue_that_names_no_limit_is_tried_again_with_everything(tmp_path: Path) -> None:
    queue = Queue(limit_tokens=None, room_tokens=10_000)
    queue._waiting[0] = 9_999  # somebody else
    with HostileServer(queue.script) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 1, "backoff": {"initial": 0}})
        original = queue.script

        def script(batch: Batch, look: int) -> Look:
            if batch.number == 3:
                queue._waiting.pop(0, None)
            return original(batch, look)

        server.script = script
        assert project.run().code == EXIT_DONE
    assert (queue.turned_away, queue.let_in) == ([1, 2], [3])
    assert [row["_attempts"] for row in project.results()] == [3] * 4


def test_the_next_run_goes_on_with_what_was_turned_away(tmp_path: Path) -> None:
    queue = Queue(limit_tokens=200, room_tokens=0)
    with HostileServer(queue.script) as server:
        retry = {"attempts": 1, "backoff": {"initial": "4s", "max": "4s"}}
        project = server.project(tmp_path / "p", 6, retry=retry)
        assert project.run("--wait", "3s").code == EXIT_STILL_RUNNING
        assert queue.let_in == []
        queue.room_tokens = 100_000
        assert project.run().code == EXIT_DONE
    assert {row["_status"] for row in project.results()} == {"succeeded"}


def _in_the_first_portion(
    server: HostileServer, queue: Queue, folder: Path
) -> tuple[Project, subprocess.Popen[str]]:
    project = server.project(folder / "p", 12, retry={"attempts": 1, "backoff": {"initial": 0}})
    process = project.start()
    eventually(lambda: queue.let_in == [2], what="the first portion")
    return project, process


def test_a_run_that_was_killed_in_a_portion_goes_on_with_portions(tmp_path: Path) -> None:
    queue = Queue(limit_tokens=200, room_tokens=1_000)
    queue.looks_a_batch = 8
    with HostileServer(queue.script) as server:
        project, process = _in_the_first_portion(server, queue, tmp_path)
        process.kill()
        process.communicate(timeout=60)
        assert len(server.batches) == 2
        assert project.run().code == EXIT_DONE
    assert max(len(batch.requests) for batch in server.batches[1:]) == 6
    assert {row["_status"] for row in project.results()} == {"succeeded"}
    assert len(project.ledger("SELECT id FROM run")) == 1


def test_who_cancels_what_is_let_in_cancels_what_waits_for_it(tmp_path: Path) -> None:
    queue = Queue(limit_tokens=200, room_tokens=1_000)
    queue.looks_a_batch = 100_000
    with HostileServer(queue.script) as server:
        project, process = _in_the_first_portion(server, queue, tmp_path)
        project.call("cancel", str(project.manifest_path))
        queue.is_cancelled = True
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, len(server.batches)) == (EXIT_FAILED_ROWS, 2), stdout + stderr
