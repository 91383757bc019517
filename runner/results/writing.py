"""The joined table into one file: Parquet, CSV, JSONL or SQLite, by the suffix.

Equal inputs give equal bytes (I13): row groups, compression and order are fixed or follow from the input.
"""

# ruff: noqa: S608  # names and texts enter statements through engine.name and engine.text only

from __future__ import annotations

from pathlib import Path

import duckdb

from runner.results.engine import name, text
from runner.results.faults import program_fault
from runner.results.forms import Form, csv_form, json_form, safe_csv_form, safe_csv_name
from runner.results.joining import Joined
from runner.results.sqlite_table import write_sqlite

SUFFIXES = (".parquet", ".csv", ".jsonl", ".db")

_ROW_GROUP_BYTES = 32 << 20
_MAX_ROW_GROUP_ROWS = 40 * 2048
_MIN_ROW_GROUP_ROWS = 16
_COMPRESSION = "COMPRESSION zstd, COMPRESSION_LEVEL 1"
"""A quarter less work than with DuckDB's level 3, for files of the same size (44.2 MB instead of 44.0 of
300,000 rows, measured)."""


def write_table(
    engine: duckdb.DuckDBPyConnection, joined: Joined, suffix: str, path: Path, *, csv_safe: bool
) -> None:
    """Write to `path`, an empty file. Raises RunnerError where the number of rows is not the due one."""
    match suffix:
        case ".parquet":
            options = f"FORMAT parquet, {_COMPRESSION}, ROW_GROUP_SIZE {_row_group_rows(joined)}"
            written = _copy(engine, joined.sql, path, options)
        case ".csv":
            form = safe_csv_form if csv_safe else csv_form
            sql = _formed(engine, joined.sql, form, safe_names=csv_safe)
            written = _copy(engine, sql, path, "FORMAT csv, HEADER true, NULLSTR ''")
        case ".jsonl":
            written = _copy(engine, _formed(engine, joined.sql, json_form), path, "FORMAT json")
        case _:
            written = write_sqlite(engine, joined, path)
    if written != joined.rows:
        raise program_fault(f"{written:,} rows were written instead of {joined.rows:,}")


def _copy(engine: duckdb.DuckDBPyConnection, sql: str, path: Path, options: str) -> int:
    # The draft is already a temporary file; a second one would lose the lock on it.
    row = engine.execute(f"COPY ({sql}) TO {text(str(path))} ({options}, USE_TMP_FILE false)").fetchone()
    return int(row[0]) if row else 0


def _row_group_rows(joined: Joined) -> int:
    """About 32 MB of values to a row group, so that long answers don't pile up in memory."""
    average = max(1, joined.size_bytes // max(1, joined.rows))
    return max(_MIN_ROW_GROUP_ROWS, min(_MAX_ROW_GROUP_ROWS, _ROW_GROUP_BYTES // average))


def _formed(engine: duckdb.DuckDBPyConnection, sql: str, form: Form, *, safe_names: bool = False) -> str:
    table = engine.sql(sql)
    columns = ", ".join(
        f"{form(f'q.{name(column)}', kind)} AS {name(safe_csv_name(column) if safe_names else column)}"
        for column, kind in zip(table.columns, table.types, strict=True)
    )
    return f"SELECT {columns} FROM ({sql}) q"
