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
class _Side:
    """Rates and peaks of one way to do it; None: not part of it."""

    name: str
    planned_per_s: float
    plan_peak_mb: float
    joined_per_s: float | None = None
    join_peak_mb: float | None = None


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
            "what",
            "planned rows/s",
            "peak MB",
            "joined rows/s",
            "peak MB",
            "we plan x",
            "we join x",
            "our MB / its",
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
    return _Side(
        name="run manifest.yaml",
        planned_per_s=rows / recorded(submitted).wall_s,
        plan_peak_mb=submitted.peak_mb,
        joined_per_s=rows / (collected(run).wall_s + published(run).wall_s),
        join_peak_mb=run.peak_mb,
    )


def _naive(project: Project, folder: Path) -> _Side:
    words = (str(project.dataset.path), str(folder))
    planned = measured(module("rivals.naive", "plan", *words), cwd=folder)
    write_answers(folder / "naive.jsonl", folder / "output.jsonl", folder / "errors.jsonl", seed="naive")
    joined = measured(module("rivals.naive", "join", *words), cwd=folder)
    return _side("the naive script", planned, joined)


def _cookbook(project: Project, folder: Path, server: Standin) -> _Side:
    words = (str(project.dataset.path), str(folder), server.base_url)
    planned = measured(module("rivals.cookbook", "submit", *words), cwd=folder)
    server.answer()
    joined = measured(module("rivals.cookbook", "collect", *words), cwd=folder)
    return _side("the cookbook's script", planned, joined)


def _curator(project: Project, folder: Path, python: str | None) -> _Side | None:
    if python is None and importlib.util.find_spec("bespokelabs") is None:
        return None
    words = ["-m", "benchmarks.rivals.curator", str(project.dataset.path), str(folder), str(CURATOR_ROWS)]
    planned = measured([python or sys.executable, *words], cwd=folder)
    return _side("bespokelabs-curator", planned, None)


def _side(name: str, planned: Measured, joined: Measured | None) -> _Side:
    return _Side(
        name=name,
        planned_per_s=_rate(planned, "planned"),
        plan_peak_mb=planned.peak_mb,
        joined_per_s=None if joined is None else _rate(joined, "joined"),
        join_peak_mb=None if joined is None else joined.peak_mb,
    )


def _rate(run: Measured, event: str) -> float:
    """Imports don't count: the clock runs from the script's first word."""
    end = run.last(event)
    return float(end.values["rows"]) / (end.at_s - run.first("begun").at_s)


def _add(table: Table, side: _Side, ours: _Side) -> None:
    is_ours = side is ours
    joins = side.joined_per_s is not None and not is_ours
    memory = max(ours.plan_peak_mb, ours.join_peak_mb or 0) / max(side.plan_peak_mb, side.join_peak_mb or 0)
    table.add(
        side.name,
        side.planned_per_s,
        side.plan_peak_mb,
        side.joined_per_s,
        side.join_peak_mb,
        None if is_ours else ours.planned_per_s / side.planned_per_s,
        (ours.joined_per_s or 0) / side.joined_per_s if joins and side.joined_per_s else None,
        None if is_ours else memory,
    )
