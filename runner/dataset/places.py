"""Which places of a snapshot hold another row than in an earlier one, as a template would see it."""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import duckdb

from runner.dataset import engine
from runner.dataset.values import types_of
from runner.dataset.written import COLUMN as WRITTEN

_OWN_COLUMNS = ("_position", "_key", WRITTEN)
_AT_A_TIME = 10_000
_EXACT = re.compile(
    r"VARCHAR|JSON|BOOLEAN|U?(TINY|SMALL|BIG)INT|U?INTEGER|DATE|TIMESTAMP( WITH TIME ZONE)?|DECIMAL\(.*\)"
)
"""Types whose values are the same to a template where SQL says that they are not distinct."""


def differing_places(
    path: str, before: str, *, rows: int, columns: Collection[str] | None, scratch: Path
) -> bytearray | None:
    """One byte for each row of the snapshot at `path`: 0 where the same place in `before` has the same key
    and the same values in these columns (None: in all, which are the same in the same order). None where that
    can't be told for sure: `before` is gone, a column has another type, or one whose values SQL can't tell.
    """
    if not Path(before).exists() or engine.is_pattern(path) or engine.is_pattern(before):
        return None
    try:
        with engine.connect(files=[path, before], folder=scratch) as connection:
            now, then = (f"read_parquet({engine.text(one)})" for one in (path, before))
            differ = _differ(_types(connection, now), _types(connection, then), columns)
            if differ is None:
                return None
            # Both are in order and count from 0, which was looked at when they were written.
            found = connection.execute(
                f"SELECT a._position FROM {now} a POSITIONAL JOIN {then} b WHERE a._position IS NOT NULL AND "
                f"(a._position IS DISTINCT FROM b._position OR a._key IS DISTINCT FROM b._key{differ})"
            )
            places = bytearray(rows)
            while batch := found.fetchmany(_AT_A_TIME):
                for (position,) in batch:
                    places[position] = 1
            return places
    except duckdb.Error:
        return None


def _types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {name: str(kind) for name, kind in types_of(connection, f"FROM {table}", {})}


def _differ(now: Mapping[str, str], then: Mapping[str, str], columns: Collection[str] | None) -> str | None:
    """What follows the comparison of the keys; None where these columns can't be compared."""
    if columns is None and list(now.items()) != list(then.items()):
        return None
    read = [name for name in now if name not in _OWN_COLUMNS and (columns is None or name in columns)]
    if any(now.get(name) != then.get(name) for name in (*read, WRITTEN)):
        return None
    if columns is not None and any(name in then for name in columns if name not in now):
        return None
    parts = [_compared(name, now[name]) for name in read]
    if WRITTEN in now:
        parts.append(f"a.{WRITTEN} IS DISTINCT FROM b.{WRITTEN}")  # texts; of all columns
    return None if None in parts else "".join(f" OR {part}" for part in parts)


def _compared(name: str, kind: str) -> str | None:
    column = engine.name(name)
    if _EXACT.fullmatch(kind):
        return f"a.{column} IS DISTINCT FROM b.{column}"
    if kind in ("DOUBLE", "FLOAT"):  # 0.0 and -0.0 are the same number and not the same text
        return f"CAST(a.{column} AS VARCHAR) IS DISTINCT FROM CAST(b.{column} AS VARCHAR)"
    return None
