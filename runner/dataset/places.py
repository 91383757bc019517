"""Which places of a snapshot hold another row than in an earlier one, as a template would see it.

The rows that differ are written to a file of their own while the two are compared: whoever renders them reads
nothing else.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import duckdb

from runner.dataset import engine
from runner.dataset.rows import VECTOR_ROWS
from runner.dataset.values import types_of
from runner.dataset.written import COLUMN as WRITTEN

_OWN_COLUMNS = ("_position", "_key", WRITTEN)
_EXACT = re.compile(
    r"VARCHAR|JSON|BOOLEAN|U?(TINY|SMALL|BIG)INT|U?INTEGER|DATE|TIMESTAMP( WITH TIME ZONE)?|DECIMAL\(.*\)"
)
"""Types whose values are the same to a template where SQL says that they are not distinct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """The rows of a snapshot that differ. `places` has one byte for each row of it: 1 where it does. `path`
    holds them alone, in order, under their positions, with the columns that were compared."""

    places: bytearray
    path: str


def differing_places(
    path: str, before: str, *, rows: int, columns: Collection[str] | None, most: int, scratch: Path
) -> Differing | None:
    """The rows of the snapshot at `path` (it has `rows`) that are others than those at the same places of
    `before`: another key, or another value in these columns (None: in all, which are the same in the same
    order). `scratch` takes their file.

    None where more than `most` differ, or where that can't be told for sure: `before` is gone, a column has
    another type, or one whose values SQL can't tell.
    """
    if any(engine.is_pattern(str(one)) for one in (path, before, scratch)) or not Path(before).exists():
        return None
    target = engine.private_file(scratch / "differing.parquet")
    try:
        with engine.connect(files=[path, before], folder=scratch) as connection:
            now, then = (f"read_parquet({engine.text(one)})" for one in (path, before))
            types = _types(connection, now)
            read = _read(types, columns)
            differ = _differ(types, _types(connection, then), columns, read)
            if differ is None:
                return None
            listed = ", ".join(
                f"a.{engine.name(name)}" for name in types if name in read or name in _OWN_COLUMNS
            )
            # Both are in order and count from 0, which was looked at when they were written.
            connection.execute(
                f"COPY (SELECT {listed} FROM {now} a POSITIONAL JOIN {then} b "
                "WHERE a._position IS NOT NULL AND "
                f"(a._position IS DISTINCT FROM b._position OR a._key IS DISTINCT FROM b._key{differ}) "
                f"LIMIT {most + 1}) TO {engine.text(str(target))} "
                f"(FORMAT parquet, ROW_GROUP_SIZE {VECTOR_ROWS}, USE_TMP_FILE false)"
            )
            found = connection.execute(f"SELECT _position FROM read_parquet({engine.text(str(target))})")
            positions = [position for (position,) in found.fetchall()]
    except duckdb.Error:
        return None
    if len(positions) > most or any(one >= other for one, other in pairwise(positions)):
        return None
    places = bytearray(rows)
    for position in positions:
        places[position] = 1
    return Differing(places=places, path=str(target))


def _types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {name: str(kind) for name, kind in types_of(connection, f"FROM {table}", {})}


def _read(now: Mapping[str, str], columns: Collection[str] | None) -> list[str]:
    return [name for name in now if name not in _OWN_COLUMNS and (columns is None or name in columns)]


def _differ(
    now: Mapping[str, str], then: Mapping[str, str], columns: Collection[str] | None, read: Collection[str]
) -> str | None:
    """What follows the comparison of the keys; None where these columns can't be compared."""
    if columns is None and list(now.items()) != list(then.items()):
        return None
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
