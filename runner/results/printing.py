"""Rows as text: an aligned table for people, CSV, JSON lines or one JSON array for programs.

The one rule: what goes to programs is exact and escaped by the engine; what goes to a terminal holds no
control characters and no endless cells, because answers are foreign text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

from runner.results.engine import name, text
from runner.results.forms import csv_form, json_form

FORMATS = ("table", "csv", "jsonl", "json")

_BATCH_ROWS = 500
_MAX_CELL_COLUMNS = 40


def render(engine: duckdb.DuckDBPyConnection, statement: str, out: str) -> Iterator[str]:
    """The rows of `statement` in the format `out` (one of FORMATS), in chunks."""
    table = engine.sql(statement)
    columns = _distinct(table.columns)
    kinds = list(table.types)
    listed = ", ".join(name(column) for column in columns)
    source = f"FROM (\n{statement.rstrip().rstrip(';')}\n) AS q({listed})"
    if out == "table":
        forms = ", ".join(
            f"CAST({csv_form(f'q.{name(column)}', kind)} AS VARCHAR)"
            for column, kind in zip(columns, kinds, strict=True)
        )
        return _aligned(engine.execute(f"SELECT {forms} {source}"), columns)
    if out == "csv":
        cells = [
            _csv_cell(f"CAST({csv_form(f'q.{name(column)}', kind)} AS VARCHAR)")
            for column, kind in zip(columns, kinds, strict=True)
        ]
        rows = engine.execute(f"SELECT concat_ws(',', {', '.join(cells)}) {source}")
        return _lines(rows, head=",".join(_csv_head(column) for column in columns) + "\n")
    members = ", ".join(
        f"{name(column)} := {json_form(f'q.{name(column)}', kind)}"
        for column, kind in zip(columns, kinds, strict=True)
    )
    rows = engine.execute(f"SELECT CAST(to_json(struct_pack({members})) AS VARCHAR) {source}")
    return _lines(rows) if out == "jsonl" else _array(rows)


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of a SELECT may repeat; those of a table can't."""
    seen: set[str] = set()
    distinct = []
    for column in columns:
        candidate, number = column, 0
        while candidate.casefold() in seen:
            number += 1
            candidate = f"{column}_{number}"
        seen.add(candidate.casefold())
        distinct.append(candidate)
    return distinct


def _csv_cell(value: str) -> str:
    """NULL is an empty cell, an empty text is `\"\"`."""
    special = text('[",\r\n]')
    quoted = f"'\"' || replace({value}, '\"', '\"\"') || '\"'"
    needs_quotes = f"{value} = '' OR regexp_matches({value}, {special})"
    return f"CASE WHEN {value} IS NULL THEN '' WHEN {needs_quotes} THEN {quoted} ELSE {value} END"


def _csv_head(column: str) -> str:
    needs_quotes = any(mark in column for mark in '",\r\n')
    return '"' + column.replace('"', '""') + '"' if needs_quotes else column


def _batches(rows: duckdb.DuckDBPyConnection) -> Iterator[list[tuple[Any, ...]]]:
    while batch := rows.fetchmany(_BATCH_ROWS):
        yield batch


def _lines(rows: duckdb.DuckDBPyConnection, *, head: str = "") -> Iterator[str]:
    if head:
        yield head
    for batch in _batches(rows):
        yield "".join(f"{row[0]}\n" for row in batch)


def _array(rows: duckdb.DuckDBPyConnection) -> Iterator[str]:
    before = "[\n"
    for batch in _batches(rows):
        for row in batch:
            yield before + row[0]
            before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _aligned(rows: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> Iterator[str]:
    """Widths follow from the first batch of rows, so that any length of table can be printed."""
    widths: list[int] = []
    head = [_shown(column) for column in columns]
    for batch in _batches(rows):
        cells = [[_shown(value) for value in row] for row in batch]
        if not widths:
            widths = [max(map(_width, column)) for column in zip(head, *cells, strict=True)]
            yield _line(head, widths) + _line(["-" * width for width in widths], widths)
        yield "".join(_line(row, widths) for row in cells)
    if not widths:
        widths = [_width(cell) for cell in head]
        yield _line(head, widths) + _line(["-" * width for width in widths], widths)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip() + "\n"


def _shown(value: str | None) -> str:
    """One line without control characters, cut where it gets long."""
    if value is None:
        return ""
    clean = "".join(_visible(mark) for mark in value[: 2 * _MAX_CELL_COLUMNS])
    if len(value) <= _MAX_CELL_COLUMNS and _width(clean) <= _MAX_CELL_COLUMNS:
        return clean
    while _width(clean) >= _MAX_CELL_COLUMNS:
        clean = clean[:-1]
    return clean + "…"


def _visible(mark: str) -> str:
    category = unicodedata.category(mark)
    return " " if category in ("Zl", "Zp", "Zs") or mark in "\n\t\r" else "" if category[0] == "C" else mark


def _width(shown: str) -> int:
    """Terminal columns: wide East Asian letters and emoji take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(mark) else 2 if unicodedata.east_asian_width(mark) in "WF" else 1
        for mark in shown
    )
