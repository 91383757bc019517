"""Kills, two processes at once, full disks, damaged files: the old or the new, never a mixture."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runner.errors import LedgerError
from runner.ledger import HeldElsewhereError, Ledger, hold
from runner.ledger.migrations import __file__ as migrations_file
from runner.ledger.schema import VERSIONS
from tests.contract.ledger_factories import Project, asked, place_in, to_send, unsendable, waiting

ROOT = Path(__file__).parents[2]

# A process that plans ROWS rows and stops in the middle of the transaction, at the slice it is told to.
PLANNER = """
import sys
from pathlib import Path
from runner.ledger import Staging
from tests.contract.ledger_factories import Project, shard_file, to_send

folder, stop_at, rows, name = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

class Halting(Staging):
    def slices(self, size=1000):
        for number, found in enumerate(super().slices(1000)):
            if number == stop_at:
                print("here", flush=True)
                sys.stdin.readline()
            yield found

project = Project.open(folder, name=name)
with Halting.create(folder / ".runner" / "scratch") as staging:
    staging.add_rows([to_send(n, f"k{n}", line=n) for n in range(rows)])
    run_id = project.start_run()
    try:
        project.ledger.commit_plan(
            run_id=run_id, manifest_id=project.manifest_id, staging=staging,
            shards=[shard_file(requests=rows)],
        )
        print("committed", flush=True)
    except Exception as error:
        print(type(error).__name__, flush=True)
project.ledger.close()
"""


@contextmanager
def process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process; killed at the end of the block if it still lives."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait(30)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def said(child: subprocess.Popen[str]) -> str:
    """The child's next line, waited for at most a minute."""
    assert child.stdout is not None
    assert select.select([child.stdout], [], [], 60)[0], "the child said nothing"
    return child.stdout.readline().strip()


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def counts(folder: Path) -> dict[str, int]:
    tables = ("request", "attempt", "row", "shard")
    place = place_in(folder)
    return {table: asked(place, f'SELECT count(*) FROM "{table}"')[0][0] for table in tables}


# ---------------------------------------------------------------- kills


@pytest.mark.parametrize("stop_at", [0, 2])
def test_a_kill_inside_a_plans_commit_leaves_nothing_of_it(tmp_path: Path, stop_at: int) -> None:
    project = Project.open(tmp_path)
    project.commit([to_send(0, "before", line=0)])
    project.ledger.close()
    before = counts(tmp_path)
    with process(PLANNER, tmp_path, stop_at, 3000, "job") as child:
        assert said(child) == "here"
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    with Ledger.open(place_in(tmp_path)) as ledger:
        assert counts(tmp_path) == before
        assert [row.key for row in ledger.rows(1, 0, 10)] == ["before"]
        assert [run.state for run in ledger.runs(1)] == ["running", "interrupted"]
    assert list((tmp_path / ".runner" / "scratch").iterdir()) == []
    again = Project.open(tmp_path)
    again.commit([to_send(n, f"k{n}", line=n) for n in range(30)])
    assert len(again.ledger.rows(1, 0, 100)) == 30
    again.ledger.close()


def test_a_kill_after_a_plans_commit_leaves_all_of_it(tmp_path: Path) -> None:
    with process(PLANNER, tmp_path, 99, 3000, "job") as child:
        assert said(child) == "committed"
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    with Ledger.open(place_in(tmp_path)) as ledger:
        assert counts(tmp_path) == {"request": 3000, "attempt": 3000, "row": 3000, "shard": 1}
        (submission,) = ledger.open_submissions(1)
        assert len(ledger.expected(submission.shard_id)) == 3000


