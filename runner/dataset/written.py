"""Whole numbers as they were written, beside the fractions that SQL counts with.

Theory. In a text format a column that holds `5` and `1.5` is a DOUBLE for SQL and in the results table; but
a 5 that turned into 5.0 because another row got a fraction would be another prompt, another key, and paid
for again. So the snapshot has a column of its own beside such columns: `_written`, a STRUCT with one field
for each, which holds the JSON text of the value as it was written, or NULL where the number alone says it.
Templates and keys see that. What a row renders to then hangs on its own text, and whole numbers beyond 2**53
lose no digit.

A `dataset.query` stands between the text and the row. Columns that it hands on as they are, renamed or not,
are found by a mark: the query is bound once more, for no rows, over a view in which mixed columns have a type
that nothing computed has. What is whole there was written whole. What a query computes is its own.

Rejected: JSON or text as the column's type (DuckDB compares `2.4 > 2` as whole numbers then, and says false);
a type alias of DOUBLE for the mark (DuckDB forgets it at once).
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
from duckdb.sqltypes import DuckDBPyType

from runner.dataset import engine
from runner.dataset.values import types_of

COLUMN = "_written"
WHOLE = "-?[0-9]+"
"""Pattern of a number that is written as a whole one, in JSON."""
EXACT_LIMIT = 2**53
"""Up to here a DOUBLE holds every whole number; beyond, a query can't be handed them as one."""
_MARK = "DECIMAL(37,11)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """The columns of `dataset` that mix whole numbers and fractions.

    `texts` gives for each the SQL of its text as written, over the view `cells`; `numbers` are those that are
    plain DOUBLEs, the others have such numbers inside.
    """

    texts: Mapping[str, str]
    numbers: frozenset[str]


NOTHING_MIXED = Mixed(texts={}, numbers=frozenset())


def create_views(connection: duckdb.DuckDBPyConnection, columns: Mapping[str, str], mixed: Mixed) -> None:
    """The view `dataset` over `cells`, from the SQL of each column, and `written` where columns are mixed."""
    listed = [f"{sql} AS {engine.name(column)}" for column, sql in columns.items()]
    connection.execute(f"CREATE VIEW dataset AS SELECT {', '.join(listed)} FROM cells")
    if mixed.texts:
        listed.append(_packed(mixed.texts))
        connection.execute(f"CREATE VIEW written AS SELECT {', '.join(listed)} FROM cells")


def rows_with_written(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Mapping[str, object],
    columns: Sequence[tuple[str, DuckDBPyType]],
    mixed: Mixed,
    *,
    is_queried: bool,
) -> tuple[str, frozenset[str]]:
    """What to select from: the dataset's rows, with `_written` where there is something to tell.

    The columns that `_written` tells of come second. One line stands before the query, as ever.
    """
    plain = f"(\n{query}\n)"
    if not is_queried:
        return ("written", frozenset(mixed.texts)) if mixed.texts else (plain, frozenset())
    handed_on = _handed_on(connection, query, parameters, columns, mixed.numbers)
    if not handed_on:
        return plain, frozenset()
    packed = _packed({column: _whole(engine.name(column)) for column in sorted(handed_on)})
    return f"(SELECT *, {packed} FROM {plain})", handed_on


def _packed(texts: Mapping[str, str]) -> str:
    fields = ", ".join(f"{engine.name(column)} := {sql}" for column, sql in texts.items())
    return f"struct_pack({fields}) AS {COLUMN}"


def _whole(column: str) -> str:
    is_whole = f"{column} = trunc({column}) AND abs({column}) <= {EXACT_LIMIT}"
    return f"CASE WHEN {is_whole} THEN CAST(CAST({column} AS BIGINT) AS VARCHAR) END"


def _handed_on(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: Mapping[str, object],
    columns: Sequence[tuple[str, DuckDBPyType]],
    numbers: Collection[str],
) -> frozenset[str]:
    """The columns of a query's result that are mixed columns of the dataset, untouched."""
    if not numbers:
        return frozenset()
    marks = ", ".join(
        f"CAST({engine.name(column)} AS {_MARK}) AS {engine.name(column)}" for column in numbers
    )
    connection.execute("ALTER VIEW dataset RENAME TO unmarked")
    connection.execute(f"CREATE VIEW dataset AS SELECT * REPLACE ({marks}) FROM unmarked")
    try:
        marked = types_of(connection, query, parameters)
    except duckdb.BinderException:
        return frozenset()  # something in it takes nothing but a DOUBLE
    finally:
        connection.execute("DROP VIEW dataset")
        connection.execute("ALTER VIEW unmarked RENAME TO dataset")
    return frozenset(
        column
        for (column, kind), (_, mark) in zip(columns, marked, strict=True)
        if str(kind) == "DOUBLE" and str(mark) == _MARK
    )


def restored(value: Any, written: Any) -> Any:
    """`value` with each whole number that `written`, the same value as JSON, holds in its place."""
    if isinstance(value, float):
        return written if type(written) is int else value
    if isinstance(value, dict) and isinstance(written, dict):
        return {name: restored(part, written.get(name)) for name, part in value.items()}
    if isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        return [restored(part, other) for part, other in zip(value, written, strict=True)]
    return value
