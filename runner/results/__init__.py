"""The joined results table: the dataset's columns as they came, then ours, in Parquet, CSV, JSONL or SQLite.

`publish` writes it, atomically and in flat memory; `query` reads it back for printing, `compare_tables`
compares two. Rows are joined by id and checked one by one; a table that can't be true is never put in place.
This room knows no ledger and no manifest: it gets a snapshot of the dataset and a stream of records.

Everything is imported when it is first asked for: DuckDB comes with most of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.rooms import found_in

if TYPE_CHECKING:
    from runner.results.columns import ResultColumn, check_columns, lineage_columns
    from runner.results.comparing import (
        ChangedAnswer,
        LoneAnswer,
        TableComparison,
        UnreadableTableError,
        ValueChange,
        ValueCount,
        compare_tables,
    )
    from runner.results.faults import PublishError
    from runner.results.fields import field_reader, fields_of, schema_fields
    from runner.results.lineage import LineForm, Lines
    from runner.results.publishing import Published, check_targets, publish
    from runner.results.reading import FORMATS, query
    from runner.results.sqlite_table import APPLICATION_ID, TABLE
    from runner.results.writing import SUFFIXES

__all__ = [
    "APPLICATION_ID",
    "FORMATS",
    "SUFFIXES",
    "TABLE",
    "ChangedAnswer",
    "LineForm",
    "Lines",
    "LoneAnswer",
    "PublishError",
    "Published",
    "ResultColumn",
    "TableComparison",
    "UnreadableTableError",
    "ValueChange",
    "ValueCount",
    "check_columns",
    "check_targets",
    "compare_tables",
    "field_reader",
    "fields_of",
    "lineage_columns",
    "publish",
    "query",
    "schema_fields",
]

__getattr__ = found_in(
    __name__,
    __all__,
    (
        "columns",
        "faults",
        "fields",
        "lineage",
        "publishing",
        "reading",
        "sqlite_table",
        "writing",
        "comparing",
    ),
)
