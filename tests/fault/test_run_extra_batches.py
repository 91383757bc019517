"""A create that a server carries out twice: one batch drives, the other is recorded, stopped and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions
from runner.commands.rebuild import RebuildOptions, rebuild
from tests.fault.run_factories import EXIT_STILL_RUNNING, complete, rows_of
from tests.fault.run_hostile_server import Batch, Cut, HostileServer, Look, answer, failure, lines
from tests.project_factory import Project

LONG_AGO = 1_000_000_000
"""What was in flight when a batch was cancelled then, is answered or never will be."""


class TwiceServer(HostileServer):
    """Makes two batches of the first create and loses the reply. A cancelled one ends after a look."""

    def __init__(self, second: Any, **others: Any) -> None:
        super().__init__(self._script, created=self._lost, **others)
        self.second = second
        self.cancelled: list[str] = []

    def _lost(self, batch: Batch) -> tuple[int, bytes] | None:
        if batch.number > 1:
            return None
        twin = Batch("batch-0", 0, batch.input_file_id, batch.metadata, batch.requests)
        self.batches.append(twin)
        return 502, b"<html>bad gateway</html>"

    def _script(self, batch: Batch, _looks: int) -> Look:
        if batch.number == 0:
            ended = {"status": "cancelled", "cancelling_at": LONG_AGO}
            fields = ended if batch.id in self.cancelled else {"status": "in_progress"}
            return Look(output=self.second(batch), fields=fields)
        half = [failure(one) if number % 2 else answer(one) for number, one in enumerate(batch.requests)]
        return Look(output=lines(*half))

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if method == "POST" and target.endswith("/cancel"):
            self.cancelled.append(target.split("/")[-2])
            return 200, json.dumps({"id": self.cancelled[-1], "status": "cancelling"}).encode()
        return super().answer(method, target, body)


def test_the_second_batch_is_recorded_stopped_and_its_only_copies_are_kept(tmp_path: Path) -> None:
    with TwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 1})
        done = project.run()
        assert done.code == 0, done.stderr
        complete(project, rows_of(4))
        assert set(server.cancelled) == {"batch-0"}
        assert len(server.batches) == 2, "nothing was sent again"
    assert "batch-0" in done.event("trouble")["what"] or "batch-0" in done.stderr
    journal = (project.folder / ".runner" / "ids.jsonl").read_text()
    assert '"what":"extra batch"' in journal
    # A rebuilt ledger knows of it, too.
    for path in (project.folder / ".runner").glob("ledger.db*"):
        path.unlink()
    manifests = (ManifestOptions(path=str(project.manifest_path)),)
    options = RebuildOptions(manifests=manifests, is_offline=True)
    assert rebuild(options, reporter=Silent()).shards == {"done": 1}
    assert project.run().code == 0
    complete(project, rows_of(4))
    shown = json.loads(project.call("status", str(project.manifest_path), "--json").stdout)
    (batch,) = shown["manifests"][0]["batches"]
    assert (batch["batch_id"], batch["extra_batches"]) == ("batch-1", ["batch-0"])
    assert "batch-0 may be billed as well" in project.call("status", str(project.manifest_path)).stdout


def all_bought_once(project: Project, server: TwiceServer) -> None:
    done = project.run()
    assert done.code == 0, done.stderr
    complete(project, rows_of(4))
    assert set(server.cancelled) == {"batch-0"}
    assert [batch.id for batch in server.batches] == ["batch-0", "batch-1"], "nothing was sent again"


def test_a_run_that_only_submits_stops_the_second_batch_and_the_next_one_reads_it(tmp_path: Path) -> None:
    with TwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert server.cancelled == ["batch-0"]
        all_bought_once(project, server)


@pytest.mark.parametrize("point", ["scan.recorded", "adopt.recorded"])
def test_a_second_batch_is_known_after_a_kill_at_the_adoption(tmp_path: Path, point: str) -> None:
    with TwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        project.environ["RUNNER_FAILPOINT"] = point
        assert project.run().code == -9
        del project.environ["RUNNER_FAILPOINT"]
        assert server.cancelled == []
        all_bought_once(project, server)


class SlowTwiceServer(TwiceServer):
    """Its replicas don't know the second batch at once, and its first cancel fails."""

    troubles = 0

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        is_look = method == "GET" and target.endswith("/batches/batch-0")
        if self.troubles < 2 and (is_look or target.endswith("/batch-0/cancel")):
            self.troubles += 1
            return (404, b'{"error":{"message":"no such batch"}}') if self.troubles == 1 else (503, b"busy")
        return super().answer(method, target, body)


