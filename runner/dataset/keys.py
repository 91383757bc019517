"""What identifies a row: named columns, or its content.

One column: its value as text, a whole number or a JSON string as it was written. Several: their texts joined
by `|`, with `\\` before each `|` and `\\` in them, so that different values never make equal keys. None: 12
hex digits of the MD5 of the row as JSON, columns sorted by name; the second row of equal content gets `-2`,
the third `-3`, so that reordering keeps the set of keys.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from duckdb.sqltypes import DuckDBPyType

from runner.core.model import Manifest
from runner.dataset import engine
from runner.dataset.inputs import Inputs, short
from runner.dataset.origins import origins
from runner.dataset.written import COLUMN as WRITTEN
from runner.errors import InputError, Mistake

_SHOWN = 5
_MAX_VALUE_CHARACTERS = 80


def key_expression(
    key: Sequence[str], columns: Sequence[tuple[str, DuckDBPyType]], written: Collection[str] = ()
) -> str:
    """SQL for `_key`. NULL where a part is NULL. `written` are the columns that `_written` knows better."""
    if not key:
        return f"left(md5({_canonical(columns, written)}), 12)"
    kinds = {column.casefold(): (column, kind) for column, kind in columns}
    parts = [_text(*kinds[part.casefold()], written) for part in key]
    if len(parts) == 1:
        return parts[0]
    escaped = [rf"replace(replace({part}, '\', '\\'), '|', '\|')" for part in parts]
    return " || '|' || ".join(escaped)


def _canonical(columns: Sequence[tuple[str, DuckDBPyType]], written: Collection[str]) -> str:
    """The row as JSON, apart from types: 1 as a number and as text are one content."""
    nested = ("list", "struct", "map", "array", "union")
    fields = [
        f"{engine.text(column)}, "
        + (
            f"CAST(to_json({engine.name(column)}) AS VARCHAR)"
            if kind.id in nested
            else _text(column, kind, written)
        )
        for column, kind in sorted(columns, key=lambda pair: pair[0])
    ]
    return f"CAST(json_object({', '.join(fields)}) AS VARCHAR)"


def _text(column: str, kind: DuckDBPyType, written: Collection[str]) -> str:
    quoted = engine.name(column)
    if str(kind) == "JSON":
        return f"({quoted} ->> '$')"
    text = f"CAST({quoted} AS VARCHAR)"
    if column in written and kind.id == "double":
        return f"coalesce({WRITTEN}.{quoted}, {text})"
    return text


def missing_columns(manifest: Manifest, columns: Sequence[str]) -> list[Mistake]:
    """A mistake for each key column that the dataset does not have."""
    known = {column.casefold() for column in columns}
    mistakes = []
    for index, part in enumerate(manifest.dataset.key):
        if part.casefold() in known:
            continue
        at = f"dataset.key.{index}" if f"dataset.key.{index}" in manifest.positions else "dataset.key"
        close = difflib.get_close_matches(part, columns, n=1, cutoff=0.6)
        listed = ", ".join(map(short, columns[:12])) + (", ..." if len(columns) > 12 else "")
        hint = f"did you mean {short(close[0])!r}?" if close else f"columns: {listed}"
        what = f"the dataset has no column {short(part)!r}"
        mistakes.append(Mistake(where=manifest.where(at), path=at, what=what, hint=hint))
    return mistakes


# ---------------------------------------------------------------- checks on the written snapshot


class KeyCheck:
    """NULL and doubled keys of a snapshot, told with row numbers and, where derivable, file and line."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: Path, manifest: Manifest, inputs: Inputs
    ) -> None:
        self._connection = connection
        self._from = f"read_parquet({engine.text(str(path))})"
        self._manifest = manifest
        self._inputs = inputs

    def run(self, nulls_in_all: int) -> None:
        """Raise InputError with the first mistakes and the total counts. `nulls_in_all`: so many rows have
        no key."""
        nulls, duplicates = self._nulls(nulls_in_all), self._duplicates()
        if not nulls and not duplicates:
            return
        positions = {position for told in (*nulls, *duplicates) for position in told.positions}
        # A query stands between the files and its rows.
        is_queried = self._manifest.dataset.query is not None
        places = {} if is_queried else origins(self._connection, self._inputs, positions)
        raise InputError(
            [self._mistake(told, places) for told in (*nulls, *duplicates)],
            next_step="mend the keys, or leave out dataset.key to go by content",
        )

    def _nulls(self, total: int) -> list[_Told]:
        if not total:
            return []
        rows = self._connection.execute(
            f"SELECT _position FROM {self._from} WHERE _key IS NULL ORDER BY _position LIMIT {_SHOWN}"
        ).fetchall()
        what = f"{total:,} {'row has' if total == 1 else 'rows have'} no key (NULL in {self._key})"
        return [_Told(what, tuple(position for (position,) in rows), total)]

    def _duplicates(self) -> list[_Told]:
        doubled = f"SELECT _key FROM {self._from} WHERE _key IS NOT NULL GROUP BY _key HAVING count(*) > 1"
        total = self._count(f"SELECT count(*) FROM ({doubled})")
        if not total:
            return []
        rows = self._connection.execute(
            f"SELECT _key, count(*), list(_position ORDER BY _position)[1:{_SHOWN}] FROM {self._from} "
            f"WHERE _key IN ({doubled}) GROUP BY _key ORDER BY min(_position) LIMIT {_SHOWN}"
        ).fetchall()
        told = [
            _Told(f"key {_shortened(key)} is used by {count:,} rows", tuple(positions), count)
            for key, count, positions in rows
        ]
        if total > _SHOWN:
            told.append(_Told(f"{total:,} keys are used more than once; the first {_SHOWN} are shown"))
        return told

    def _count(self, query: str) -> int:
        found = self._connection.execute(query).fetchone()
        return int(found[0]) if found else 0

    @property
    def _key(self) -> str:
        return " or ".join(repr(part) for part in self._manifest.dataset.key)

    def _mistake(self, told: _Told, places: Mapping[int, str]) -> Mistake:
        rows = [
            f"row {position + 1}" + (f" ({places[position]})" if position in places else "")
            for position in told.positions
        ]
        more = ", ..." if told.rows > len(rows) else ""
        what = f"{told.what}: {', '.join(rows)}{more}" if rows else told.what
        return Mistake(where=self._manifest.where("dataset.key"), path="dataset.key", what=what)


