"""Which rows of a snapshot hold other values than in an earlier one, under the same key."""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb

from runner.dataset import engine

_OWN_COLUMNS = frozenset({"_position", "_key"})
_AT_A_TIME = 10_000


def differing_rows(path: str, before: str, *, scratch: Path) -> Iterator[list[int]] | None:
    """Positions of rows whose values differ in a column that both have; None where the earlier one is gone
    or can't be compared. Values are compared as they are written: 1 and 1.0 differ."""
    if not Path(before).exists():
        return None
    connection = engine.connect(files=[path, before], folder=scratch)
    try:
        now, then = (f"read_parquet({engine.text(one)})" for one in (path, before))
        names = [_columns(connection, one) for one in (now, then)]
        common = [name for name in names[0] if name in set(names[1]) - _OWN_COLUMNS]
        if not common:
            connection.close()
            return iter(())
        differ = " OR ".join(
            f"CAST(a.{engine.name(one)} AS VARCHAR) IS DISTINCT FROM CAST(b.{engine.name(one)} AS VARCHAR)"
            for one in common
        )
        found = connection.execute(
            f"SELECT a._position FROM {now} a JOIN {then} b ON a._key = b._key WHERE {differ}"
        )
    except duckdb.Error:
        connection.close()
        return None
    return _in_slices(connection, found)


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    return [found[0] for found in connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()]


def _in_slices(
    connection: duckdb.DuckDBPyConnection, found: duckdb.DuckDBPyConnection
) -> Iterator[list[int]]:
    try:
        while batch := found.fetchmany(_AT_A_TIME):
            yield [position for (position,) in batch]
    finally:
        connection.close()