def test_a_second_batch_is_told_to_stop_until_it_was_heard(tmp_path: Path) -> None:
    with SlowTwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert server.troubles == 2
        all_bought_once(project, server)


class FlappingTwiceServer(TwiceServer):
    """Once when the second batch is to be read, something of it is missing, or not whole."""

    missing = ""
    instead: tuple[int, bytes] = (404, b'{"error":{"message":"no such thing"}}')

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        is_driven = any(batch.number == 1 and batch.looks for batch in self.batches)
        if is_driven and self.missing and method == "GET" and target.endswith(self.missing):
            self.missing = ""
            return self.instead
        return super().answer(method, target, body)


@pytest.mark.parametrize("missing", ["/batches/batch-0", "/files/output-0/content"])
def test_a_second_batch_that_is_not_found_once_is_read_all_the_same(tmp_path: Path, missing: str) -> None:
    with FlappingTwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        server.missing = missing
        all_bought_once(
            server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}}), server
        )
        assert not server.missing


def test_a_second_batch_whose_output_was_cut_is_read_once_more(tmp_path: Path) -> None:
    with FlappingTwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        server.missing = "/files/output-0/content"
        server.instead = (200, Cut(b'{"id":"line","custom_id":"of nobody"}\n'))
        all_bought_once(project, server)
        assert not server.missing


class LateTwiceServer(TwiceServer):
    """What was in flight when the second batch was cancelled is answered some looks later."""

    looks = 0

    def _script(self, batch: Batch, looks: int) -> Look:
        if batch.id not in self.cancelled:
            return super()._script(batch, looks)
        self.looks += 1
        found = batch.requests if self.looks > 3 else batch.requests[:1]
        counts = {"total": len(batch.requests), "completed": len(found), "failed": 0}
        fields = {"status": "cancelled", "request_counts": counts}
        return Look(output=lines(*map(answer, found)), fields=fields)


def test_what_is_in_flight_at_the_cancel_of_a_second_batch_is_waited_for(tmp_path: Path) -> None:
    with LateTwiceServer(lambda batch: None) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        all_bought_once(project, server)


class StuckTwiceServer(TwiceServer):
    """The second batch is told to stop, and never says that it has."""

    def _script(self, batch: Batch, looks: int) -> Look:
        look = super()._script(batch, looks)
        return replace(
            look, fields={"status": "cancelling", "cancelling_at": LONG_AGO} if batch.number == 0 else {}
        )


def test_what_a_second_batch_has_answered_is_read_though_it_never_ends(tmp_path: Path) -> None:
    with StuckTwiceServer(lambda batch: lines(*map(answer, batch.requests))) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 2, "backoff": {"initial": 0}})
        all_bought_once(project, server)


def test_a_second_batch_without_output_changes_nothing_but_the_record(tmp_path: Path) -> None:
    with TwiceServer(lambda batch: None) as server:
        project = server.project(tmp_path / "p", 4, retry={"attempts": 1})
        done = project.run()
        assert done.code == 3, done.stderr
        assert [row["_status"] for row in project.results()] == ["succeeded", "failed"] * 2
        assert set(server.cancelled) == {"batch-0"}
    assert project.ledger("SELECT what, detail FROM event WHERE what = 'extra batch'") == [
        ("extra batch", "batch-0")
    ]
