"""The program beside what people write today: the same rows, one run, each a process of its own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Measured, measured, module
from benchmarks.phases import collected, published, recorded
from benchmarks.project import Project, Standin, running_standin
from benchmarks.standin import write_answers
from benchmarks.tables import Table

MOST_ROWS = 200_000
"""The naive script needs gigabytes beyond."""
CURATOR_ROWS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """So many rows in so many seconds, and the peak of the process that did it."""

    rows: int
    wall_s: float
    cpu_s: float
    peak_mb: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.wall_s

    def times(self, other: _Work) -> tuple[float, float]:
        """How many times as fast as another: by the clock, and by the seconds of the cores."""
        by_cpu = (other.cpu_s / other.rows) / (max(self.cpu_s, 0.01) / self.rows)
        return self.rows_per_s / other.rows_per_s, by_cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One way to do it; `joined` is None where it does not."""

    name: str
    planned: _Work
    joined: _Work | None

    @property
    def peak_mb(self) -> float:
        return max(self.planned.peak_mb, 0.0 if self.joined is None else self.joined.peak_mb)


def show_side_by_side(
    folder: Path, rows: int, tell: Callable[[Table], None], *, curator_python: str | None
) -> None:
    """How many times as fast, and with what part of the memory."""
    rows = min(rows, MOST_ROWS)
    with running_standin(folder / "server") as server:
        project = Project.begin(folder / "project", rows, server)
        scratch = folder / "scratch"
        scratch.mkdir()
        ours = _ours(project)
        others = [_naive(project, scratch), _cookbook(project, scratch, server)]
    table = Table(
        f"Side by side, {rows:,} rows",
        (
            *("what", "planned rows/s", "joined rows/s", "peak MB"),
            *("we plan x", "by CPU", "we join x", "by CPU", "our MB / its"),
        ),
    )
    for side in (ours, *others):
        _add(table, side, ours)
    curator = _curator(project, scratch, curator_python)
    if curator is None:
        table.add("bespokelabs-curator: not installed")
    else:
        _add(table, curator, ours)
    table.note(
        "Planned: rows read to request files, recorded. Joined: result files to stored answers and a table; "
        "ours downloads them too, and so does the cookbook's. curator only writes its request files, "
        f"{min(rows, CURATOR_ROWS):,} rows of them. "
        "At least 20 times the naive script, in a quarter of its memory."
    )
    tell(table)


def _ours(project: Project) -> _Side:
    submitted = project.submit()
    project.server.answer()
    run = project.collect()
    rows = project.dataset.rows
    out, back, table = recorded(submitted), collected(run), published(run)
    return _Side(
        name="run manifest.yaml",
        planned=_Work(rows=rows, wall_s=out.wall_s, cpu_s=out.cpu_s, peak_mb=submitted.peak_mb),
        joined=_Work(
            rows=rows,
            wall_s=back.wall_s + table.wall_s,
            cpu_s=back.cpu_s + table.cpu_s,
            peak_mb=run.peak_mb,
        ),
    )


def _naive(project: Project, folder: Path) -> _Side:
    words = (str(project.dataset.path), str(folder))
    planned = measured(module("rivals.naive", "plan", *words), cwd=folder)
    write_answers(folder / "naive.jsonl", folder / "output.jsonl", folder / "errors.jsonl", seed="naive")
    joined = measured(module("rivals.naive", "join", *words), cwd=folder)
    return _Side(name="the naive script", planned=_work(planned, "planned"), joined=_work(joined, "joined"))


def _cookbook(project: Project, folder: Path, server: Standin) -> _Side:
    words = (str(project.dataset.path), str(folder), server.base_url)
    planned = measured(module("rivals.cookbook", "submit", *words), cwd=folder)
    server.answer()
    joined = measured(module("rivals.cookbook", "collect", *words), cwd=folder)
    return _Side(
        name="the cookbook's script", planned=_work(planned, "planned"), joined=_work(joined, "joined")
    )


def _curator(project: Project, folder: Path, python: str | None) -> _Side | None:
    if python is None and importlib.util.find_spec("bespokelabs") is None:
        return None
    words = ["-m", "benchmarks.rivals.curator", str(project.dataset.path), str(folder), str(CURATOR_ROWS)]
    planned = measured([python or sys.executable, *words], cwd=folder)
    return _Side(name="bespokelabs-curator", planned=_work(planned, "planned"), joined=None)


def _work(run: Measured, event: str) -> _Work:
    """Imports don't count: the clock runs from the script's first word."""
    begin, end = run.first("begun"), run.last(event)
    return _Work(
        rows=end.values["rows"],
        wall_s=end.at_s - begin.at_s,
        cpu_s=end.cpu_s - begin.cpu_s,
        peak_mb=run.peak_mb,
    )


def _add(table: Table, side: _Side, ours: _Side) -> None:
    joined_per_s = None if side.joined is None else side.joined.rows_per_s
    shown = (side.name, side.planned.rows_per_s, joined_per_s, side.peak_mb)
    if side is ours:
        table.add(*shown)
        return
    joins: tuple[float, float] | tuple[None, None] = (None, None)
    if side.joined is not None and ours.joined is not None:
        joins = ours.joined.times(side.joined)
    table.add(*shown, *ours.planned.times(side.planned), *joins, ours.peak_mb / side.peak_mb)
