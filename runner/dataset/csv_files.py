"""CSV and TSV to typed columns, without guessing that loses anything.

Theory. DuckDB's sniffer guesses dialect, header and types at once; on a damaged file it was seen to take the
last line for the header and to skip all others. So nothing is sniffed: the dialect is RFC 4180, the header is
the first line, every cell is read as text, and a column becomes a type only if the text of *every* cell
is what the typed value reads as (`007`, `1e5` and `3.10` stay text; so does a zip code with one letter at
row 900,000). Whole numbers and fractions together make a DOUBLE that remembers which was written how
(`written`). An empty unquoted cell is NULL; `""` is an empty text, or NULL in a typed column. Blank lines
are skipped.
Rejected: a sample (late surprises), DOUBLE for `1.50` (versions and money; it becomes a DECIMAL).
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import duckdb

from runner.dataset import engine
from runner.dataset.inputs import UNREADABLE, Format, Inputs, open_bytes, short, unreadable
from runner.dataset.written import EXACT_LIMIT, WHOLE, Mixed, create_views
from runner.errors import InputError, Mistake

_SAMPLE_ROWS = 1_000
_COLUMNS_AT_ONCE = 100
_LONGEST_VALUE = 40
"""No text of a value that is not text has more signs."""
MAX_LINE_BYTES = 16 << 20
_MAX_MISTAKES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A file's column names and delimiter, from its first line."""

    delimiter: str
    names: tuple[str, ...]


# ---------------------------------------------------------------- the header


def read_headers(inputs: Inputs) -> list[Header]:
    """One header per file. Raises InputError: empty file, doubled names."""
    headers, mistakes = [], []
    for path in inputs.paths:
        try:
            header = _read_header(path, inputs.format)
        except UNREADABLE as error:
            header = unreadable(path, error)
        if isinstance(header, Mistake):
            mistakes.append(header)
        else:
            headers.append(header)
    if mistakes:
        raise InputError(mistakes)
    return headers


def _read_header(path: str, kind: Format) -> Header | Mistake:
    delimiter = "\t" if kind is Format.TSV else ","
    cells = _first_record(path, delimiter)
    if kind is Format.CSV and len(cells) == 1:
        # Spreadsheets of half of Europe write `;`. One name alone with such a sign in it is not a name.
        delimiter = next((sign for sign in ";\t|" if sign in cells[0]), delimiter)
        cells = _first_record(path, delimiter)
    if not cells:
        what = "the first line is empty; it must hold the column names"
        return Mistake(where=f"{path}:1", what=what)
    names = [cell or f"column{index}" for index, cell in enumerate(cells)]
    seen: dict[str, int] = {}
    for index, column in enumerate(names):
        before = seen.setdefault(column.casefold(), index)
        if before != index:
            what = f"column {short(column)!r} appears twice (columns {before + 1} and {index + 1})"
            return Mistake(where=f"{path}:1", what=what, hint="names must differ by more than case")
    return Header(delimiter=delimiter, names=tuple(names))


def _first_record(path: str, delimiter: str) -> list[str]:
    with records(path, delimiter) as reader:
        try:
            return next(reader, [])
        except csv.Error:
            return []


@contextmanager
def records(path: str, delimiter: str) -> Iterator[Iterator[list[str]]]:
    """The file's records by Python's own reader: for the header, and to say where a mistake is."""
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="replace", newline="") as file:
            yield csv.reader(file, delimiter=delimiter, strict=True)
    finally:
        csv.field_size_limit(before)


# ---------------------------------------------------------------- the views


def create_view(
    connection: duckdb.DuckDBPyConnection,
    inputs: Inputs,
    *,
    keys: Iterable[str],
    is_queried: bool,
    whole: bool,
) -> Mixed:
    """Make the view `dataset`. `whole`: types hold for every cell; else for the first rows only (quick).

    A key column is a whole number or text, never a date or a fraction: a key is a name.
    `is_queried`: SQL will see the values, so a DOUBLE holds no whole number that it can't hold exactly.
    """
    headers = read_headers(inputs)
    connection.execute(f"CREATE VIEW cells AS {_cells(inputs, headers)}")
    sampled = connection.execute(f"SELECT * FROM cells LIMIT {_SAMPLE_ROWS}")
    columns, sample = [column[0] for column in sampled.description or ()], sampled.fetchall()
    folded = {key.casefold() for key in keys}
    types = _types(connection, columns, sample, folded, _Tests(is_queried=is_queried), whole=whole)
    mixed = frozenset(column for column, kind in types.items() if kind == _MIXED)
    texts = {column: _whole_text(engine.name(column)) for column in columns if column in mixed}
    found = Mixed(texts=texts, numbers=mixed)
    create_views(connection, {column: _cast(column, types.get(column)) for column in columns}, found)
    return found


