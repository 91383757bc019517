"""The state of manifests as rows of text: aligned for pipes; `watching` draws the same rows with colour."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from runner.cli.texts import clean, counted, span
from runner.core.states import ShardState, terminal_word

if TYPE_CHECKING:
    from runner.commands.status import BatchStatus, ManifestStatus

MOST_BATCHES = 12
HEAD = ("#", "batch", "state", "status", "completed", "failed", "ends (UTC)")
RIGHT = frozenset({0, 4, 5})
_ORDER = ("succeeded", "truncated", "refused", "invalid", "failed", "expired", "cancelled", "unaccounted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One manifest: its title, facts as label and text, a table of batches, and problems."""

    title: str
    path: str
    facts: tuple[tuple[str, str], ...]
    batches: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def section(one: ManifestStatus) -> Section:
    """A manifest's status, cleaned and in words."""
    shown, hidden = _chosen(one.batches)
    facts = [("run", _run_text(one)), ("rows", _rows_text(one.by_status))]
    if hidden:
        facts.append(("others", f"{counted(len(hidden), 'batch')}, {_requests(hidden):,} requests"))
    notes = [f"batch {batch.slot}: {clean(batch.problem)}" for batch in shown if batch.problem]
    notes += [
        f"batch {batch.slot}: the server made it twice, {clean(extra)} may be billed as well"
        for batch in one.batches
        for extra in batch.extra_batches
    ]
    if _has_open(one) and one.state != "running":
        is_bought = any(batch.batch_id and not ShardState(batch.state).is_final for batch in one.batches)
        then = "collects what is there" if is_bought else "sends what is left"
        notes.append(f"next: `run {shlex.quote(clean(one.manifest))}` {then}")
    return Section(
        title=clean(one.name),
        path=clean(one.manifest),
        facts=tuple(facts),
        batches=tuple(_cells(batch) for batch in shown),
        notes=tuple(notes),
    )


def status_text(found: Sequence[ManifestStatus]) -> str:
    """Aligned plain text, newline at the end."""
    return "\n".join("".join(f"{line}\n" for line in _section_lines(section(one))) for one in found)


def is_over(found: Sequence[ManifestStatus]) -> bool:
    """Whether nothing is under way: no run at work, no batch that may still change."""
    return not any(one.state == "running" or _has_open(one) for one in found)


def _has_open(one: ManifestStatus) -> bool:
    return any(not ShardState(batch.state).is_final for batch in one.batches)


def _section_lines(shown: Section) -> list[str]:
    lines = [f"{shown.title}  {shown.path}"]
    lines += [f"  {label:<8} {text}" for label, text in shown.facts]
    if shown.batches:
        lines += [f"  {line}" for line in aligned([HEAD, *shown.batches])]
    return lines + [f"  {note}" for note in shown.notes]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines; columns as wide as their widest cell, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _chosen(batches: Sequence[BatchStatus]) -> tuple[list[BatchStatus], list[BatchStatus]]:
    """Batches with a line of their own (open or stuck, else the latest that are done), and the rest."""
    kept = [batch for batch in batches if batch.state != ShardState.DISCARDED]
    matter = [batch for batch in kept if batch.state != ShardState.DONE]
    shown = matter[:MOST_BATCHES] if matter else kept[-MOST_BATCHES:]
    chosen = {id(batch) for batch in shown}
    return shown, [batch for batch in kept if id(batch) not in chosen]


def _requests(batches: Sequence[BatchStatus]) -> int:
    return sum(batch.requests for batch in batches)


def _cells(batch: BatchStatus) -> tuple[str, ...]:
    """Of a batch that is collected, words and counts of the server that were never its last are left out: its
    answers were all there before it said that it had ended."""
    is_open = not ShardState(batch.state).is_final
    is_said = is_open or terminal_word(batch.status) is not None
    return (
        str(batch.slot),
        clean(batch.batch_id or "-"),
        clean(batch.state),
        clean(batch.status or "-") if is_said else "-",
        f"{_number(batch.completed if is_said else None)}/{batch.requests:,}",
        _number(batch.failed if is_said else None),
        f"{_moment(batch.expires_at):%m-%d %H:%M}" if is_open and batch.expires_at else "",
    )


def _number(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _run_text(one: ManifestStatus) -> str:
    state = f"{clean(one.state)}, cancelled" if one.is_cancelled else clean(one.state)
    text = f"{clean(one.run)[:8]}, {state}, began {when(one.started_at)}"
    if one.finished_at is None:
        return text
    took = _moment(one.finished_at) - _moment(one.started_at)
    return f"{text}, took {span(took.total_seconds())}"


def _rows_text(by_status: dict[str, int]) -> str:
    order = sorted(by_status, key=lambda word: (_ORDER.index(word) if word in _ORDER else len(_ORDER), word))
    return ", ".join(f"{by_status[word]:,} {clean(word)}" for word in order if by_status[word]) or "none"


def when(text: str) -> str:
    """A time of the ledger for people: `2026-11-23 10:04 UTC`."""
    return f"{_moment(text):%Y-%m-%d %H:%M} UTC"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(str(text))
