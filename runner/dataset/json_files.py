"""JSON Lines and JSON arrays to typed columns: the JSON types as they are, nothing read into strings.

Theory. The structure is taken over all records first, then every record is read with explicit types. JSON
strings stay text (DuckDB's own detection turns some into dates and UUIDs). Columns whose values differ in
type are kept as JSON and reach Python as the value that was written. A missing field is NULL, in nested
objects too. Whole numbers beyond 64 bits are kept exactly: as DECIMAL(38,0) if possible, else as text.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import duckdb

from runner.core.wire import JsonError, decode_json
from runner.dataset import engine
from runner.dataset.inputs import UNREADABLE, Format, Inputs, open_bytes, unreadable
from runner.errors import InputError, Mistake

_MAX_MISTAKES = 5
_MAX_FIELDS = 200
"""A nested object with more different fields than that is a map with data for keys: kept as JSON."""
MAX_RECORD_BYTES = 16 << 20

_SCALARS = {
    "VARCHAR": "VARCHAR",
    "BOOLEAN": "BOOLEAN",
    "BIGINT": "BIGINT",
    "UBIGINT": "BIGINT",
    "HUGEINT": "HUGEINT",
    "DOUBLE": "DOUBLE",
}


def create_view(connection: duckdb.DuckDBPyConnection, inputs: Inputs) -> None:
    """Make the view `dataset` over all files. Raises InputError where records are not objects."""
    source = _source(inputs)
    structure = _structure(connection, source)
    if not isinstance(structure, dict):
        raise InputError(find_mistakes(inputs) or [Mistake(where=inputs.paths[0], what=_NOT_OBJECT)])
    if not structure:
        raise InputError([Mistake(where=inputs.paths[0], what="no records, so there are no columns")])
    _check_names(inputs, structure)
    types = _exact(connection, source, {column: _type(shape) for column, shape in structure.items()})
    connection.execute(f"CREATE VIEW dataset AS SELECT * FROM {_reader(source, types)}")


def _structure(connection: duckdb.DuckDBPyConnection, source: str) -> Any:
    """What all records have in common, fields in order of appearance.

    DuckDB's own `json_group_structure` holds a structure per record (measured: 128 MB and more at a million
    records); most records have one of a few structures, so those are told apart first and merged here.
    """
    found = connection.execute(
        "SELECT structure FROM (SELECT CAST(json_structure(json) AS VARCHAR) AS structure, "
        f"row_number() OVER () AS number FROM read_json_objects({source})) "
        "GROUP BY structure ORDER BY min(number)"
    )
    merged: Any = {}
    while batch := found.fetchmany(1_000):
        for (structure,) in batch:
            merged = _merged(merged, decode_json(structure))
            if not isinstance(merged, dict):
                return merged
    return merged


def _source(inputs: Inputs) -> str:
    """Arguments that files and record format add to DuckDB's JSON readers."""
    style = "newline_delimited"
    if inputs.format is Format.JSON:
        styles = {_checked_style(path) for path in inputs.paths}
        if len(styles) > 1:
            what = "some files hold one array, others objects; all must be alike"
            raise InputError([Mistake(where=inputs.paths[0], what=what)])
        style = styles.pop()
    paths = engine.text_list(inputs.plain_paths)
    return f"{paths}, format = '{style}', maximum_object_size = {MAX_RECORD_BYTES}"


def _checked_style(path: str) -> str:
    try:
        return _style(path)
    except UNREADABLE as error:
        raise InputError([unreadable(path, error)]) from error


def _style(path: str) -> str:
    with open_bytes(path) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return "array" if start.startswith(b"[") else "unstructured"


def _reader(source: str, types: Mapping[str, str]) -> str:
    columns = ", ".join(f"{engine.text(column)}: {engine.text(kind)}" for column, kind in types.items())
    return f"read_json({source}, columns = {{{columns}}})"


def _check_names(inputs: Inputs, structure: Mapping[str, object]) -> None:
    seen: dict[str, str] = {}
    for column in structure:
        if not column:
            raise InputError([Mistake(where=inputs.paths[0], what="a field has no name")])
        before = seen.setdefault(column.casefold(), column)
        if before != column:
            what = f"fields {before!r} and {column!r} differ only in case"
            raise InputError([Mistake(where=inputs.paths[0], what=what)])


# ---------------------------------------------------------------- types

_WIDTH = {"UBIGINT": 0, "BIGINT": 1, "HUGEINT": 2, "DOUBLE": 3}


