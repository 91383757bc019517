"""Tables appear whole or not at all, and nothing foreign is ever replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError, RunnerError
from runner.results import PublishError, placing, publish
from runner.results.telling import told_plainly
from tests.contract.results_factories import (
    COLUMNS,
    SUFFIXES,
    make_snapshot,
    plain_snapshot,
    put,
    read_back,
    record,
)


def wrong(kind: str) -> list[dict[str, Any]]:
    """Five good records and one change."""
    rows = [record(i) for i in range(5)]
    WRONG[kind](rows)
    return rows


def swap_keys(rows: list[dict[str, Any]]) -> None:
    rows[1]["_key"], rows[2]["_key"] = rows[2]["_key"], rows[1]["_key"]


WRONG: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "shuffled": lambda rows: rows.reverse(),
    "keys swapped": swap_keys,
    "lacks the first": lambda rows: rows.pop(0),
    "lacks the last": lambda rows: rows.pop(),
    "lacks one": lambda rows: rows.pop(2),
    "one too many": lambda rows: rows.append(record(5)),
    "another key for a repeat": lambda rows: rows.insert(3, record(2, _key="k3")),
    "foreign key": lambda rows: rows[4].update(_key="stranger"),
    "no key": lambda rows: rows[4].update(_key=None),
    "no position": lambda rows: rows[3].update(_position=None),
    "unfit for the column": lambda rows: rows[3].update(_attempts="many"),
    "a repeat after its time": lambda rows: rows.append(record(2)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_lineage_that_does_not_fit_the_rows_is_refused_and_the_old_tables_stay(
    tmp_path: Path, kind: str
) -> None:
    snapshot = plain_snapshot(tmp_path, 5)
    old = put(tmp_path, snapshot, map(record, range(5)), *SUFFIXES)
    before = [path.read_bytes() for path in old.paths]
    with pytest.raises(RunnerError, match="a fault of this program") as caught:
        put(tmp_path, snapshot, wrong(kind), *SUFFIXES)
    assert caught.value.exit_code == 1
    assert [path.read_bytes() for path in old.paths] == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in old.paths
    )
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("kind", ["keys swapped", "foreign key", "no key", "lacks the last"])
def test_long_answers_are_checked_in_the_same_way(tmp_path: Path, kind: str) -> None:
    lineage = wrong(kind)
    for row in lineage:
        row["_answer"] = "long " * 600_000  # several segments of the scratch lines
    with pytest.raises(RunnerError, match="a fault of this program"):
        put(tmp_path, plain_snapshot(tmp_path, 5), lineage, ".parquet")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_error_of_the_records_source_is_not_taken_for_ours(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield record(0)
        raise sqlite3.OperationalError("the ledger's own trouble")

    with pytest.raises(sqlite3.OperationalError, match="own trouble"):
        put(tmp_path, plain_snapshot(tmp_path, 2), broken(), ".csv")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_foreign_database_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out" / "table.db"
    target.parent.mkdir()
    with closing(sqlite3.connect(target)) as database:
        database.execute("CREATE TABLE results (precious)")
    before = target.read_bytes()
    with pytest.raises(InputError, match="was not written by this program"):
        put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], ".db")
    assert target.read_bytes() == before


def test_a_file_that_is_no_database_is_never_replaced_by_one(tmp_path: Path) -> None:
    target = tmp_path / "out" / "table.db"
    target.parent.mkdir()
    target.write_text("my notes")
    with pytest.raises(InputError, match="not a SQLite database"):
        put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], ".db")
    assert target.read_text() == "my notes"


def test_our_database_with_a_users_table_in_it_is_not_replaced(tmp_path: Path) -> None:
    snapshot = plain_snapshot(tmp_path, 1)
    put(tmp_path, snapshot, [record(0)], ".db")
    with closing(sqlite3.connect(tmp_path / "out" / "table.db")) as database:
        database.execute("CREATE TABLE labels (mine)")
    with pytest.raises(InputError, match="labels"):
        put(tmp_path, snapshot, [record(0)], ".db")


def test_a_journal_beside_the_database_stops_the_replacement(tmp_path: Path) -> None:
    snapshot = plain_snapshot(tmp_path, 1)
    put(tmp_path, snapshot, [record(0)], ".db")
    (tmp_path / "out" / "table.db-wal").write_bytes(b"frames")
    with pytest.raises(InputError, match="in use by another program"):
        put(tmp_path, snapshot, [record(0)], ".db")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "content", [b"id,text\n1,mine\n", b'{"id": 1, "_key": "a", "_status": "x"}\n', b"PAR1" * 30, b"\0"]
)
def test_a_file_that_is_no_table_of_ours_is_never_replaced(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    target = tmp_path / "out" / f"table{suffix}"
    target.parent.mkdir()
    target.write_bytes(content)
    with pytest.raises(InputError, match="not a table of this program and would be lost"):
        put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], suffix)
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_users_parquet_file_is_never_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out" / "table.parquet"
    target.parent.mkdir()
    users = Path(make_snapshot(target.parent, "SELECT 0 AS _position, 'a' AS _key", name=target.name))
    before = users.read_bytes()
    with pytest.raises(InputError, match="would be lost"):
        put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], ".parquet")
    assert users.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_of_ours_and_an_empty_file_are_replaced(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"table{suffix}").touch()
    for count in (2, 0, 1):
        put(tmp_path, plain_snapshot(tmp_path, count), map(record, range(count)), suffix)
        assert len(read_back(tmp_path / "out" / f"table{suffix}")) == count


def test_all_targets_that_can_not_be_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    targets = [
        tmp_path / "a.xlsx",
        tmp_path / "folder.csv",
        tmp_path / "b.csv",
        tmp_path / "x" / ".." / "b.csv",
    ]
    with pytest.raises(InputError) as caught:
        publish(plain_snapshot(tmp_path, 1), [], COLUMNS, targets, scratch=tmp_path / "scratch")
    assert [mistake.what for mistake in caught.value.mistakes] == [
        "unknown kind of table '.xlsx'",
        "this is not a file",
        "the same file twice",
    ]


def test_a_part_of_the_path_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PublishError, match="a part of the path is a file"):
        put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], ".csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(PublishError, match="no permission"):
        put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], ".csv")


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from tests.contract.results_factories import plain_snapshot, put, record
from runner.results import PublishError
folder, suffix, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
snapshot = str(folder / "snapshot.parquet")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    put(folder, snapshot, map(record, range(rows)), suffix)
except PublishError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_can_not_grow_is_told_and_the_old_table_stays(tmp_path: Path, suffix: str) -> None:
    snapshot = plain_snapshot(tmp_path, 10)
    old = put(tmp_path, snapshot, map(record, range(10)), suffix).paths[0]
    before = old.read_bytes()
    plain_snapshot(tmp_path, 20_000)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), suffix, "20000", root],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PublishError")
    assert old.read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == [old.name]


@pytest.mark.parametrize(
    ("statement", "way_out"),
    [
        ("CREATE TABLE a AS SELECT randomblob(100000)", "free disk space"),
        (f"CREATE TABLE a ({', '.join(f'c{place}' for place in range(2_001))})", "another kind of table"),
    ],
)
def test_only_a_full_disk_is_said_to_be_full(statement: str, way_out: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("PRAGMA max_page_count = 3")
        with pytest.raises(PublishError) as caught, told_plainly("a.db"):
            database.execute(statement)
    assert way_out in caught.value.next_step


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.contract.results_factories import put, record
def lineage():
    yield record(0)
    os.kill(os.getpid(), signal.SIGKILL)
put(Path(sys.argv[1]), str(Path(sys.argv[1]) / "snapshot.parquet"), lineage(), ".csv")
"""