@dataclass(frozen=True, slots=True)
class _Told:
    """What is wrong with keys; the first rows that it is about, and how many there are."""

    what: str
    positions: tuple[int, ...] = ()
    rows: int = 0


def _shortened(key: str) -> str:
    text = repr(key)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "..."


# ---------------------------------------------------------------- content keys


def number_equal_rows(
    connection: duckdb.DuckDBPyConnection, source: Path, target: Path, options: str
) -> bool:
    """Write `source` to `target`, keys of later equal rows with `-2`, `-3`; False if there are none."""
    read = f"read_parquet({engine.text(str(source))})"
    doubled = f"SELECT _key FROM {read} GROUP BY _key HAVING count(*) > 1"
    if connection.execute(f"SELECT 1 FROM ({doubled}) LIMIT 1").fetchone() is None:
        return False
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE suffixes AS "
        "SELECT CASE WHEN occurrence > 1 THEN '-' || occurrence ELSE '' END AS suffix FROM ("
        "SELECT _position, row_number() OVER (PARTITION BY _key ORDER BY _position) AS occurrence "
        f"FROM {read}) ORDER BY _position"
    )
    # Positional, because no other join promises to keep the order of rows (1.4 was seen to break it).
    connection.execute(
        f"COPY (SELECT r.* REPLACE (r._key || s.suffix AS _key) FROM {read} r POSITIONAL JOIN suffixes s) "
        f"TO {engine.text(str(engine.private_file(target)))} ({options})"
    )
    return True
