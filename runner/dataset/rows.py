"""Ranges of a snapshot as Python rows; called by render workers, each for its own ranges.

A range touches only the row groups that hold it (the filter on `_position` is pushed down to the row groups'
statistics). A process keeps one connection per snapshot: opening one costs as much as some thousand rows.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb

from runner.dataset import engine
from runner.dataset.values import converter, from_json
from runner.dataset.written import COLUMN as WRITTEN
from runner.dataset.written import restored

Row = tuple[int, str, dict[str, Any]]


def read_rows(path: str, start: int, stop: int, *, batch_rows: int = 2_000) -> Iterator[list[Row]]:
    """Rows with positions [start, stop) of a snapshot in order: position, key, columns by name.

    Shape: batches of at most `batch_rows` rows; positions beyond the end are left out. NULL is None.
    Speed: a range costs about 6 ms on top of its rows; ranges of 10,000 rows and more read fastest.
    """
    found = Path(path).stat()
    connection, plain_path = _open(path, os.getpid(), (found.st_ino, found.st_mtime_ns))
    cursor = connection.cursor()
    try:
        cursor.execute(
            f"SELECT * FROM read_parquet({engine.text(plain_path)}) "
            f"WHERE _position >= {int(start)} AND _position < {int(stop)}"
        )
        description = cursor.description or ()
        names = [column[0] for column in description[2:]]
        kinds = ((name, converter(column[1])) for name, column in zip(names, description[2:], strict=True))
        conversions = [(name, convert) for name, convert in kinds if convert is not None]
        while batch := cursor.fetchmany(batch_rows):
            rows: list[Row] = [
                (cells[0], cells[1], dict(zip(names, cells[2:], strict=True))) for cells in batch
            ]
            for name, convert in conversions:
                for _, _, row in rows:
                    if row[name] is not None:
                        row[name] = convert(row[name])
            if WRITTEN in names:
                for _, _, row in rows:
                    _restore(row)
            yield rows
    finally:
        cursor.close()


def _restore(row: dict[str, Any]) -> None:
    """Whole numbers as they were written, in the place of the fractions they were stored as."""
    for name, text in row.pop(WRITTEN).items():
        if text is not None:
            row[name] = restored(row[name], from_json(text))


@lru_cache(maxsize=2)
def _open(path: str, process_id: int, state: tuple[int, int]) -> tuple[duckdb.DuckDBPyConnection, str]:
    """One connection per snapshot and process (none crosses a fork), and the path that it knows.

    `state` (inode and mtime) is part of the question, so that a snapshot put in the place of another is
    never read by what is remembered of the other.

    A path that DuckDB would take for a glob is given by its descriptor, which stays open with the process.
    """
    plain_path = f"/dev/fd/{os.open(path, os.O_RDONLY)}" if engine.is_pattern(path) else path
    return engine.connect(files=[plain_path], memory_limit=engine.MEMORY_LIMITS[-1]), plain_path
