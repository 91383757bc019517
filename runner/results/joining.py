"""The join of the dataset's snapshot with the lineage, as one streaming statement.

Theory. Both sides lie in position order, so a POSITIONAL JOIN can stream them past each other in flat
memory; and because order alone proves nothing, every single row is checked inside the engine: `_position`
and `_key` of both sides must be equal, or the statement fails and nothing is published (I18, I24). A side
that is too short is padded with NULL by the engine and fails the same check.

Measured, 1,000,000 rows under a 256 MB limit: this way 280,000 rows/s into Parquet; a hash join on
`_position` with the ORDER BY that its spilling makes necessary 80,000, and it runs out of memory for CSV.

Long answers (above 4 KB on average somewhere) go another way: segments are first turned into small
Parquet files, whose scan gives short batches, and the lineage is put on the left of a join whose right
side is no bare scan: then a batch is as long as the left side's, not 2,048 rows.
"""

# ruff: noqa: S608  # names and texts enter statements through engine.name and engine.text only

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from runner.results.columns import KEY, NOT_SHOWN, POSITION, ResultColumn
from runner.results.engine import name, text, text_list
from runner.results.faults import MISMATCH, program_fault
from runner.results.lineage import REPEATS, Lineage, is_time

_MIN_OBJECT_BYTES = 2 << 20
_RECORD = POSITION
"""Each repeat's record, where rows and repeats stand side by side: a name that no column of a dataset has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The results table as a SELECT; `size_bytes` is about what all its values take in memory."""

    sql: str
    rows: int
    size_bytes: int


def join(
    engine: duckdb.DuckDBPyConnection, snapshot: str, lineage: Lineage, columns: Sequence[ResultColumn]
) -> Joined:
    """Raises RunnerError where the number of rows differs; finer differences are found while it runs."""
    rows, size_bytes = _measure(engine, snapshot)
    if rows != lineage.positions:
        raise program_fault(f"the dataset has {rows:,} rows, but there are results for {lineage.positions:,}")
    theirs = [column for column in _columns_of(engine, snapshot) if column.lower() not in NOT_SHOWN]
    fields = [column for column in columns if column.name != KEY]
    if lineage.is_wide:
        sides = _wide_sides(engine, snapshot, lineage, fields)
    else:
        sides = _narrow_sides(snapshot, lineage, fields)
    return Joined(
        sql=_select(sides, theirs, columns, has_repeats=lineage.has_repeats, is_wide=lineage.is_wide),
        rows=lineage.rows,
        size_bytes=size_bytes + lineage.size_bytes,
    )


def _measure(engine: duckdb.DuckDBPyConnection, snapshot: str) -> tuple[int, int]:
    path = text(snapshot)
    counted = engine.execute(f"SELECT count(*) FROM read_parquet({path})").fetchone()
    sized = engine.execute(
        f"SELECT coalesce(sum(total_uncompressed_size), 0) FROM parquet_metadata({path})"
    ).fetchone()
    return int(counted[0]) if counted else 0, int(sized[0]) if sized else 0


def _columns_of(engine: duckdb.DuckDBPyConnection, snapshot: str) -> list[str]:
    rows = engine.execute(f"DESCRIBE SELECT * FROM read_parquet({text(snapshot)})").fetchall()
    return [str(row[0]) for row in rows]


def _narrow_sides(snapshot: str, lineage: Lineage, fields: Sequence[ResultColumn]) -> str:
    return (
        f"read_parquet({text(snapshot)}) s POSITIONAL JOIN "
        f"{_read_lines(lineage, [str(path) for path in lineage.segments], fields)} l"
    )


def _wide_sides(
    engine: duckdb.DuckDBPyConnection, snapshot: str, lineage: Lineage, fields: Sequence[ResultColumn]
) -> str:
    segments = []
    for lines in lineage.segments:
        segment = lines.with_suffix(".parquet")
        segment.touch(mode=0o600)  # one that DuckDB makes may be read by everybody
        source = _read_lines(lineage, [str(lines)], fields)
        engine.execute(
            f"COPY (SELECT * FROM {source}) TO {text(str(segment))} "
            "(FORMAT parquet, COMPRESSION lz4, USE_TMP_FILE false)"
        )
        lines.unlink()
        segments.append(str(segment))
    # The right side must not be a bare scan, or both sides would be scanned in full batches (see above);
    # what it computes must be used (in the check of the key), or it would be optimised away.
    computed = f"{POSITION} || ' ' || {KEY} AS {KEY}"
    right = f"(SELECT * REPLACE ({computed}) FROM read_parquet({text(snapshot)}))"
    return f"read_parquet({text_list(segments)}) l POSITIONAL JOIN {right} s"


def _read_lines(lineage: Lineage, paths: Sequence[str], fields: Sequence[ResultColumn]) -> str:
    """Types are told, never guessed; repeats stand under `m` as a list of the same fields."""
    types = {str(index): _read_type(column) for index, column in enumerate(fields)}
    listed = {"p": "BIGINT", "k": "VARCHAR", **types}
    if lineage.has_repeats:
        members = ", ".join(f"{name(short)} {sql_type}" for short, sql_type in types.items())
        listed[REPEATS] = f"STRUCT({members})[]"
    columns = ", ".join(f"{text(short)}: {text(sql_type)}" for short, sql_type in listed.items())
    object_bytes = max(_MIN_OBJECT_BYTES, lineage.longest_line_bytes + 1)
    return (
        f"read_json({text_list(list(paths))}, format = 'newline_delimited', columns = {{{columns}}}, "
        f"maximum_object_size = {object_bytes})"
    )


def _read_type(column: ResultColumn) -> str:
    return "VARCHAR" if is_time(column) else column.sql_type


def _select(
    sides: str,
    theirs: Sequence[str],
    columns: Sequence[ResultColumn],
    *,
    has_repeats: bool,
    is_wide: bool,
) -> str:
    their_key = "l.p || ' ' || l.k" if is_wide else "l.k"
    same = f"s.{POSITION} = l.p AND s.{KEY} = {their_key}"
    key = f"CASE WHEN {same} THEN l.k ELSE error({text(MISMATCH)}) END"
    fields = [column for column in columns if column.name != KEY]
    short = {column.name: name(str(index)) for index, column in enumerate(fields)}
    own = [f"s.{name(column)} AS {name(column)}" for column in theirs]
    if not has_repeats:
        ours = [_value(column, f"l.{short.get(column.name)}", key) for column in columns]
        return f"SELECT {', '.join(own + ours)} FROM {sides}"
    first = ", ".join(f"{place} := l.{place}" for place in short.values())
    records = f"unnest(list_prepend(struct_pack({first}), l.{REPEATS})) AS {_RECORD}"
    inner = f"SELECT {', '.join([*own, f'{key} AS {KEY}', records])}"
    outer = [f"j.{name(column)}" for column in theirs]
    ours = [_value(column, f"j.{_RECORD}.{short.get(column.name)}", f"j.{KEY}") for column in columns]
    return f"SELECT {', '.join(outer + ours)} FROM ({inner} FROM {sides}) j"


def _value(column: ResultColumn, value: str, key: str) -> str:
    if column.name == KEY:
        value = key
    elif is_time(column):
        # A text that is no time becomes NULL: one odd time must not fail a table.
        value = f"CAST(TRY_CAST({value} AS TIMESTAMP WITH TIME ZONE) AS {column.sql_type})"
    return f"{value} AS {name(column.name)}"