def test_what_a_killed_run_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    snapshot = plain_snapshot(tmp_path, 2)
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), root], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    left = list((tmp_path / "out").iterdir())
    assert [path.suffix for path in left] == [".tmp"]
    assert len(list((tmp_path / "scratch").iterdir())) == 1

    def watching() -> Iterator[dict[str, Any]]:
        yield record(0)
        mine = list((tmp_path / "out").glob(".*.tmp"))
        assert len(mine) == 1
        assert mine != left
        put(tmp_path, snapshot, map(record, range(2)), ".csv")  # another writer: must not sweep ours
        assert mine[0].exists()
        yield record(1)

    put(tmp_path, snapshot, watching(), ".csv")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.csv"]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(read_back(tmp_path / "out" / "table.csv")) == 2


def test_a_link_stays_a_link_and_the_mode_of_the_table_is_kept(tmp_path: Path) -> None:
    snapshot = plain_snapshot(tmp_path, 1)
    real = tmp_path / "elsewhere" / "data"
    real.parent.mkdir()
    put(tmp_path, snapshot, [record(0, _answer="old")], ".csv")
    (tmp_path / "out" / "table.csv").rename(real)
    real.chmod(0o640)
    (tmp_path / "out" / "table.csv").symlink_to(real)
    put(tmp_path, snapshot, [record(0)], ".csv")
    assert (tmp_path / "out" / "table.csv").is_symlink()
    assert real.read_text().startswith("body,_key")
    assert "answer 0" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("folder", "draft"), [(0o700, 0o600), (0o755, 0o644)])
