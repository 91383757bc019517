"""Old beside new: examples of a plan as unified diffs, two runs' answers side by side.

Prompts and answers are foreign text: every line is cleaned before it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len

from runner.cli.columns import cut, padded, table
from runner.cli.status_text import when
from runner.cli.texts import clean, clean_text

if TYPE_CHECKING:
    from runner.commands.diffing import DiffResult
    from runner.commands.examples import Example, MessageChange
    from runner.results import LoneAnswer, TableComparison, ValueCount

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def examples_text(examples: Sequence[Example], *, is_coloured: bool) -> list[str]:
    """The lines of `run plan --diff N`: a head for each row, then a diff for each message that differs."""
    lines = []
    for one in examples:
        columns = f" ({', '.join(map(clean, one.columns))})" if one.columns else ""
        parts = [part + (columns if part == "dataset" else "") for part in one.changed]
        lines += ["", f"row {one.position + 1:,}, key {clean(one.key)}: {', '.join(parts)} changed"]
        if one.problem is not None:
            lines.append(f"  {clean(one.problem)}")
        elif not one.messages:
            lines.append("  the prompt is the same")
        for message in one.messages:
            lines += [f"  {clean(message.role)}", *_diff_lines(message, is_coloured)]
    return lines


def _diff_lines(message: MessageChange, is_coloured: bool) -> list[str]:
    """Marks first, each line indented; coloured on a terminal."""
    lines = []
    for line in message.diff():
        mark, rest = line[:1], line[1:]
        shown = f"    {mark}{''.join(clean_text(rest))}".rstrip()
        lines.append(click.style(shown, fg=_COLOURS[mark]) if is_coloured and mark in _COLOURS else shown)
    return lines


# ---------------------------------------------------------------- two runs


def diff_text(found: DiffResult, *, width: int) -> list[str]:
    """The lines of `run diff`, at most `width` places each."""
    tables = found.tables
    parts = ", ".join(map(clean, found.changed)) or "nothing that counts for requests"
    figures = [("equal", tables.equal), ("changed", tables.changed)]
    figures += [("added", tables.added), ("removed", tables.removed)]
    places = max(len(f"{number:,}") for _, number in figures)
    return [
        cut(clean(found.manifest), width),
        f"  before    {clean(found.before)[:8]}, {when(found.before_started_at)}",
        f"  after     {clean(found.after)[:8]}, {when(found.after_started_at)}",
        cut(f"  edited    {parts}", width),
        f"  rows      {tables.rows_before:,} to {tables.rows_after:,}",
        *(f"  {word:<8}  {number:>{places},}" for word, number in figures),
        *_count_lines(tables.counts, width),
        *_change_lines(tables, width),
        *_lone_lines("added", tables.added, tables.additions, width),
        *_lone_lines("removed", tables.removed, tables.removals, width),
    ]


def _count_lines(counts: Sequence[ValueCount], width: int) -> list[str]:
    """Values whose number of rows is another, column by column."""
    moved = [one for one in counts if one.before != one.after]
    if not moved:
        return []
    rows = [("column", "value", "before", "after", "")]
    for place, one in enumerate(moved):
        column = clean(one.column) if place == 0 or moved[place - 1].column != one.column else ""
        value = "(none)" if one.value is None else cut(clean(one.value), width // 3)
        rows.append((column, value, f"{one.before:,}", f"{one.after:,}", f"{one.after - one.before:+,}"))
    return ["", *(cut(f"  {line}", width) for line in table(rows, right={2, 3, 4}))]


def _change_lines(tables: TableComparison, width: int) -> list[str]:
    """Answers side by side: where fields of the answer differ, its text would only repeat them."""
    lines = _head("changed answers", tables.changed, len(tables.changes))
    for one in tables.changes:
        has_fields = any(not value.column.startswith("_") for value in one.values)
        shown = [value for value in one.values if not (has_fields and value.column == "_answer")]
        lines.append(cut(f"  {_key(one.key, one.repeat)}", width))
        names = max((cell_len(clean(value.column)) for value in shown), default=0)
        half = max((width - names - 9) // 2, 8)
        for value in shown:
            before, after = _beside(_value(value.before), _value(value.after), half)
            lines.append(f"    {padded(clean(value.column), names)}  {padded(before, half)} | {after}")
    return lines


def _beside(before: str, after: str, width: int) -> tuple[str, str]:
    """Both cut to `width`; where they begin alike for long, from shortly before they part."""
    pairs = enumerate(zip(before, after, strict=False))
    same = next((place for place, (old, new) in pairs if old != new), min(len(before), len(after)))
    start = same - width // 3 if same > width // 2 and max(len(before), len(after)) > width else 0
    if start:
        before, after = f"…{before[start:]}", f"…{after[start:]}"
    return cut(before, width), cut(after, width)


def _lone_lines(word: str, count: int, shown: Sequence[LoneAnswer], width: int) -> list[str]:
    rows = [(_key(one.key, one.repeat), clean(one.status), _value(one.answer)) for one in shown]
    return _head(word, count, len(shown)) + [
        cut(f"  {line}", width) for line in table([("",) * 3, *rows])[1:]
    ]


def _head(word: str, count: int, shown: int) -> list[str]:
    if not count:
        return []
    return ["", f"{word} ({count:,})" if shown == count else f"{word} (the first {shown:,} of {count:,})"]


def _key(key: str, repeat: int) -> str:
    return clean(key) if repeat == 1 else f"{clean(key)} #{repeat}"


def _value(text: str | None) -> str:
    return "(none)" if text is None else clean(text)