def _cells(inputs: Inputs, headers: Sequence[Header]) -> str:
    """All files as text columns, in order; neighbours with one header are read by one reader."""
    parts = []
    for header, group in groupby(zip(inputs.plain_paths, headers, strict=True), key=lambda pair: pair[1]):
        columns = ", ".join(f"{engine.text(column)}: 'VARCHAR'" for column in header.names)
        is_blank = f" WHERE {engine.name(header.names[0])} IS NOT NULL" if len(header.names) == 1 else ""
        parts.append(
            f"SELECT * FROM read_csv({engine.text_list([path for path, _ in group])}, auto_detect = false, "
            f"header = true, columns = {{{columns}}}, delim = {engine.text(header.delimiter)}, quote = '\"', "
            "escape = '\"', comment = '', strict_mode = true, null_padding = false, "
            f"allow_quoted_nulls = false, max_line_size = {MAX_LINE_BYTES}, "
            f"buffer_size = {MAX_LINE_BYTES}){is_blank}"
        )
    return " UNION ALL BY NAME ".join(parts)


def _cast(column: str, kind: str | None) -> str:
    quoted = engine.name(column)
    stored = "DOUBLE" if kind == _MIXED else kind
    return quoted if stored is None else f"CAST(nullif({quoted}, '') AS {stored})"


def _whole_text(cell: str) -> str:
    return f"CASE WHEN regexp_full_match({cell}, {engine.text(WHOLE)}) THEN {cell} END"


# ---------------------------------------------------------------- types


_MIXED = "whole numbers and fractions"
_FILLED = "anything"
"""Not a type: that a column has a cell at all."""


def _types(
    connection: duckdb.DuckDBPyConnection,
    columns: Sequence[str],
    sample: Sequence[tuple[Any, ...]],
    keys: set[str],
    tests: _Tests,
    *,
    whole: bool,
) -> dict[str, str]:
    """The type of each column that has one; the others are text. `sample`: the first rows."""
    cells = {column: [row[index] for row in sample if row[index]] for index, column in enumerate(columns)}
    candidates = {
        column: ["BIGINT"] if column.casefold() in keys else _kinds(cells[column]) for column in columns
    }
    for start in range(0, len(columns), _COLUMNS_AT_ONCE):
        some = [column for column in columns[start : start + _COLUMNS_AT_ONCE] if candidates[column]]
        candidates |= _fitting(connection, {column: cells[column] for column in some}, candidates, tests)
    if not whole:
        return {column: kinds[0] for column, kinds in candidates.items() if kinds and sample}
    # Of a column that is empty so far nothing is known but that most such columns are empty to their ends.
    pure = [
        (column, kind)
        for column, kinds in candidates.items()
        for kind in (kinds if cells[column] else [_FILLED])
        if kind != _MIXED
    ]
    types = _holding(connection, pure, tests)
    late = [column for column in columns if types.get(column) == _FILLED]
    candidates |= _fitting(connection, _first_cells(connection, late), candidates, tests)
    # Only what is nothing else is looked at once more: mixed columns are rare.
    rest = [
        (column, kind)
        for column, kinds in candidates.items()
        for kind in kinds
        if types.get(column) == _FILLED or (kind == _MIXED and cells[column] and column not in types)
    ]
    known = {column: kind for column, kind in types.items() if kind != _FILLED}
    return known | _holding(connection, rest, tests)


