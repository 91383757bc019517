"""JSON Lines and JSON arrays to typed columns: the JSON types as they are, nothing read into strings.

Theory. The structure is taken over all records first, then every record is read with explicit types. JSON
strings stay text (DuckDB's own detection turns some into dates and UUIDs). Columns whose values differ in
type are kept as JSON and reach Python as the value that was written. A missing field is NULL, in nested
objects too. Whole numbers beyond 64 bits are kept exactly: as DECIMAL(38,0) if possible, else as text. Whole
numbers among fractions are kept as they were written (`written`).
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import duckdb

from runner.core.wire import JsonError, decode_json
from runner.dataset import engine
from runner.dataset.inputs import UNREADABLE, Format, Inputs, open_bytes, short, unreadable
from runner.dataset.json_shapes import number_leaves, shallow, sql_type, together, transformed
from runner.dataset.written import NOTHING_MIXED, WHOLE, Mixed, create_views
from runner.errors import InputError, Mistake

_MAX_MISTAKES = 5
_MOST_SEEN = 10_000
MAX_RECORD_BYTES = 16 << 20
_NO_FIELDS = "JSON"
"""What `json_structure` says of the record `{}`, in which every field is missing."""


def create_view(
    connection: duckdb.DuckDBPyConnection, inputs: Inputs, *, is_queried: bool
) -> tuple[Mixed, Mapping[str, Collection[str]]]:
    """Make the view `dataset` over all files. Raises InputError where records are not objects.

    `is_queried`: SQL will see the values, so a DOUBLE holds no whole number that it can't hold exactly.
    Returns beside what is mixed the fields of each of several files that has records, by its plain path.
    """
    source = reader_arguments(inputs)
    fields: dict[str, set[str]] = {}
    try:
        structure = _structure(connection, source, fields if len(inputs.paths) > 1 else None)
    except JsonError as error:
        what = "a record is nested too deeply to be read"
        hint = "the deepest part can be given as text"
        mistakes = find_mistakes(inputs) or [Mistake(where=inputs.paths[0], what=what, hint=hint)]
        raise InputError(mistakes) from error
    if not isinstance(structure, dict):
        raise InputError(find_mistakes(inputs) or [Mistake(where=inputs.paths[0], what=_NOT_OBJECT)])
    if not structure:
        raise InputError(
            [Mistake(where=inputs.paths[0], what="no records with fields, so there are no columns")]
        )
    _check_names(inputs, structure)
    shapes, mixed = _exact(connection, source, structure, is_queried=is_queried)
    read = {column: sql_type(shape) for column, shape in shapes.items()}
    columns = {column: engine.name(column) for column in shapes}
    for column in mixed.texts:
        is_number = column in mixed.numbers
        read[column] = "VARCHAR" if is_number else "JSON"
        columns[column] = transformed(engine.name(column), shapes[column])
    connection.execute(f"CREATE VIEW cells AS SELECT * FROM {_reader(source, read)}")
    create_views(connection, columns, mixed)
    return mixed, fields


def _structure(connection: duckdb.DuckDBPyConnection, source: str, fields: dict[str, set[str]] | None) -> Any:
    """What all records have in common, fields in order of appearance. `fields` takes those of each file.

    DuckDB's own `json_group_structure` holds a structure per record (measured: 128 MB and more at a million
    records); most records have one of a few structures, so those are told apart first and merged here.
    """
    file, source = ("''", source) if fields is None else ("filename", f"{source}, filename = true")
    found = connection.execute(
        f"SELECT structure, file FROM (SELECT CAST(json_structure(json) AS VARCHAR) AS structure, {file} AS "
        f"file, row_number() OVER () AS number FROM read_json_objects({source})) "
        "GROUP BY structure, file ORDER BY min(number)"
    )
    merged: Any = {}
    seen: dict[str, tuple[str, ...]] = {}  # most files have the same few
    while batch := found.fetchmany(1_000):
        for structure, path in batch:
            if structure not in seen:
                shape = shallow(decode_json(structure))
                if shape == _NO_FIELDS:
                    shape = {}
                if not isinstance(shape, dict):
                    return shape
                merged = together(merged, shape)
                if len(seen) == _MOST_SEEN:
                    seen.clear()
                seen[structure] = tuple(shape)
            if fields is not None:
                fields.setdefault(path, set()).update(seen[structure])
    return merged


def reader_arguments(inputs: Inputs) -> str:
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
            what = f"fields {short(before)!r} and {short(column)!r} differ only in case"
            raise InputError([Mistake(where=inputs.paths[0], what=what)])


def _exact(
    connection: duckdb.DuckDBPyConnection, source: str, structure: Mapping[str, Any], *, is_queried: bool
) -> tuple[dict[str, Any], Mixed]:
    """Shapes that lose no digit, and the columns that mix whole numbers and fractions.

    The structure calls 0 to 2**64-1 unsigned and anything longer a DOUBLE, and 5 beside 1.5 too: only reading
    tells.
    """
    suspects = [(column, leaf) for column, shape in structure.items() for leaf in number_leaves(shape)]
    if not suspects:
        return dict(structure), NOTHING_MIXED
    # As text where the column is a number, as JSON where numbers are inside.
    read = {column: "JSON" if leaf.steps else "VARCHAR" for column, leaf in suspects}
    tests = ", ".join(leaf.test(engine.name(column)) for column, leaf in suspects)
    verdicts = connection.execute(f"SELECT {tests} FROM {_reader(source, read)}").fetchone() or ()
    shapes = dict(structure)
    texts: dict[str, str] = {}
    numbers: set[str] = set()
    for (column, leaf), seen in zip(suspects, verdicts, strict=True):
        kind, is_mixed = leaf.judged(seen, is_queried=is_queried)
        shapes[column] = leaf.put(kind, shapes[column])
        if is_mixed and not leaf.steps:
            quoted = engine.name(column)
            texts[column] = f"CASE WHEN regexp_full_match({quoted}, {engine.text(WHOLE)}) THEN {quoted} END"
            numbers.add(column)
        elif is_mixed and not is_queried:
            texts[column] = f"CAST({engine.name(column)} AS VARCHAR)"
    return shapes, Mixed(texts=texts, numbers=frozenset(numbers))


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
    # Block by block: a large read takes its whole size from the start, however small the file is.
    with open_bytes(path) as file:
        data = b"".join(islice(iter(lambda: file.read(1 << 20), b""), 256)).removeprefix(b"\xef\xbb\xbf")
    try:
        value = decode_json(data)
    except JsonError as error:
        yield Mistake(where=f"{path}:{error.lineno}:{error.colno}", what=f"not JSON: {error.msg}")
        return
    for index, record in enumerate(value if isinstance(value, list) else [value]):
        if not isinstance(record, dict):
            yield Mistake(where=path, what=f"record {index + 1} is not a JSON object")


def lines_of_records(path: str) -> Iterator[int]:
    """The line of each record of a JSON Lines file; blank lines are none."""
    with open_bytes(path) as file:
        yield from (number for number, line in enumerate(file, 1) if line.strip())