def test_a_draft_in_a_private_folder_is_private_from_its_first_moment(
    tmp_path: Path, folder: int, draft: int
) -> None:
    snapshot = plain_snapshot(tmp_path, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(folder)
    before = os.umask(0o022)
    try:

        def watching() -> Iterator[dict[str, Any]]:
            [path] = (tmp_path / "out").glob("*.tmp")
            assert path.stat().st_mode & 0o777 == draft
            yield record(0)

        put(tmp_path, snapshot, watching(), ".csv")
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "table.csv").stat().st_mode & 0o777 == draft


def test_whoever_reads_the_old_table_reads_it_to_its_end(tmp_path: Path) -> None:
    """I23: a reader that has the old version open is not disturbed, and the next sees the new one."""
    snapshot = plain_snapshot(tmp_path, 2)
    put(tmp_path, snapshot, map(record, range(2)), ".csv")
    table = tmp_path / "out" / "table.csv"
    old = table.read_bytes()
    with table.open("rb", buffering=0) as reader:
        assert reader.read(4) == old[:4]
        put(tmp_path, snapshot, [record(at, _answer="other") for at in range(2)], ".csv")
        assert reader.read() == old[4:]
    assert b"other" in table.read_bytes()


# ---------------------------------------------------------------- made and not yet locked


@contextmanager
def scratch_of(folder: Path) -> Iterator[Path]:
    with placing.scratch_folder(folder / "scratch") as made:
        yield made


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    with placing.drafting(folder / "table.csv") as draft:
        yield draft.path


Made = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.parametrize("made", [scratch_of, draft_of])
def test_what_another_run_took_for_left_over_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    lock = fcntl.flock
    others: list[Path] = []

    def locked_after_another_came(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        with made(tmp_path) as other:
            others.append(other)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", locked_after_another_came)
    with made(tmp_path) as ours:
        assert ours.exists()
        assert others
        with made(tmp_path) as third:
            assert ours.exists()
        assert not third.exists()
    assert not ours.exists()


@pytest.mark.parametrize(("made", "how"), [(scratch_of, "rmdir"), (draft_of, "unlink")])
def test_who_removes_what_was_left_holds_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Made, how: str
) -> None:
    with made(tmp_path) as ours:
        left = ours.with_name(ours.name.replace(ours.name[-8:-4], "0000"))
    left.mkdir() if how == "rmdir" else left.touch()
    was_held = []
    remove = getattr(os, how)

    def looked_at(path: Any, *rest: Any, **others: Any) -> None:
        if Path(path).name == left.name:
            with closing_descriptor(left) as descriptor, pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            was_held.append(path)
        remove(path, *rest, **others)

    monkeypatch.setattr(os, how, looked_at)
    with made(tmp_path):
        assert not left.exists()
    assert was_held


@contextmanager
def closing_descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("made", [scratch_of, draft_of])
def test_where_nothing_can_be_locked_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Made
) -> None:
    def no_locks(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks"), made(tmp_path):
        pass
    assert [path for path in tmp_path.rglob("*") if path.name != "scratch" and path.name != "home"] == []