def test_of_two_processes_that_plan_the_same_rows_at_once_one_sends_them(tmp_path: Path) -> None:
    """I1: the second sees, inside its own transaction, that the requests are on their way by now."""
    Project.open(tmp_path).ledger.close()
    with process(PLANNER, tmp_path, 0, 2000, "one") as one:
        assert said(one) == "here"
        with process(PLANNER, tmp_path, 99, 2000, "two") as two:
            assert two.stdout is not None
            assert not select.select([two.stdout], [], [], 0)[0]
            go_on(one)
            assert sorted([said(one), said(two)]) == ["PlanMovedError", "committed"]
    assert counts(tmp_path) == {"request": 2000, "attempt": 2000, "row": 2000, "shard": 1}


LOCK_HOLDER = """
import sys
from pathlib import Path
from runner.ledger import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_of_a_killed_process_is_free_at_once_and_a_stopped_one_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with process(LOCK_HOLDER, path) as child:
        assert said(child) == "held"
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(HeldElsewhereError, match=f"process {child.pid} "), hold(path):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        with hold(path):
            assert f"process {os.getpid()} " in path.read_text()


FIRST_OPENER = """
import sys
from pathlib import Path
from tests.contract.ledger_factories import place_in
from runner.ledger import Ledger
with Ledger.open(place_in(Path(sys.argv[1]))) as ledger:
    ledger.ensure_manifest(sys.argv[2], "name")
print("opened", flush=True)
"""


def test_processes_that_make_a_ledger_at_once_make_one(tmp_path: Path) -> None:
    with process(FIRST_OPENER, tmp_path, "a") as one, process(FIRST_OPENER, tmp_path, "b") as two:
        assert [said(one), said(two)] == ["opened", "opened"]
    assert asked(place_in(tmp_path), "SELECT path FROM manifest ORDER BY path") == [("a",), ("b",)]


# ---------------------------------------------------------------- files that can't be trusted


def made(tmp_path: Path) -> Path:
    """A closed ledger with some rows; its file."""
    project = Project.open(tmp_path)
    project.commit([*(to_send(n, f"k{n}", line=n) for n in range(500)), unsendable(500, "u")])
    project.ledger.close()
    return tmp_path / ".runner" / "ledger.db"


def test_a_newer_ledger_is_refused_and_says_to_update(tmp_path: Path) -> None:
    path = made(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    for opened in (Ledger.open, Ledger.open_reading):
        with pytest.raises(LedgerError) as caught:
            opened(place_in(tmp_path))
        assert "newer version" in caught.value.what
        assert f"known: {VERSIONS[-1]}" in caught.value.what
        assert "update this program" in caught.value.next_step
    assert path.read_bytes() == before


@pytest.mark.parametrize("offset", [4096 * 3, 4096 * 5 + 8])
def test_a_damaged_ledger_is_refused_and_left_as_it_is(tmp_path: Path, offset: int) -> None:
    path = made(tmp_path)
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(b"\xff" * 2000)
    before = path.read_bytes()
    with pytest.raises(LedgerError) as caught:
        Ledger.open(place_in(tmp_path))
    assert "damaged" in caught.value.what
    assert "run rebuild" in caught.value.next_step
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello world" * 1000, b"SQLite format 3\0" + b"\0" * 5000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ".runner" / "ledger.db"
    path.parent.mkdir()
    path.write_bytes(content)
    for opened in (Ledger.open, Ledger.open_reading):
        with pytest.raises(LedgerError):
            opened(place_in(tmp_path))
    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".runner" / "ledger.db"
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (id INTEGER)")
    connection.close()
    with pytest.raises(LedgerError, match="some other program's"):
        Ledger.open(place_in(tmp_path))


def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    """What a kill between making the file and the first migration leaves behind."""
    path = tmp_path / ".runner" / "ledger.db"
    path.parent.mkdir()
    path.touch()
    assert Ledger.open_reading(place_in(tmp_path)) is None
    with Ledger.open(place_in(tmp_path)) as ledger:
        assert ledger.manifests() == []


def test_a_log_left_by_a_kill_is_read(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    project.commit([waiting(0, "a")])
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / ".runner", copy / ".runner")
    project.ledger.close()
    with Ledger.open(place_in(copy)) as ledger:
        assert [row.key for row in ledger.rows(1, 0, 10)] == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_ledger_says_so(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.chmod(0o400)
    with pytest.raises(LedgerError, match="can't be opened"):
        Ledger.open(place_in(tmp_path))


@contextmanager
def as_another_user(folder: Path) -> Iterator[None]:
    """Root becomes nobody, to whom the folder is closed; anybody else closes it to themselves."""
    is_root, mode = os.geteuid() == 0, folder.stat().st_mode
    os.seteuid(65534) if is_root else folder.chmod(0)
    try:
        yield
    finally:
        os.seteuid(0) if is_root else folder.chmod(mode)


def test_a_ledger_of_another_user_is_told_as_that(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    made(tmp_path)
    Ledger.open(place).close()
    with as_another_user(place.folder):
        with pytest.raises(LedgerError, match="Permission denied") as reading:
            Ledger.open_reading(place)
        with pytest.raises(LedgerError, match="Permission denied"):
            Ledger.open(place)
    assert "as the user to whom" in reading.value.next_step


def test_a_folder_in_the_files_place_is_told(tmp_path: Path) -> None:
    (tmp_path / ".runner" / "ledger.db").mkdir(parents=True)
    with pytest.raises(LedgerError, match="can't be opened"):
        Ledger.open(place_in(tmp_path))


# ---------------------------------------------------------------- full disks and stuck locks

FILLER = """
import resource, signal, sys
from pathlib import Path
from runner.errors import LedgerError
from runner.ledger import Staging
from tests.contract.ledger_factories import Project, to_send

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
project = Project.open(Path(sys.argv[1]))
project.commit([to_send(0, "before", line=0)])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    project.commit([to_send(n, f"k{n}", line=n) for n in range(20_000)])
    print("committed")
