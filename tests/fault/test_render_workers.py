"""Workers that are killed, can't be started, or lose their parent: no row is lost, no process is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from runner.commands.render_pool import render_all, render_pool
from runner.errors import RunnerError
from tests.fault.render_factories import make_source, pieces_of, render_workers, rendered_here, rows_of
from tests.fault.run_factories import EXIT_INTERRUPTED, end
from tests.localserver_process import eventually
from tests.project_factory import make_project

LOOP = "{% for i in range(9) %}{{ i }}{% endfor %}{{ text }}"
SLOW = "{% for i in range(50000) %}{% endfor %}{{ text }}"
FOR_EVER = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{{ text }}"


def _rows(count: int) -> list[dict[str, str]]:
    return [{"id": f"k{number}", "text": f"t{number}"} for number in range(count)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_is_told_of_and_its_rows_are_rendered_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    source, rows = make_source(tmp_path, _rows(25_000), LOOP)
    told: list[str] = []
    with render_pool(source, rows, 2) as pool:
        pieces = pieces_of(pool, told)
        found = rows_of([next(pieces)], source)
        for worker in render_workers():
            os.kill(worker, number)
        found += rows_of(pieces, source)
    assert [row.position for row in found] == list(range(rows))
    assert found == rendered_here(source, rows)
    assert any(f"was killed ({number.name}); rows" in note for note in told), told
    assert render_workers() == []


def test_a_reader_that_is_slower_than_the_workers_gets_every_row(tmp_path: Path) -> None:
    source, rows = make_source(tmp_path, _rows(25_000), LOOP)
    with render_pool(source, rows, 2) as pool:
        pieces = pieces_of(pool)
        found = rows_of([next(pieces)], source)
        eventually(
            lambda: pool._are_all_begun and all(one.is_done for one in pool._ranges), what="all ranges"
        )
        found += rows_of(pieces, source)
    assert found == rendered_here(source, rows)


def test_rows_that_end_every_worker_are_named_and_none_is_left(tmp_path: Path) -> None:
    source, rows = make_source(tmp_path, _rows(10), FOR_EVER)
    told: list[str] = []
    is_over = threading.Event()

    def kill_who_renders() -> None:
        while not is_over.wait(0.05):
            for worker in render_workers():
                # Two threads: it listens, and has its first rows.
                with suppress(OSError):
                    if len(list(Path(f"/proc/{worker}/task").iterdir())) > 1 and not is_over.wait(0.3):
                        os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_who_renders)
    with render_pool(source, rows, 1) as pool:
        pieces = pieces_of(pool, told)
        killer.start()
        try:
            with pytest.raises(RunnerError) as caught:
                list(pieces)
        finally:
            is_over.set()
            killer.join()
    assert "rows 1 to 10 can't be rendered" in caught.value.what
    assert "was killed (SIGKILL), 3 times" in caught.value.what
    assert "nothing was sent" in caught.value.next_step
    assert len(told) == 2
    assert render_workers() == []


def test_where_no_worker_can_be_started_this_process_renders_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rows = make_source(tmp_path, _rows(30), LOOP)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no room for you >&2\nexit 3\n")
    for mode, why in ((0o600, "Permission denied"), (0o700, "it ended (exit code 3: no room for you)")):
        python.chmod(mode)
        monkeypatch.setattr(sys, "executable", str(python))
        with render_pool(source, rows, 1) as pool:
            eventually(lambda pool=pool: len(pool._notes) > 0, what="three vain starts")  # type: ignore[misc]
            told: list[str] = []
            found = rows_of(pool.pieces(lambda: None, told.append), source)
        assert found == rendered_here(source, rows)
        assert len(told) == 1
        assert why in told[0]


def test_where_no_worker_can_follow_one_that_was_killed_this_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rows = make_source(tmp_path, _rows(15_000), LOOP)
    told: list[str] = []
    with render_pool(source, rows, 1) as pool:
        pieces = pieces_of(pool, told)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
        for worker in render_workers():
            os.kill(worker, signal.SIGKILL)
        assert rows_of(pieces, source) == rendered_here(source, rows)
    assert "was killed (SIGKILL); rows" in told[0]
    assert "could not be started" in told[1]


def test_a_fault_of_this_program_comes_out_with_its_traceback(tmp_path: Path) -> None:
    source, rows = make_source(tmp_path, _rows(30), LOOP)
    with render_pool(source, rows, 1) as pool:
        pieces = pieces_of(pool)
        assert len(rows_of(pieces, source)) == 30
    Path(source.snapshot).write_bytes(b"no Parquet")
    with render_pool(source, rows, 1) as pool, pytest.raises(RuntimeError, match="that renders failed"):
        list(pieces_of(pool))


def test_a_reader_that_stops_leaves_no_process(tmp_path: Path) -> None:
    source, rows = make_source(tmp_path, _rows(21_000), SLOW)

    def stop() -> None:
        if render_workers():
            raise KeyboardInterrupt

    pieces = render_all(source, rows, workers=2, check_stop=stop)
    with pytest.raises(KeyboardInterrupt):
        list(pieces)
    assert render_workers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_program_ends_its_workers(tmp_path: Path, number: signal.Signals) -> None:
    project = make_project(tmp_path / "p", rows=_rows(21_000), template=SLOW)
    process = project.start()
    eventually(lambda: len(render_workers(process.pid)) > 1, what="two workers")
    workers = render_workers(process.pid)
    done = end(process, number)
    eventually(
        lambda: not any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers),
        what="the end of the workers",
    )
    if number is not signal.SIGKILL:
        assert done.code == EXIT_INTERRUPTED


def test_a_worker_is_told_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_API_KEY", "sk-not-for-workers")
    monkeypatch.setenv("ANYTHING", "sk-not-for-workers")
    source, rows = make_source(tmp_path, _rows(300), SLOW)
    with render_pool(source, rows, 1) as pool:
        pieces_of(pool)
        (worker,) = render_workers()
        for told in ("environ", "cmdline"):
            text = Path(f"/proc/{worker}/{told}").read_bytes()
            assert b"sk-not-for-workers" not in text
            assert b"runner" in text
