"""Workers that make results and are killed, can't be started, or are told too much."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.commands import lineage_pool as lineage_pool_module
from runner.commands.lineage_pool import Portion
from runner.commands.raw_answers import RawAnswers
from runner.commands.worker_pool import WorkerPool
from runner.errors import RunnerError
from tests.contract.ledger_factories import Project, succeeded, to_send
from tests.contract.lineage_factories import Table, is_begun, make_table, raw_line, raw_path, store
from tests.fault.render_factories import render_workers as workers
from tests.localserver_process import eventually
from tests.project_factory import make_project

LONG = "x" * 600_000
ROWS = 36


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage_pool_module, "_RANGE_ROWS", 12)


def slow_table(folder: Path) -> tuple[Table, Path]:
    """A first portion of three long answers, and the file that the rest of the first range stands in."""
    table = make_table(folder, 3)
    project = Project(table.project.ledger, table.project.ledger.ensure_manifest("other.yaml", "other"))
    submission = project.send(project.commit([to_send(n, f"o{n}", line=n) for n in range(ROWS)])[0])
    files: dict[str, list[Any]] = {"long": [], "rest": [], "more": []}
    for custom_id, one in project.ledger.expected(submission.shard_id).items():
        name = "long" if one.line < 4 else "rest" if one.line < 12 else "more"
        line = raw_line(custom_id, LONG if name == "long" else "an answer")
        files[name].append((one.line, one.request_id, succeeded(), line))
    for name, lines in files.items():
        store(project, submission, name, lines)
    rest = project.ledger.place.folder / raw_path(project, submission, "rest")
    return Table(project, table.source, ROWS), rest


@contextmanager
def held_up(path: Path) -> Iterator[None]:
    """Whoever opens the file waits."""
    kept = path.with_suffix(".kept")
    path.rename(kept)
    os.mkfifo(path)
    yield
    kept.replace(path)


def pieces_of(pool: WorkerPool[Portion], told: list[str]) -> Iterator[Portion]:
    eventually(lambda: is_begun(pool, 1), what="a worker that makes results")
    return pool.pieces(lambda: None, told.append)


def test_a_worker_that_is_killed_is_told_of_and_its_rest_is_made_again(tmp_path: Path) -> None:
    alone, _ = slow_table(tmp_path / "alone")
    table, rest = slow_table(tmp_path / "together")
    told: list[str] = []
    with RawAnswers(table.source.folder) as raw:
        pool = table.pool(raw, 1)
        with pool:
            with held_up(rest):
                pieces = pieces_of(pool, told)
                found = [next(pieces)]
                (worker,) = workers()
                os.kill(worker, signal.SIGKILL)
            found += pieces
    assert [portion.stop for portion in found] == [3, 12, 24, 36]
    lines = [group for portion in found for group in portion.lines]
    assert lines == alone.made(0).lines
    assert told == ["a process that makes results was killed (SIGKILL); results 4 to 12 are made again"]
    assert workers() == []


def test_rows_that_end_every_worker_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.commands.worker_pool._MAX_DEATHS", 1)
    table, rest = slow_table(tmp_path / "t")
    told: list[str] = []
    with RawAnswers(table.source.folder) as raw:
        pool = table.pool(raw, 1)
        with held_up(rest), pool:
            pieces = pieces_of(pool, told)
            next(pieces)
            (worker,) = workers()
            os.kill(worker, signal.SIGKILL)
            with pytest.raises(RunnerError, match="results 4 to 12 can't be made") as caught:
                list(pieces)
    assert "every answer is kept" in caught.value.next_step
    assert workers() == []


def test_where_no_worker_can_be_started_this_process_makes_all_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, table = (make_table(tmp_path / name, 60) for name in ("alone", "together"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with RawAnswers(table.source.folder) as raw:
        pool = table.pool(raw, 1)
        told: list[str] = []
        with pool:
            eventually(lambda: len(pool._notes) > 0, what="three vain starts")
            found = [group for portion in pool.pieces(lambda: None, told.append) for group in portion.lines]
    assert found == alone.made(0).lines
    assert len(told) == 1
    assert "a process that makes results could not be started: " in told[0]


def test_a_worker_is_told_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_API_KEY", "sk-not-for-workers")
    table, rest = slow_table(tmp_path / "t")
    with RawAnswers(table.source.folder) as raw:
        pool = table.pool(raw, 1)
        with held_up(rest), pool:
            pieces_of(pool, [])
            (worker,) = workers()
            for told in ("environ", "cmdline"):
                assert b"sk-not-for-workers" not in Path(f"/proc/{worker}/{told}").read_bytes()


def test_a_run_whose_results_are_made_by_two_has_the_same_table(tmp_path: Path) -> None:
    """One row in seven fails for good, and the last ten ask what the first ten ask."""
    rows = [
        {"id": f"k{number}", "text": "x [[local:fail 400]]" if number % 7 == 3 else f"q {number % 30}"}
        for number in range(40)
    ]
    sections: dict[str, Any] = {"allow_failures": "50%", "output": {"path": ["results.jsonl", "r.csv"]}}
    plain = make_project(tmp_path / "plain", rows=rows, **sections)
    alone = plain.run()
    assert alone.code == 0
    shared = make_project(tmp_path / "shared", rows=rows, **sections)
    done = shared.run_changed(
        "import sys, time\n"
        "from runner.commands import lineage_pool, worker_pool\n"
        "lineage_pool.WORTH_ROWS, lineage_pool._RANGE_ROWS = 1, 6\n"
        "lineage_pool.processors = lambda: 2\n"
        "class Pool(worker_pool.WorkerPool):\n"
        "    def pieces(self, check_stop, tell):\n"
        "        while not any(one.is_taken for one in list(self._ranges)):\n"
        "            time.sleep(0.01)\n"
        "        print('a worker makes results', file=sys.stderr)\n"
        "        return super().pieces(check_stop, tell)\n"
        "lineage_pool.WorkerPool = Pool"
    )
    assert done.code == 0, done.stderr
    assert "a worker makes results" in done.stderr
    assert "a process that" not in done.stdout
    told = ("_key", "_status", "_answer", "_error_class", "_error_message", "_input_tokens", "_output_tokens")
    assert [[row[name] for name in told] for row in shared.results()] == [
        [row[name] for name in told] for row in plain.results()
    ]
    assert done.event("finished")["input_tokens"] == alone.event("finished")["input_tokens"]
