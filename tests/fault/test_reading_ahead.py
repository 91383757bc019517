"""A process that prepares result files: what it makes is what is made here, and nothing depends on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.commands import ahead as ahead_module
from runner.commands.ahead import Ahead
from runner.commands.collecting import ShardBook
from runner.commands.preparing import prepare
from runner.core.model import Download
from runner.ledger import LedgerPlace
from tests.contract.ledger_factories import Project, failed, to_send
from tests.fault.render_factories import render_workers as workers
from tests.localserver_process import eventually
from tests.project_factory import make_project


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is worth a process."""
    monkeypatch.setattr(ahead_module, "WORTH_LINES", 1)
    monkeypatch.setattr(ahead_module, "LEAST_LINES", 1)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project.open(tmp_path)
    project.ledger.place.prepare()
    yield project
    project.ledger.close()


@pytest.fixture
def ahead(project: Project, eager: None) -> Iterator[Ahead]:
    ahead = Ahead(project.ledger.place)
    ahead.begin()
    yield ahead
    ahead.close()
    assert workers() == []


def sent(project: Project, rows: int = 3) -> int:
    """A shard on its way; the first of its requests has failed."""
    (submission,) = project.commit([to_send(number, f"k{number}", line=number) for number in range(rows)])
    project.answer(project.send(submission), [(0, failed())])
    return submission.shard_id


