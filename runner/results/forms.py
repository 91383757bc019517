"""How a value of any type is written in each text form: as SQL expressions over DuckDB's type tree.

Parquet needs none of this. JSONL: times in ISO 8601, NaN and infinities as null, bytes as base64, numbers
with all their digits. CSV and SQLite: the same, and nested values as JSON text instead of DuckDB's own
literals. Times with a zone are UTC and end in Z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from runner.results.engine import name, text


class Kind(Protocol):
    """A DuckDB type as its relations show it: `id` is a word, `children` (label, type or detail)."""

    @property
    def id(self) -> str: ...

    @property
    def children(self) -> list[tuple[str, Any]]: ...


Form = Callable[[str, Kind], str]

_NESTED = frozenset({"struct", "list", "array", "map"})
_SMALL_INTEGERS = frozenset({"tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger"})
_LARGE_INTEGERS = frozenset({"hugeint", "ubigint", "uhugeint"})
_PLAIN = _SMALL_INTEGERS | _LARGE_INTEGERS | {"boolean", "decimal", "varchar", "enum", "date", "time", "uuid"}
_FLOATS = frozenset({"float", "double"})
_LOCAL_TIMES = frozenset({"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"})
_ZONED = "timestamp with time zone"


def json_form(value: str, kind: Kind) -> str:
    """For JSON: what JSON can say stays as it is, the rest becomes text or null."""
    return _json(value, kind, 0)


def csv_form(value: str, kind: Kind) -> str:
    """For CSV: scalars as DuckDB writes them, nested values as JSON text."""
    if kind.id in _NESTED:
        return _json_text(value, kind)
    return value if kind.id in _FLOATS else _json(value, kind, 0)


def safe_csv_form(value: str, kind: Kind) -> str:
    """As `csv_form`, and text that a spreadsheet would take for a formula gets a leading apostrophe."""
    if kind.id not in ("varchar", "enum"):
        return csv_form(value, kind)
    as_text = f"CAST({value} AS VARCHAR)"
    starts = "('=', '+', '-', '@', chr(9), chr(13))"
    return f"CASE WHEN left({as_text}, 1) IN {starts} THEN '''' || {as_text} ELSE {as_text} END"


def safe_csv_name(column: str) -> str:
    """A header cell, defused in the same way."""
    return f"'{column}" if column.startswith(("=", "+", "-", "@", "\t", "\r")) else column


def sqlite_form(value: str, kind: Kind) -> str:
    """For SQLite: integers, reals, text and bytes; whatever would lose digits there is text."""
    if kind.id in _NESTED:
        return _json_text(value, kind)
    if kind.id in _SMALL_INTEGERS or kind.id in _FLOATS or kind.id in ("boolean", "blob"):
        return value
    return f"CAST({_json(value, kind, 0)} AS VARCHAR)"


def sqlite_type(kind: Kind) -> str:
    """The declared type of a SQLite column. NUMERIC affinity is avoided: it would round decimals."""
    if kind.id in _SMALL_INTEGERS:
        return "INTEGER"
    if kind.id in _FLOATS:
        return "REAL"
    return {"boolean": "BOOLEAN", "blob": "BLOB"}.get(kind.id, "TEXT")


def _json_text(value: str, kind: Kind) -> str:
    return f"CASE WHEN {value} IS NOT NULL THEN CAST(to_json({_json(value, kind, 0)}) AS VARCHAR) END"


def _json(value: str, kind: Kind, depth: int) -> str:
    if kind.id in _NESTED:
        return _nested(value, kind, depth) if _changes(kind) else value
    if kind.id in _PLAIN:
        return value
    if kind.id in _FLOATS:
        return f"CASE WHEN isfinite({value}) THEN {value} END"
    if kind.id in _LOCAL_TIMES:
        return f"replace(CAST({value} AS VARCHAR), ' ', 'T')"
    if kind.id == _ZONED:
        return f"replace(replace(CAST({value} AS VARCHAR), ' ', 'T'), '+00', 'Z')"
    if kind.id == "blob":
        return f"base64({value})"
    return f"CAST({value} AS VARCHAR)"


def _changes(kind: Kind) -> bool:
    """Whether any part of the type is written otherwise than to_json would do it."""
    if kind.id in _NESTED:
        return any(_changes(part) for _, part in _parts(kind))
    return kind.id not in _PLAIN


def _parts(kind: Kind) -> list[tuple[str, Kind]]:
    return [(label, part) for label, part in kind.children if hasattr(part, "id")]


def _nested(value: str, kind: Kind, depth: int) -> str:
    parts = _parts(kind)
    item = f"item_{depth}"
    if kind.id in ("list", "array"):
        return f"list_transform({value}, lambda {item}: {_json(item, parts[0][1], depth + 1)})"
    if kind.id == "struct":
        members = ", ".join(
            f"{name(label)} := {_json(f'struct_extract({value}, {text(label)})', part, depth + 1)}"
            for label, part in parts
        )
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({members}) END"
    keys, values = (
        f"list_transform({source}({value}), lambda {item}: {form})"
        for source, form in (
            ("map_keys", f"CAST({item} AS VARCHAR)"),
            ("map_values", _json(item, parts[1][1], depth + 1)),
        )
    )
    return f"CASE WHEN {value} IS NOT NULL THEN map({keys}, {values}) END"
