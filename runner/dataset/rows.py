"""Ranges of a snapshot as Python rows; called by render workers, each for its own ranges.

A range touches only the row groups that hold it (the filter on `_position` is pushed down to the row groups'
statistics). A process keeps one connection per snapshot: opening one costs as much as some thousand rows.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb

from runner.dataset import engine
from runner.dataset.values import Converter, converter, from_json, types_of
from runner.dataset.written import COLUMN as WRITTEN
from runner.dataset.written import restored

Row = tuple[int, str, dict[str, Any]]
BATCH_ROWS = 256
"""Rows that were fetched together and are dealt with at once stay in the processor's cache: 5,000 at a time
took nearly twice as long (measured)."""
VECTOR_ROWS = 2_048
"""DuckDB decodes so many rows at a time; the smallest row group of a snapshot."""
MAX_RANGE_ROWS = 10_240
"""The largest row group of a snapshot."""
_RANGE_BYTES = 8 << 20


def range_rows(path: str, rows: int) -> int:
    """How many rows of a snapshot of so many are best read at a time: about 8 MB of its file, for larger
    ones cost memory; ranges that begin at multiples of this decode little twice."""
    fitting = int(_RANGE_BYTES * max(rows, 1) / Path(path).stat().st_size)
    return max(VECTOR_ROWS, min(MAX_RANGE_ROWS, fitting // VECTOR_ROWS * VECTOR_ROWS))


def read_rows(
    path: str,
    start: int,
    stop: int,
    *,
    batch_rows: int = BATCH_ROWS,
    columns: Collection[str] | None = None,
    only: Sequence[int] | None = None,
) -> Iterator[list[Row]]:
    """Rows with positions [start, stop) of a snapshot in order: position, key, columns by name.

    Shape: batches of at most `batch_rows` rows; positions beyond the end are left out. NULL is None.
    `columns`: only these of the dataset's, in its order; None: all. Others are not even decoded. `only`: no
    other positions than these.
    """
    found = Path(path).stat()
    snapshot = _open(path, os.getpid(), (found.st_ino, found.st_mtime_ns))
    names = [name for name in snapshot.columns if columns is None or name in columns]
    is_mixed = WRITTEN in snapshot.columns and bool(names)
    if is_mixed and WRITTEN not in names:
        names.append(WRITTEN)
    conversions = [(name, convert) for name in names if (convert := snapshot.columns[name]) is not None]
    listed = ", ".join(engine.name(name) for name in ("_position", "_key", *names))
    cursor = snapshot.connection.cursor()
    try:
        cursor.execute(
            f"SELECT {listed} FROM read_parquet({engine.text(snapshot.plain_path)}) "
            f"WHERE _position >= {int(start)} AND _position < {int(stop)}{_among(only)}"
        )
        while batch := cursor.fetchmany(batch_rows):
            rows: list[Row] = [(cells[0], cells[1], dict(zip(names, cells[2:]))) for cells in batch]  # noqa: B905
            for name, convert in conversions:
                for _, _, row in rows:
                    if row[name] is not None:
                        row[name] = convert(row[name])
            if is_mixed:
                for _, _, row in rows:
                    _restore(row)
            yield rows
    finally:
        cursor.close()


def _among(only: Sequence[int] | None) -> str:
    if only is None:
        return ""
    return f" AND _position IN ({', '.join(str(int(position)) for position in only) or 'NULL'})"


def _restore(row: dict[str, Any]) -> None:
    """Whole numbers as they were written, in the place of the fractions they were stored as."""
    for name, text in row.pop(WRITTEN).items():
        if text is not None and name in row:
            row[name] = restored(row[name], from_json(text))


def close_snapshots() -> None:
    """Let go of what `read_rows` keeps open in this process: 50 MB where rows have some KB."""
    _open.cache_clear()


@dataclass(frozen=True, slots=True)
class _Opened:
    """A snapshot's connection, the path that it knows, and the file's columns after `_key`, each with what
    turns its values into ours."""

    connection: duckdb.DuckDBPyConnection
    plain_path: str
    columns: Mapping[str, Converter | None]


@lru_cache(maxsize=2)
def _open(path: str, process_id: int, state: tuple[int, int]) -> _Opened:
    """One connection per snapshot and process (none crosses a fork).

    `state` (inode and mtime) is part of the question, so that a snapshot put in the place of another is
    never read by what is remembered of the other.

    A path that DuckDB would take for a glob is given by its descriptor, which stays open with the process.
    """
    plain_path = f"/dev/fd/{os.open(path, os.O_RDONLY)}" if engine.is_pattern(path) else path
    connection = engine.connect(files=[plain_path], memory_limit=engine.MEMORY_LIMITS[-1])
    kinds = types_of(connection, f"FROM read_parquet({engine.text(plain_path)})", {})
    return _Opened(connection, plain_path, {name: converter(kind) for name, kind in kinds[2:]})
