"""A published table read back: printed whole or in part, or questioned with SQL.

The one rule: the engine may read this one file and nothing else, and only a single SELECT is run. The
table is called `results` in every format, so one dialect (DuckDB's) serves all; a SQLite file is first
copied to scratch lines, because DuckDB's own reader for it would have to be downloaded.
"""

# ruff: noqa: S608  # names and texts enter statements through engine.name and engine.text only

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb

from runner.core.wire import encode_json
from runner.errors import InputError, Mistake
from runner.results.columns import LINEAGE_TYPES
from runner.results.engine import name, open_engine, text, text_list
from runner.results.faults import first_line
from runner.results.printing import FORMATS, render
from runner.results.sqlite_table import TABLE, sqlite_columns
from runner.results.writing import SUFFIXES

__all__ = ["FORMATS", "query"]

_MAX_CSV_ROW_BYTES = 32 << 20
_MIN_OBJECT_BYTES = 2 << 20
_COLUMNS_SHOWN = 40
_JSON_TEXTS = ("DATE", "TIME", "TIMESTAMP", "UUID")
_SQLITE_TYPES = {"INTEGER": "BIGINT", "REAL": "DOUBLE", "BOOLEAN": "BOOLEAN", "BLOB": "VARCHAR"}


def query(
    path: Path,
    *,
    sql: str | None = None,
    where: str | None = None,
    format: str = "table",  # noqa: A002  # the option's own name
    limit: int | None = None,
) -> Iterator[str]:
    """The table, or what `sql` (over the table `results`) or `where` selects of it, as chunks of text.

    `format` is one of FORMATS. Raises InputError, at the first chunk at the latest, for a missing or
    unreadable file, an unknown format and SQL that can't be run.
    """
    _check(path, sql, where, format, limit)
    option = "--sql" if sql is not None else "--where" if where is not None else ""
    return _chunks(path, _statement(sql, where, limit), option, format)


def _check(path: Path, sql: str | None, where: str | None, out: str, limit: int | None) -> None:
    mistakes = []
    if out not in FORMATS:
        hint = f"one of {', '.join(FORMATS)}"
        mistakes.append(Mistake(where="--format", what=f"unknown format {out!r}", hint=hint))
    if sql is not None and where is not None:
        mistakes.append(Mistake(where="--where", what="can't be used with --sql", hint="put it into the SQL"))
    if limit is not None and limit < 0:
        mistakes.append(Mistake(where="--limit", what=f"{limit} is no number of rows", hint="0 or more"))
    if path.suffix.lower() not in SUFFIXES:
        mistakes.append(
            Mistake(where=str(path), what="not a results table", hint=f"one of {', '.join(SUFFIXES)}")
        )
    elif not path.is_file():
        hint = "`run MANIFEST` writes it"
        mistakes.append(Mistake(where=str(path), what="there is no such table", hint=hint))
    if mistakes:
        raise InputError(mistakes)


def _statement(sql: str | None, where: str | None, limit: int | None) -> str:
    # Line breaks around what the user wrote, so that a comment at its end ends there.
    if sql is None:
        sql = f"SELECT * FROM {TABLE}" + (f" WHERE (\n{where}\n)" if where is not None else "")
    return sql if limit is None else f"SELECT * FROM (\n{sql.rstrip().rstrip(';')}\n) LIMIT {limit}"


def _chunks(path: Path, statement: str, option: str, out: str) -> Iterator[str]:
    where = option or str(path)
    with tempfile.TemporaryDirectory(prefix="run-results-") as folder, open_engine(Path(folder)) as engine:
        with _complaining(str(path)):
            _open_table(engine, path, Path(folder))
        with _complaining(where):
            _check_statement(engine, statement, where)
            try:
                yield from render(engine, statement, out)
            except duckdb.BinderException as error:
                hint = _columns(engine) if "Referenced column" in str(error) else ""
                raise InputError([Mistake(where=where, what=first_line(error), hint=hint)]) from error


def _columns(engine: duckdb.DuckDBPyConnection) -> str:
    """What a statement may name."""
    names = [column[0] for column in engine.execute(f"SELECT * FROM {TABLE} LIMIT 0").description or ()]
    more = ", ..." if len(names) > _COLUMNS_SHOWN else ""
    return f"columns: {', '.join(names[:_COLUMNS_SHOWN])}{more}"


@contextmanager
def _complaining(where: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, sqlite3.Error, OSError) as error:
        what = first_line(error)
        if isinstance(error, duckdb.PermissionException):
            what = f"only the table `{TABLE}` can be read here: {what}"
        raise InputError([Mistake(where=where, what=what)]) from error


def _check_statement(engine: duckdb.DuckDBPyConnection, statement: str, where: str) -> None:
    parsed = engine.extract_statements(statement)
    if len(parsed) != 1 or parsed[0].type != duckdb.StatementType.SELECT:
        raise InputError([Mistake(where=where, what="not a single SELECT", hint=f"SELECT ... FROM {TABLE}")])


# ---------------------------------------------------------------- each format as the view `results`