def _first_cells(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> dict[str, list[str]]:
    """A cell of each of these columns, all of which have one."""
    if not columns:
        return {}
    query = ", ".join(f"any_value(nullif({engine.name(column)}, ''))" for column in columns)
    found = connection.execute(f"SELECT {query} FROM cells").fetchone() or ()
    return {column: [cell] for column, cell in zip(columns, found, strict=True)}


def _holding(
    connection: duckdb.DuckDBPyConnection, wanted: Sequence[tuple[str, str]], tests: _Tests
) -> dict[str, str]:
    """For each column the first of the wanted types that all its cells are of."""
    if not wanted:
        return {}
    query = ", ".join(tests.sql(engine.name(column), kind) for column, kind in wanted)
    names = [engine.name(column) for column in dict.fromkeys(column for column, _ in wanted)]
    # Apart from the tests: with it in each of them, the time grew with the square of the columns.
    values = ", ".join(f"nullif({name}, '') AS {name}" for name in names)
    verdicts = connection.execute(f"SELECT {query} FROM (SELECT {values} FROM cells)").fetchone() or ()
    types: dict[str, str] = {}
    for (column, kind), holds in zip(wanted, verdicts, strict=True):
        if holds:
            types.setdefault(column, kind)
    return types


def _kinds(cells: Sequence[str]) -> list[str]:
    """What may be tried, in order of preference. A DECIMAL's scale is that of the first cell."""
    if any(len(cell) > _LONGEST_VALUE for cell in cells):
        return []
    kinds = ["BIGINT", "DOUBLE", _MIXED, "BOOLEAN", "DATE", "TIMESTAMP"]
    scale = len(cells[0].rpartition(".")[2]) if cells and "." in cells[0] else 0
    if 0 < scale <= 9:
        kinds.insert(3, f"DECIMAL(18,{scale})")
    return kinds


def _fitting(
    connection: duckdb.DuckDBPyConnection,
    cells: Mapping[str, Sequence[str]],
    kinds: Mapping[str, Sequence[str]],
    tests: _Tests,
) -> dict[str, list[str]]:
    """For each column with cells the kinds that those allow. Whole numbers may yet turn out to be fractions.

    All columns are asked about in one statement, as groups: one for each was most of the time of a wide file.
    """
    asked = list(dict.fromkeys(kind for column in cells for kind in kinds[column]))
    if not asked:
        return {}
    names = list(cells)
    places = [place for place, column in enumerate(names) for _ in cells[column]]
    query = ", ".join(tests.sql("cell", kind) for kind in asked)
    found = connection.execute(
        f"SELECT place, {query} FROM (SELECT unnest($1) AS place, unnest($2) AS cell) GROUP BY place",
        [places, [cell for column in names for cell in cells[column]]],
    )
    fitting: dict[str, list[str]] = {}
    for place, *verdicts in found.fetchall():
        column = names[place]
        holds = dict(zip(asked, verdicts, strict=True))
        fitting[column] = [kind for kind in kinds[column] if holds[kind]]
    return fitting


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tests:
    """Whether all cells of a column are of a type, as SQL."""

    is_queried: bool

    def sql(self, cell: str, kind: str) -> str:
        """True where the text of every cell is the text of its value; an empty cell is NULL and is none."""
        if kind == _FILLED:
            return f"count({cell}) > 0"
        tests = {
            "DOUBLE": f"{_back(cell, 'DOUBLE')} = lower({cell})",
            _MIXED: f"{self._is_whole(cell)} OR {_back(cell, 'DOUBLE')} = lower({cell})",
            "BOOLEAN": f"lower({cell}) IN ('true', 'false')",
            "DATE": f"length({cell}) = 10 AND {_back(cell, 'DATE')} = {cell}",
            "TIMESTAMP": (
                f"length({cell}) BETWEEN 19 AND 26 AND {_back(cell, 'TIMESTAMP')} = replace({cell}, 'T', ' ')"
            ),
        }
        holds = tests.get(kind) or f"{_back(cell, kind)} = {cell}"
        return f"bool_and({cell} IS NULL OR coalesce({holds}, false)) AND count({cell}) > 0"

    def _is_whole(self, cell: str) -> str:
        is_whole = f"coalesce({_back(cell, 'BIGINT')} = {cell}, false)"
        value = f"TRY_CAST({cell} AS BIGINT)"
        return (
            f"{is_whole} AND {value} BETWEEN -{EXACT_LIMIT} AND {EXACT_LIMIT}"
            if self.is_queried
            else is_whole
        )


def _back(cell: str, kind: str) -> str:
    return f"CAST(TRY_CAST({cell} AS {kind}) AS VARCHAR)"


# ---------------------------------------------------------------- mistakes


def find_mistakes(inputs: Inputs) -> list[Mistake]:
    """Where the files break RFC 4180, by line. Slow; for use after DuckDB has refused."""
    mistakes: list[Mistake] = []
    for path, header in zip(inputs.paths, read_headers(inputs), strict=True):
        mistakes += islice(_broken_records(path, header), _MAX_MISTAKES)
    return mistakes


def _broken_records(path: str, header: Header) -> Iterator[Mistake]:
    expected = len(header.names)
    with records(path, header.delimiter) as reader:
        line = 1
        while True:
            try:
                record = next(reader, None)
            except csv.Error as error:
                yield Mistake(where=f"{path}:{line}", what=_plain(error), hint=_quote_hint(error))
                return
            if record is None:
                return
            if record and len(record) != expected:
                cells = f"{len(record)} cell{'' if len(record) == 1 else 's'}"
                what = f"{cells} where the header has {expected} column{'' if expected == 1 else 's'}"
                yield Mistake(where=f"{path}:{line}", what=what, hint="is a quote or a delimiter missing?")
            line = reader.line_num + 1  # type: ignore[attr-defined]


def _plain(error: csv.Error) -> str:
    reasons = {
        "unexpected end of data": "a quote is opened here and never closed",
        "expected after": "text follows a closing quote",
        "field larger": f"a cell is longer than {MAX_LINE_BYTES:,} bytes",
    }
    return next((plain for word, plain in reasons.items() if word in str(error)), str(error))


def _quote_hint(error: csv.Error) -> str:
    return "" if "field larger" in str(error) else 'inside quotes, a quote is written twice ("")'


def lines_of_records(path: str, delimiter: str) -> Iterator[int]:
    """The line on which each record begins, header and blank lines left out. Raises csv.Error."""
    with records(path, delimiter) as reader:
        is_header, line = True, 1
        for record in reader:
            if record and not is_header:
                yield line
            is_header = is_header and not record
            line = reader.line_num + 1  # type: ignore[attr-defined]