def _merged(one: Any, other: Any) -> Any:
    """A structure that holds values of both; the word JSON where there is none but that."""
    if one == other or other == "NULL":
        return one
    if one == "NULL":
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        fields = dict(one)
        for name, shape in other.items():
            fields[name] = _merged(fields[name], shape) if name in fields else shape
        return fields
    if isinstance(one, list) and isinstance(other, list):
        return [_merged(one[0], other[0])]
    if isinstance(one, str) and isinstance(other, str) and one in _WIDTH and other in _WIDTH:
        return max(one, other, key=_WIDTH.__getitem__)
    return "JSON"


def _type(shape: Any) -> str:
    """DuckDB's type for a JSON structure; JSON where values have no type in common."""
    if isinstance(shape, str):
        # Never seen with a value: text, so that it can be printed and compared.
        return "VARCHAR" if shape == "NULL" else _SCALARS.get(shape, "JSON")
    return _nested(shape)


def _nested(shape: Any) -> str:
    if isinstance(shape, list):
        return f"{_type(shape[0])}[]" if shape and shape[0] != "NULL" else "JSON[]"
    if isinstance(shape, dict):
        names = {field.casefold() for field in shape}
        if not shape or len(names) < len(shape) or len(shape) > _MAX_FIELDS or "" in names:
            return "JSON"
        return f"STRUCT({', '.join(f'{engine.name(field)} {_type(part)}' for field, part in shape.items())})"
    return _type(shape)


def _exact(connection: duckdb.DuckDBPyConnection, source: str, types: dict[str, str]) -> dict[str, str]:
    """Widen what would lose digits: whole numbers beyond 64 bits among numbers.

    The structure calls 0 to 2**64-1 unsigned and anything longer a DOUBLE; only reading tells.
    """
    suspects = [column for column, kind in types.items() if kind in ("BIGINT", "DOUBLE")]
    if not suspects:
        return types
    as_text = _reader(source, dict.fromkeys(suspects, "VARCHAR"))
    tests = ", ".join(_overflows(engine.name(column), types[column]) for column in suspects)
    verdicts = connection.execute(f"SELECT {tests} FROM {as_text}").fetchone() or ()
    widened = {
        column: "VARCHAR" if types[column] == "DOUBLE" else "HUGEINT"
        for column, overflows in zip(suspects, verdicts, strict=True)
        if overflows
    }
    return types | widened


def _overflows(column: str, kind: str) -> str:
    if kind == "BIGINT":
        return f"bool_or({column} IS NOT NULL AND TRY_CAST({column} AS BIGINT) IS NULL)"
    return f"bool_or(length({column}) > 16 AND regexp_full_match({column}, '-?[0-9]+'))"


# ---------------------------------------------------------------- mistakes

_NOT_OBJECT = "a record is not a JSON object"


def find_mistakes(inputs: Inputs) -> list[Mistake]:
    """Where the files are not JSON, by line. Slow; for use after DuckDB has refused."""
    mistakes: list[Mistake] = []
    for path in inputs.paths:
        broken = _broken_lines(path) if inputs.format is Format.JSONL else _broken_document(path)
        mistakes += islice(broken, _MAX_MISTAKES)
    return mistakes


def _broken_lines(path: str) -> Iterator[Mistake]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not data.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = decode_json(data)
            except JsonError as error:
                yield Mistake(where=f"{where}:{error.colno}", what=f"not JSON: {error.msg}", hint=_hint(data))
                continue
            if not isinstance(value, dict):
                hint = "an array of records belongs into a .json file" if isinstance(value, list) else ""
                yield Mistake(where=where, what=_NOT_OBJECT, hint=hint)


def _hint(data: bytes) -> str:
    if data.strip() in (b"{", b"["):
        return "one record per line; a document over several lines belongs into a .json file"
    return ""


def _broken_document(path: str) -> Iterator[Mistake]:
    with open_bytes(path) as file:
        data = file.read(256 << 20).removeprefix(b"\xef\xbb\xbf")
    try:
        value = decode_json(data)
    except JsonError as error:
        yield Mistake(where=f"{path}:{error.lineno}:{error.colno}", what=f"not JSON: {error.msg}")
        return
    for index, record in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(record, dict):
            yield Mistake(where=path, what=f"record {index + 1} is not a JSON object")


def line_of_record(path: str, index: int) -> int | None:
    """The line of record `index` (from 0, blank lines not counted) of a JSON Lines file."""
    with open_bytes(path) as file:
        numbers = (number for number, line in enumerate(file, 1) if line.strip())
        return next(islice(numbers, index, None), None)
