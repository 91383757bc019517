"""Past runs as a table: one line each where there is room, else two.

Tokens and cost are what a run paid, failed and superseded attempts included, so that the lines add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from runner.cli.columns import cut, table, width_of
from runner.cli.texts import clean, compact, money, span

if TYPE_CHECKING:
    from runner.commands.history import PastRun

_HEAD = ("run", "started (UTC)", "took", "state", "rows", "sent", "done", "failed", "tokens")
_RIGHT = frozenset({2, 4, 5, 6, 7, 8, 9})
_INDENT = " " * 10


def history_text(runs: Sequence[PastRun], *, width: int | None, names_manifests: bool) -> list[str]:
    """The lines of `run history`. `width`: places of the terminal, None where lines may be long."""
    head = (*_HEAD, "cost", "manifest", "changed", "commit")
    lines = table([head] + [_whole(run, names_manifests) for run in runs], right=_RIGHT)
    if width is None or width_of(lines) <= width:
        return lines
    first, *figures = table([_HEAD] + [_short(run) for run in runs], right=_RIGHT)
    lines = [cut(first, width)]
    for line, run in zip(figures, runs, strict=True):
        lines += [cut(line, width), cut(_INDENT + _remarks(run, names_manifests), width)]
    return lines


def _whole(run: PastRun, names_manifests: bool) -> tuple[str, ...]:
    return (
        *_cells(run, day="%Y-%m-%d %H:%M", number="{:,}".format),
        _cost(run),
        clean(run.manifest) if names_manifests else "",
        _changed(run),
        clean(run.git_commit or "")[:7],
    )


def _short(run: PastRun) -> tuple[str, ...]:
    """80 places at most, whatever the figures."""
    return _cells(run, day="%m-%d %H:%M", number=compact)


def _cells(run: PastRun, *, day: str, number: Callable[[int], str]) -> tuple[str, ...]:
    failed = None if run.failed is None else run.failed + (run.unsendable or 0)
    paid = None if run.paid_input_tokens is None else run.paid_input_tokens + (run.paid_output_tokens or 0)
    figures = (run.rows, run.requests_sent, run.succeeded, failed, paid)
    return (
        clean(run.run)[:8],
        datetime.fromisoformat(run.started_at).strftime(day),
        span(run.duration_s) if run.duration_s is not None else "",
        clean(run.state),
        *("-" if figure is None else number(figure) for figure in figures),
    )


def _cost(run: PastRun) -> str:
    return money(run.paid_cost, run.currency) if run.paid_cost is not None else ""


def _remarks(run: PastRun, names_manifests: bool) -> str:
    """What has no column in the narrow form."""
    manifest = clean(run.manifest) if names_manifests else ""
    changed = f"changed: {_changed(run)}" if run.changed else _changed(run)
    commit = f"commit {clean(run.git_commit)[:7]}" if run.git_commit else ""
    return ", ".join(part for part in (manifest, changed, _cost(run), commit) if part)


def _changed(run: PastRun) -> str:
    if run.changed is None:
        return "first run"
    return ", ".join(map(clean, run.changed)) or "nothing changed"
