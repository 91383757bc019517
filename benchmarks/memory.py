"""Whether memory grows with the dataset: a whole run at once and three times as many rows, and long rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measured
from benchmarks.phases import collected, published, recorded
from benchmarks.project import Project, running_standin
from benchmarks.rows import LONG_BODY_BYTES, SHORT_BODY_BYTES
from benchmarks.tables import Table

_TIMES = 3
_FEWER_LONG_ROWS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    rows: int
    body_bytes: int
    submitted: Measured
    run: Measured

    def show(self, table: Table) -> None:
        what = f"{self.rows:,} rows of {'4 KB' if self.body_bytes == LONG_BODY_BYTES else '300 bytes'}"
        rates = (
            self.rows / phase.wall_s
            for phase in (recorded(self.submitted), collected(self.run), published(self.run))
        )
        table.add(what, self.submitted.peak_mb, self.run.peak_mb, *rates)


def show_memory(folder: Path, rows: int, tell: Callable[[Table], None]) -> None:
    """Peaks of the whole tree of processes."""
    table = Table(
        "Memory: the peak of all processes together",
        ("what", "planned, sent: MB", "collected, published: MB", "recorded rows/s", "stored", "published"),
    )
    most = rows * _TIMES
    once = _measured(folder / "once", rows, SHORT_BODY_BYTES, alike=most)
    once.show(table)
    more = _measured(folder / "more", most, SHORT_BODY_BYTES, alike=most)
    more.show(table)
    long = rows // _FEWER_LONG_ROWS
    _measured(folder / "long", long, LONG_BODY_BYTES, alike=long).show(table)
    growth = (
        more.submitted.peak_mb / once.submitted.peak_mb - 1,
        more.run.peak_mb / once.run.peak_mb - 1,
    )
    table.note(
        f"With {_TIMES} times the rows: {growth[0]:+.0%} while planning, {growth[1]:+.0%} while collecting "
        "(at most +10 %; every figure below 400 MB)."
    )
    tell(table)


def _measured(folder: Path, rows: int, body_bytes: int, *, alike: int) -> _Case:
    """`alike`: request files are as large as for so many rows, because a file takes memory as it is large."""
    folder.mkdir()
    try:
        with running_standin(folder / "server") as server:
            project = Project.begin(
                folder / "project", rows, server, body_bytes=body_bytes, rows_of_files=alike
            )
            submitted = project.submit()
            server.answer()
            return _Case(rows=rows, body_bytes=body_bytes, submitted=submitted, run=project.collect())
    finally:
        shutil.rmtree(folder)
