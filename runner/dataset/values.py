"""Types on their way through the snapshot: what Parquet can't hold, and what Python should see.

`stored_type` names the type that a column gets in the snapshot; `converter` turns what DuckDB hands out into
the value that a template sees. Together they keep values faithful: whole numbers of any size are ints, JSON
is what was written, times with a zone are aware UTC. An interval is text, because no Python value holds
months.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from duckdb import DuckDBPyConnection
from duckdb.sqltypes import DuckDBPyType

from runner.core.wire import JsonError, decode_json
from runner.dataset import engine

Converter = Callable[[Any], Any]

_STORED = {
    "HUGEINT": "DECIMAL(38,0)",
    "UHUGEINT": "DECIMAL(38,0)",
    "BIGNUM": "VARCHAR",
    "VARINT": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "TIME WITH TIME ZONE": "VARCHAR",
    "TIME_NS": "VARCHAR",
    "BIT": "VARCHAR",
    '"NULL"': "VARCHAR",
    "NULL": "VARCHAR",
    "VARIANT": "JSON",
}


def stored_type(kind: DuckDBPyType) -> str:
    """The type in the snapshot, as DuckDB writes it; the same text for what Parquet holds faithfully."""
    match kind.id:
        case "enum":
            return "VARCHAR"
        case "union":
            return "JSON"
        case "array":
            return f"{stored_type(_parts(kind)[0][1])}[]"
        case "list" | "struct" | "map":
            parts = [(name, part, stored_type(part)) for name, part in _parts(kind)]
            if all(str(part) == stored for _, part, stored in parts):
                return str(kind)
            return _nested(str(kind.id), [(name, stored) for name, _, stored in parts])
        case _:
            return _STORED.get(str(kind), str(kind))


def _nested(form: str, parts: list[tuple[str, str]]) -> str:
    if form == "list":
        return f"{parts[0][1]}[]"
    if form == "map":
        return f"MAP({parts[0][1]}, {parts[1][1]})"
    return f"STRUCT({', '.join(f'{engine.name(name)} {stored}' for name, stored in parts)})"


def _parts(kind: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    """Element, fields, or key and value; an array's size and the like are left out."""
    return [(name, part) for name, part in kind.children if isinstance(part, DuckDBPyType)]


def converter(kind: DuckDBPyType) -> Converter | None:
    """What turns DuckDB's Python value into ours; None where it already is. NULL never gets here."""
    match kind.id:
        case "list" | "array":
            return _list_converter(converter(_parts(kind)[0][1]))
        case "struct":
            return _struct_converter({name: converter(part) for name, part in _parts(kind)})
        case "map":
            key, value = (converter(part) for _, part in _parts(kind))
            return _map_converter(key, value)
        case "timestamp with time zone":
            return _aware
        case _:
            return {"JSON": from_json, "DECIMAL(38,0)": _whole}.get(str(kind))


def _aware(value: Any) -> Any:
    # DuckDB hands out a time in the session's zone, infinity without one, and beyond year 9999 text.
    if not isinstance(value, datetime):
        return value
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) else value


_BEYOND_64_BITS = re.compile("[0-9]{19}")


def from_json(value: Any) -> Any:
    """What a JSON text says, whole numbers of any size included; the text itself where it is none."""
    try:
        decoded = decode_json(value)
        return json.loads(value) if _BEYOND_64_BITS.search(value) else decoded
    except (JsonError, ValueError):
        return value


def _list_converter(inner: Converter | None) -> Converter | None:
    if inner is None:
        return None
    return lambda values: [None if value is None else inner(value) for value in values]


def _struct_converter(inner: Mapping[str, Converter | None]) -> Converter | None:
    changed = {name: convert for name, convert in inner.items() if convert is not None}
    if not changed:
        return None

    def convert(value: dict[str, Any]) -> dict[str, Any]:
        return value | {
            name: change(value[name]) for name, change in changed.items() if value.get(name) is not None
        }

    return convert


def _map_converter(key: Converter | None, value: Converter | None) -> Converter | None:
    if key is None and value is None:
        return None

    def convert(mapping: dict[Any, Any]) -> dict[Any, Any]:
        names = mapping if key is None else [key(name) for name in mapping]
        items = list(mapping.values())
        if value is not None:
            items = [None if item is None else value(item) for item in items]
        return dict(zip(names, items, strict=True))

    return convert


def types_of(
    connection: DuckDBPyConnection, query: str, parameters: Mapping[str, object]
) -> list[tuple[str, DuckDBPyType]]:
    """Names and types of a query's columns. Runs the query for no rows."""
    result = connection.execute(f"SELECT * FROM (\n{query}\n) LIMIT 0", dict(parameters) or None)
    return [(column[0], column[1]) for column in result.description or ()]