def _open_table(engine: duckdb.DuckDBPyConnection, path: Path, scratch: Path) -> None:
    path = path.resolve()
    suffix = path.suffix.lower()
    readable = _sqlite_lines(path, scratch) if suffix == ".db" else path
    engine.execute(f"SET allowed_paths = {text_list([str(readable)])}")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")
    match suffix:
        case ".parquet":
            select = f"SELECT * FROM read_parquet({text(str(path))})"
        case ".csv":
            select = _csv_select(engine, str(path))
        case ".jsonl":
            select = _json_select(engine, str(path))
        case _:
            select = _sqlite_select(path, readable)
    engine.execute(f"CREATE VIEW {TABLE} AS {select}")


def _csv_select(engine: duckdb.DuckDBPyConnection, path: str) -> str:
    """A column is a number or a truth value only if every cell says just that: '007' stays text."""
    options = (
        "header = true, delim = ',', quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false, "
        f"max_line_size = {_MAX_CSV_ROW_BYTES}, buffer_size = {2 * _MAX_CSV_ROW_BYTES}, parallel = false"
    )
    as_text = f"read_csv({text(path)}, {options}, all_varchar = true)"
    candidates = "['BOOLEAN', 'BIGINT', 'DOUBLE', 'VARCHAR']"
    guess = f"read_csv({text(path)}, {options}, auto_type_candidates = {candidates})"
    guessed = [(row[0], row[1]) for row in engine.execute(f"DESCRIBE SELECT * FROM {guess}").fetchall()]
    typed = [(column, kind) for column, kind in guessed if kind != "VARCHAR"]
    kept: set[str] = set()
    if typed:
        tests = ", ".join(
            f"coalesce(bool_and({name(column)} IS NULL OR {name(column)} = "
            f"CAST(TRY_CAST({name(column)} AS {kind}) AS VARCHAR)) , false)"
            for column, kind in typed
        )
        verdicts = engine.execute(f"SELECT {tests} FROM {as_text}").fetchone() or ()
        kept = {column for (column, _), verdict in zip(typed, verdicts, strict=True) if verdict}
    types = {column: kind if column in kept else "VARCHAR" for column, kind in guessed}
    return f"SELECT {', '.join(_cast(column, kind) for column, kind in types.items())} FROM {as_text}"


def _cast(column: str, kind: str) -> str:
    """Our own columns have known types; a cell of theirs that does not fit is not worth an error here."""
    known = LINEAGE_TYPES.get(column, kind)
    if known == "VARCHAR":
        return name(column)
    function = "TRY_CAST" if column in LINEAGE_TYPES else "CAST"
    return f"{function}({name(column)} AS {known}) AS {name(column)}"


def _json_select(engine: duckdb.DuckDBPyConnection, path: str) -> str:
    """Types as the lines show them, but texts that look like dates or ids stay the texts they are."""
    options = f"format = 'newline_delimited', maximum_object_size = {_object_bytes(Path(path))}"
    if Path(path).stat().st_size == 0:
        return "SELECT NULL AS _key WHERE false"
    sample = f"read_json({text(path)}, {options}, sample_size = -1, map_inference_threshold = -1)"
    rows = engine.execute(f"DESCRIBE SELECT * FROM {sample}").fetchall()
    types = {row[0]: "JSON" if "(" in row[1] else _plain_text(row[1]) for row in rows}
    columns = ", ".join(f"{text(column)}: {text(kind)}" for column, kind in types.items())
    casts = ", ".join(_cast(column, kind) for column, kind in types.items())
    return f"SELECT {casts} FROM read_json({text(path)}, {options}, columns = {{{columns}}})"


def _object_bytes(lines: Path) -> int:
    """The longest line, because the engine sets several times this aside before it reads a byte."""
    with lines.open("rb") as file:
        return max(_MIN_OBJECT_BYTES, max(map(len, file), default=0) + 1)


def _plain_text(kind: str) -> str:
    """`DATE[]` is `VARCHAR[]` to us; other types are left alone."""
    element, brackets, rest = kind.partition("[")
    return ("VARCHAR" if element.startswith(_JSON_TEXTS) else element) + brackets + rest


def _sqlite_lines(path: Path, scratch: Path) -> Path:
    lines = scratch / "results.jsonl"
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database,
        lines.open("wb", buffering=1 << 20) as file,
    ):
        for row in database.execute(f"SELECT * FROM {TABLE}"):
            line = {str(place): _plain_value(value) for place, value in enumerate(row)}
            file.write(encode_json(line) + b"\n")
    return lines


def _plain_value(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _sqlite_select(path: Path, lines: Path) -> str:
    declared = [(column, _SQLITE_TYPES.get(kind, "VARCHAR")) for column, kind in sqlite_columns(path)]
    types = ", ".join(f"{text(str(place))}: {text(kind)}" for place, (_, kind) in enumerate(declared))
    renamed = ", ".join(f"{name(str(place))} AS {name(column)}" for place, (column, _) in enumerate(declared))
    casts = ", ".join(_cast(column, kind) for column, kind in declared)
    source = (
        f"read_json({text(str(lines))}, format = 'newline_delimited', columns = {{{types}}}, "
        f"maximum_object_size = {_object_bytes(lines)})"
    )
    return f"SELECT {casts} FROM (SELECT {renamed} FROM {source})"