def output(project: Project, folder: Path, shard_id: int) -> Download:
    """A file with an answer to each open request, the last one first, and a line that is nothing."""
    body = {
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
        "model": "m",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
    usual = {"id": "r-1", "error": None, "response": {"status_code": 200, "body": body}}
    ids = sorted(project.ledger.awaited(shard_id).open, reverse=True)
    lines = [json.dumps({"custom_id": custom_id, **usual}) for custom_id in ids]
    path = folder / "download.part"
    path.write_text("\n".join([*lines, "what is this?", ""]))
    return Download(
        path=str(path),
        size_bytes=path.stat().st_size,
        lines=len(lines) + 1,
        skip=0,
        is_whole=True,
        incomplete=None,
        last_line=None,
    )


def test_what_the_process_makes_of_a_file_is_what_is_made_here(
    project: Project, ahead: Ahead, tmp_path: Path
) -> None:
    shard_id = sent(project)
    download = output(project, tmp_path, shard_id)
    message = ahead.prepare(shard_id, download)
    assert message is not None
    found = ahead.unpacked(message)
    assert found == prepare(project.ledger, shard_id, Path(download.path))
    assert [values[-2] for values in found.values] == [1, 2]
    assert len(found.others) == 1
    assert [one.status for one in found.awaited.held.values()] == ["failed"]
    ahead.taken_in(download)
    assert workers() == []  # nothing waits any more


@pytest.mark.parametrize("is_room", [True, False])
def test_a_file_waits_while_those_that_are_ready_have_too_many_lines_with_it(
    project: Project, ahead: Ahead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_room: bool
) -> None:
    shard_id = sent(project)
    first = output(project, tmp_path, shard_id)
    second = replace(first, path=shutil.copyfile(first.path, f"{tmp_path}/second.part"))
    monkeypatch.setattr(ahead_module, "_MOST_READY_LINES", 2 * first.lines - (not is_room))
    assert ahead.prepare(shard_id, first) is not None
    prepared: list[object] = []
    thread = threading.Thread(target=lambda: prepared.append(ahead.prepare(shard_id, second)))
    thread.start()
    thread.join(10 if is_room else 0.5)
    assert thread.is_alive() is not is_room
    ahead.taken_in(first)
    thread.join(10)
    assert len(prepared) == 1
    assert prepared[0] is not None


def test_a_file_that_must_be_read_line_by_line_is_left_to_be(
    project: Project, ahead: Ahead, tmp_path: Path
) -> None:
    shard_id = sent(project)
    download = output(project, tmp_path, shard_id)
    path = Path(download.path)
    path.write_bytes(path.read_bytes() * 2)
    assert ahead.prepare(shard_id, download) is None
    assert len(workers()) == 1
    assert ahead.told() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_is_told_of_and_followed_by_another_until_it_is_enough(
    project: Project, ahead: Ahead, tmp_path: Path, number: signal.Signals
) -> None:
    shard_id = sent(project)
    download = output(project, tmp_path, shard_id)
    for _ in range(3):
        assert ahead.prepare(shard_id, download) is not None
        (worker,) = workers()
        os.kill(worker, number)
        assert ahead.prepare(shard_id, download) is None
        (what,) = ahead.told()
        assert f"was killed ({number.name}); the file is read without it" in what
    assert ahead.prepare(shard_id, download) is None
    assert ahead.told() == []


def test_where_no_process_can_be_started_files_are_read_without(
    project: Project, ahead: Ahead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard_id = sent(project)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert ahead.prepare(shard_id, output(project, tmp_path, shard_id)) is None
    (what,) = ahead.told()
    assert "No such file" in what


def test_a_fault_of_this_program_is_told_and_the_file_read_without(
    project: Project, ahead: Ahead, tmp_path: Path
) -> None:
    shard_id = sent(project)
    download = output(project, tmp_path, shard_id)
    Path(download.path).unlink()
    assert ahead.prepare(shard_id, download) is None
    (what,) = ahead.told()
    assert "FileNotFoundError" in what


def test_who_waits_for_the_process_is_let_go_where_it_is_closed(
    project: Project, ahead: Ahead, tmp_path: Path
) -> None:
    shard_id = sent(project)
    download = output(project, tmp_path, shard_id)
    assert ahead.prepare(shard_id, download) is not None
    (worker,) = workers()
    os.kill(worker, signal.SIGSTOP)
    found: list[object] = []
    waiting = [
        threading.Thread(target=lambda: found.append(ahead.prepare(shard_id, download))) for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    eventually(lambda: ahead._one_file.locked(), what="one that waits for the process")
    ahead.close()
    for thread in waiting:
        thread.join(10)
    assert found == [None, None]
    assert ahead.told() == []


def test_few_lines_start_no_process(project: Project, tmp_path: Path) -> None:
    ahead = Ahead(project.ledger.place)
    ahead.begin()
    shard_id = sent(project)
    assert ahead.prepare(shard_id, output(project, tmp_path, shard_id)) is None
    assert workers() == []
    ahead.close()


def test_a_database_behind_a_password_is_told_to_no_process(
    eager: None, project: Project, tmp_path: Path
) -> None:
    place = LedgerPlace(project=tmp_path, folder=tmp_path, url="postgresql://me:secret@host/db")
    ahead = Ahead(place)
    ahead.begin()
    shard_id = sent(project)
    assert ahead.prepare(shard_id, output(project, tmp_path, shard_id)) is None
    assert workers() == []
    ahead.close()


def test_the_process_is_told_no_key(
    project: Project, ahead: Ahead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_API_KEY", "sk-not-for-workers")
    shard_id = sent(project)
    assert ahead.prepare(shard_id, output(project, tmp_path, shard_id)) is not None
    (worker,) = workers()
    for told in ("environ", "cmdline"):
        assert b"sk-not-for-workers" not in Path(f"/proc/{worker}/{told}").read_bytes()


def test_an_answer_that_comes_again_is_known_though_it_was_taken_in_prepared(
    project: Project, tmp_path: Path
) -> None:
    shard_id = sent(project)
    download = output(project, tmp_path, shard_id)
    data = Path(download.path).read_bytes()
    book = ShardBook(project.ledger, shard_id)
    raw = project.ledger.raw_file(shard_id, "output", "out")
    folder = project.ledger.place.folder / "raw"
    prepared = prepare(project.ledger, shard_id, Path(download.path))
    assert book.take_in(download, raw, folder, prepared).stored == 2
    assert (len(book.outstanding), book.accounted) == (0, 3)
    Path(download.path).write_bytes(data.replace(b'"x"', b'"y"') + data)
    tally = book.take_in(download, raw, folder)
    assert (tally.stored, tally.duplicates, tally.repeated) == (0, 2, 2)


def test_a_run_whose_files_are_prepared_has_the_same_table(tmp_path: Path) -> None:
    """Eight batches of five rows; one row in seven fails for good."""
    rows = [
        {"id": f"k{number}", "text": "x [[local:fail 400]]" if number % 7 == 3 else f"q {number}"}
        for number in range(40)
    ]
    sections: dict[str, Any] = {"batch": {"max_requests_per_file": 5}, "allow_failures": "50%"}
    plain = make_project(tmp_path / "plain", rows=rows, **sections)
    assert plain.run().code == 0
    prepared = make_project(tmp_path / "prepared", rows=rows, **sections)
    done = prepared.run_changed(
        "import sys\n"
        "from runner.commands import ahead\n"
        "ahead.WORTH_LINES = ahead.LEAST_LINES = 1\n"
        "unpacked = ahead.Ahead.unpacked\n"
        "def counted(self, message):\n"
        "    print('prepared', file=sys.stderr)\n"
        "    return unpacked(self, message)\n"
        "ahead.Ahead.unpacked = counted"
    )
    assert done.code == 0, done.stderr
    assert done.stderr.count("prepared") >= 4, done.stderr  # some may be read in parts, while they grow
    told = ("_key", "_status", "_answer", "_error_class", "_error_message", "_input_tokens", "_output_tokens")
    assert [[row[name] for name in told] for row in prepared.results()] == [
        [row[name] for name in told] for row in plain.results()
    ]