except LedgerError as error:
    print(error.what, "|", error.next_step)
"""


def test_a_full_disk_is_told_and_leaves_the_old(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: the kernel refuses the write in the same way."""
    assert resource.RLIMIT_FSIZE is not None
    with process(FILLER, tmp_path) as child:
        text = said(child)
    assert "the disk" in text
    assert "|" in text
    with Ledger.open(place_in(tmp_path)) as ledger:
        assert [row.key for row in ledger.rows(1, 0, 10)] == ["before"]
        assert len(ledger.open_submissions(1)) == 1


def test_a_full_database_is_told_as_a_full_disk(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    assert project.ledger._writer is not None
    with project.ledger._writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
    with pytest.raises(LedgerError) as caught:
        project.commit([to_send(n, f"k{n}", line=n) for n in range(20_000)])
    assert "the disk is full (SQLITE_FULL)" in caught.value.what
    assert "free some disk space" in caught.value.next_step
    assert project.ledger.rows(project.manifest_id, 0, 10) == []
    project.ledger.close()


def test_a_ledger_that_stays_locked_is_told(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    assert project.ledger._writer is not None
    with project.ledger._writer.connect() as connection:
        connection.connection.cursor().execute("PRAGMA busy_timeout=50")
    holder = sqlite3.connect(tmp_path / ".runner" / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError) as caught:
        project.start_run()
    assert "locked" in caught.value.what
    assert project.ledger.manifests() != [], "a reader doesn't wait for it"
    holder.close()
    project.ledger.close()


def test_a_journal_that_can_not_be_written_stops_the_save(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    (submission,) = project.commit([to_send(0, "a", line=0)])
    (tmp_path / ".runner" / "ids.jsonl").unlink()
    (tmp_path / ".runner" / "ids.jsonl").mkdir()
    with pytest.raises(LedgerError, match=r"ids\.jsonl: can't be written"):
        project.send(submission)
    assert project.ledger.submission(submission.shard_id) == submission
    project.ledger.close()


def test_the_migrations_are_part_of_the_package() -> None:
    folder = Path(migrations_file).parent
    assert (folder / "env.py").exists()
    assert (folder / "script.py.mako").exists()
