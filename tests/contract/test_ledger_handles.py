"""A ledger that is open twice in one process keeps the locks that SQLite holds, and is sealed at the end."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from runner.ledger import Ledger
from runner.ledger.seal import Verdict, examine, seal_path
from tests.contract.ledger_factories import Project, place_in

LOCKS = Path("/proc/locks")
needs_locks = pytest.mark.skipif(not LOCKS.exists(), reason="this system does not show its locks")


def locks_on(path: Path) -> Counter[str]:
    """The POSIX locks that this process holds on a file, by the bytes they are on."""
    inode = path.stat().st_ino
    fields = [line.split() for line in LOCKS.read_text().splitlines()]
    return Counter(
        f"{kind} {start}-{end}"
        for _, family, _, kind, pid, place, start, end, *_ in (field for field in fields if "->" not in field)
        if family == "POSIX" and int(pid) == os.getpid() and int(place.rpartition(":")[2]) == inode
    )


@needs_locks
def test_who_looks_beside_takes_no_lock_away(tmp_path: Path) -> None:
    """Without its locks a database is thrown away under the feet of who works on it."""
    project = Project.open(tmp_path)
    path = project.ledger.place.folder / "ledger.db"
    project.start_run()
    assert project.ledger.manifests(), "both connections have been used"
    before = locks_on(path)
    assert before, "SQLite holds a lock while a connection is open"
    for opened in (Ledger.open(project.ledger.place), Ledger.open_reading(project.ledger.place)):
        assert opened is not None
        assert opened.manifests()
        opened.close()
        assert locks_on(path) == before
    project.ledger.close()
    assert locks_on(path) == Counter()


def test_the_last_one_to_close_it_seals_it(tmp_path: Path) -> None:
    first = Ledger.open(place_in(tmp_path))
    path = first.place.folder / "ledger.db"
    second = Ledger.open(first.place)
    second.ensure_manifest("job.yaml", "job")
    second.close()
    assert not seal_path(path).exists()
    first.close()
    assert examine(path) is Verdict.WHOLE


def test_threads_may_open_and_close_it_as_they_like(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    Ledger.open(place).close()
    found: list[int] = []

    def work(name: str) -> None:
        for number in range(6):
            with Ledger.open(place) as ledger:
                ledger.ensure_manifest(f"{name}-{number}.yaml", name)
                found.append(len(ledger.manifests()))

    threads = [threading.Thread(target=work, args=(f"job{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger.open(place) as ledger:
        assert len(ledger.manifests()) == max(found) == 18
