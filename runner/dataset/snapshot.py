"""The snapshot: the dataset's rows, once and for all, in one Parquet file.

Columns: `_position`, `_key`, the dataset's own, and where numbers need it `_written` (see `written`).

Outline of `take_snapshot`:

    find the files -> view `dataset` -> check the query -> check the columns -> write position, key and
        columns -> check the keys -> are the files text? -> were they left alone? -> put in place
        (beside it, in a thread: hash the files and check their text)

The file appears under its name only when all checks have passed. Row groups are small, so that a range of
rows can be read without the rest, and smaller where rows are large, so that memory stays flat.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import duckdb
from duckdb.sqltypes import DuckDBPyType

from runner.core.model import Manifest
from runner.core.wire import encode_json
from runner.dataset import csv_files, engine, json_files
from runner.dataset.inputs import Format, Inputs, InputsState, digest_of_inputs, find_inputs, state_of
from runner.dataset.keys import KeyCheck, key_expression, missing_columns, number_equal_rows
from runner.dataset.lacking import Lacking, lacking_columns, lacking_mistake
from runner.dataset.query import Source, source_of
from runner.dataset.refusals import translated
from runner.dataset.rows import MAX_RANGE_ROWS, VECTOR_ROWS
from runner.dataset.values import stored_type, types_of
from runner.dataset.written import COLUMN as WRITTEN
from runner.dataset.written import NOTHING_MIXED, Mixed, rows_with_written
from runner.errors import InputError, Mistake, RunnerError

OWN_COLUMNS = ("_position", "_key", WRITTEN)
_ROW_GROUP_BYTES = 8 << 20

Columns = Sequence[tuple[str, DuckDBPyType]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the dataset; `type` is DuckDB's text for it."""

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A snapshot on disk. `columns` are the dataset's own, in order.

    `digest` is the hex sha256 over the input files' bytes in order (decompressed), the query's text and the
    values of its parameters. Equal digests: equal rows. Names, places and times of files do not count; a
    file saved with other bytes but equal rows (a blank line more) has another digest. `contents` is that
    of the bytes alone, `inputs` the files as they stood before the first of them was read, `parameters` the
    names that the query reads, `lacking` the columns that some of the files don't have.
    """

    path: str
    columns: tuple[Column, ...]
    rows: int
    digest: str
    contents: str
    inputs: InputsState
    parameters: tuple[str, ...] = ()
    lacking: tuple[Lacking, ...] = ()


def describe(manifest: Manifest, parameters: Mapping[str, object] | None = None) -> tuple[Column, ...]:
    """The dataset's columns, for checks before work. Raises InputError.

    Quick: CSV types are judged by the first 1,000 rows, and cells are not read; JSON files are read whole,
    because a field may appear late. `take_snapshot` has the last word.
    """
    inputs = find_inputs(manifest)
    with _private_folder(None) as folder:
        inputs = replace(inputs, plain_paths=engine.plain_paths(inputs.paths, folder))
        try:
            with _opened(manifest, inputs, folder, parameters or {}, whole=False) as (_, _, columns, _, _):
                return _stored(columns)
        except duckdb.OutOfMemoryException as error:
            raise translated(manifest, inputs, error) from error


def take_snapshot(
    manifest: Manifest, target: Path, *, scratch: Path, parameters: Mapping[str, object] | None = None
) -> Snapshot:
    """Write the dataset's rows to `target` (Parquet, 0600, atomically). `scratch` takes what spills.

    Parameters: values for `$name` in the query; what the query does not name is ignored.
    Errors: InputError with every mistake that can be known together; RunnerError where disk or memory end.
    """
    inputs = find_inputs(manifest)
    before = state_of(inputs)
    contents_of = _digest_beside(inputs)
    with _private_folder(scratch) as folder:
        inputs = replace(inputs, plain_paths=engine.plain_paths(inputs.paths, folder))
        try:
            written = _Job(manifest, inputs, folder, parameters or {}).write_somehow()
        except RunnerError:
            contents_of()  # what is not even text is said before anything else
            raise
        contents = contents_of()
        _check_untouched(inputs, before)
        _put_in_place(written.path, target)
    digest = _digest(contents, written.source)
    return Snapshot(
        path=str(target),
        columns=_named(written.columns),
        rows=written.rows,
        digest=digest,
        contents=contents.hex(),
        inputs=before,
        parameters=tuple(sorted(written.source.parameters)),
        lacking=written.lacking,
    )


@dataclass(frozen=True, slots=True)
class _Written:
    """A snapshot that passed all checks, not yet in its place."""

    path: Path
    source: Source
    columns: Columns
    rows: int
    lacking: tuple[Lacking, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """What writing a snapshot needs; `write` can be repeated with more memory."""

    manifest: Manifest
    inputs: Inputs
    folder: Path
    parameters: Mapping[str, object]

    def write_somehow(self) -> _Written:
        """With as little memory as will do. Raises InputError, RunnerError."""
        for limit in engine.MEMORY_LIMITS[:-1]:
            with suppress(duckdb.OutOfMemoryException):
                return self.write(limit)
        try:
            return self.write(engine.MEMORY_LIMITS[-1])
        except duckdb.OutOfMemoryException as error:
            raise translated(self.manifest, self.inputs, error) from error

    def write(self, memory_limit: str) -> _Written:
        """Raises InputError, and OutOfMemoryException where the limit is too low."""
        opened = _opened(
            self.manifest, self.inputs, self.folder, self.parameters, whole=True, memory_limit=memory_limit
        )
        with opened as (connection, source, columns, mixed, lacking):
            try:
                path, look = _write(connection, self.manifest, source, columns, mixed, self.folder)
                if self.manifest.dataset.key:
                    KeyCheck(connection, path, self.manifest, self.inputs).run(look.rows - look.keys)
                if not look.is_in_order:
                    raise AssertionError(f"the rows of {path} are not in order")
                columns = types_of(connection, f"FROM read_parquet({engine.text(str(path))})", {})
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error as error:
                raise translated(self.manifest, self.inputs, error) from error
        own = [pair for pair in columns if pair[0] not in OWN_COLUMNS]
        return _Written(path, source, own, look.rows, lacking)


@contextmanager
def _private_folder(scratch: Path | None) -> Iterator[Path]:
    """A folder below `scratch`, or in the system's place where DuckDB could not be given its path."""
    if scratch is not None and engine.is_pattern(str(scratch)):
        scratch = None
    folder = Path(tempfile.mkdtemp(prefix="dataset-", dir=scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _digest_beside(inputs: Inputs) -> Callable[[], bytes]:
    """Begin to hash and check the files while DuckDB reads them, which leaves this process's other threads
    alone; gives what waits for the digest, or raises what is wrong with them. Compressed files are checked
    first: nothing else may unpack one that was made to fill a disk."""
    if any(path.lower().endswith(".gz") for path in inputs.paths):
        contents = digest_of_inputs(inputs)
        return lambda: contents
    found: list[bytes] = []
    wrong: list[BaseException] = []

    def digest() -> None:
        try:
            found.append(digest_of_inputs(inputs))
        except BaseException as error:  # raised where it is waited for
            wrong.append(error)

    def wait() -> bytes:
        thread.join()
        if wrong:
            raise wrong[0]
        return found[0]

    thread = threading.Thread(target=digest, daemon=True)
    thread.start()
    return wait


def _digest(contents: bytes, source: Source) -> str:
    values = {name: str(value) for name, value in source.parameters.items()}
    whole = sha256(contents)
    whole.update(encode_json([source.sql, values], sort_keys=True))
    return whole.hexdigest()


# ---------------------------------------------------------------- reading


@contextmanager
def _opened(
    manifest: Manifest,
    inputs: Inputs,
    folder: Path,
    parameters: Mapping[str, object],
    *,
    whole: bool,
    memory_limit: str = engine.MEMORY_LIMITS[-1],
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Source, Columns, Mixed, tuple[Lacking, ...]]]:
    """A connection with the view `dataset`, the checked source and its checked columns; what is mixed, and
    what some files lack."""
    connection = engine.connect(files=inputs.plain_paths, folder=folder, memory_limit=memory_limit)
    try:
        try:
            mixed, fields = _create_view(connection, manifest, inputs, whole=whole)
            source = source_of(connection, manifest, parameters)
            columns = types_of(connection, source.sql, source.parameters)
            lacking: tuple[Lacking, ...] = ()
            if manifest.dataset.query is None:
                lacking = lacking_columns(connection, inputs, [name for name, _ in columns], fields)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise translated(manifest, inputs, error) from error
        except (RuntimeError, UnicodeDecodeError) as error:
            # DuckDB's Python layer: a damaged Parquet file can name its columns in bytes that are no text.
            what = "a name in the file is not UTF-8; the file is damaged"
            raise InputError([Mistake(where=inputs.paths[0], what=what)]) from error
        _check_columns(manifest, columns, lacking)
        yield connection, source, columns, mixed, lacking
    finally:
        connection.close()


def _create_view(
    connection: duckdb.DuckDBPyConnection, manifest: Manifest, inputs: Inputs, *, whole: bool
) -> tuple[Mixed, Mapping[str, Collection[str]]]:
    is_queried = manifest.dataset.query is not None
    match inputs.format:
        case Format.CSV | Format.TSV:
            keys = manifest.dataset.key
            return csv_files.create_view(
                connection, inputs, keys=keys, is_queried=is_queried, whole=whole
            ), {}
        case Format.JSON | Format.JSONL:
            return json_files.create_view(connection, inputs, is_queried=is_queried)
        case Format.PARQUET:
            paths = engine.text_list(inputs.plain_paths)
            connection.execute(
                f"CREATE VIEW dataset AS SELECT * FROM read_parquet({paths}, union_by_name = true)"
            )
            return NOTHING_MIXED, {}


def _check_columns(manifest: Manifest, columns: Columns, lacking: Sequence[Lacking]) -> None:
    at = "dataset.query" if manifest.dataset.query is not None else "dataset.path"
    where = manifest.where(at)
    mistakes = []
    for name, _ in columns:
        if name.casefold() in OWN_COLUMNS:
            what = f"the results table has its own column {name!r}"
            hint = "give it another name in dataset.query (SELECT * RENAME ...)"
            mistakes.append(Mistake(where=where, path=at, what=what, hint=hint))
    mistakes += missing_columns(manifest, [name for name, _ in columns])
    key = {part.casefold() for part in manifest.dataset.key}
    mistakes += [
        lacking_mistake(manifest, one, "dataset.key")
        for one in lacking
        if one.is_fixed and one.column.casefold() in key
    ]
    if mistakes:
        raise InputError(mistakes)


def _named(columns: Columns) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=str(kind)) for name, kind in columns)


def _stored(columns: Columns) -> tuple[Column, ...]:
    return tuple(Column(name=name, type=stored_type(kind)) for name, kind in columns)


# ---------------------------------------------------------------- writing


def _write(
    connection: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    source: Source,
    columns: Columns,
    mixed: Mixed,
    folder: Path,
) -> tuple[Path, _Look]:
    """All rows with position and key to a file in `folder`, and what was seen of it."""
    is_queried = manifest.dataset.query is not None
    rows, written = rows_with_written(
        connection, source.sql, source.parameters, columns, mixed, is_queried=is_queried
    )
    cells = ", ".join([_stored_cell(name, kind) for name, kind in columns] + [WRITTEN] * bool(written))
    key = key_expression(manifest.dataset.key, columns, written)
    options = _parquet_options(connection)
    path = engine.private_file(folder / "rows.parquet")
    connection.execute(
        f"COPY (SELECT row_number() OVER () - 1 AS _position, {key} AS _key, {cells} FROM "
        f"{rows}) TO {engine.text(str(path))} ({options})",
        dict(source.parameters) or None,
    )
    look = _look_at(connection, path)
    if not look.is_in_order:
        # DuckDB 1.4 was seen to write the end of one UNION ALL branch after the next; positions were right.
        sorted_rows = engine.private_file(folder / "sorted.parquet")
        read = f"read_parquet({engine.text(str(path))})"
        connection.execute(
            f"COPY (FROM {read} ORDER BY _position) TO {engine.text(str(sorted_rows))} ({options})"
        )
        path, look = sorted_rows, _look_at(connection, sorted_rows)
    if not manifest.dataset.key:
        numbered = folder / "numbered.parquet"
        if number_equal_rows(connection, path, numbered, options):
            return numbered, _look_at(connection, numbered)
    return path, look


def _stored_cell(name: str, kind: DuckDBPyType) -> str:
    quoted, stored = engine.name(name), stored_type(kind)
    if stored == str(kind):
        return quoted
    if stored == "JSON":
        return f"to_json({quoted}) AS {quoted}"
    return f"CAST({quoted} AS {stored}) AS {quoted}"


def _parquet_options(connection: duckdb.DuckDBPyConnection) -> str:
    """Row groups of about 8 MB, judged by the first rows."""
    found = connection.execute(
        "SELECT avg(octet_length(encode(CAST(d AS VARCHAR)))) FROM (SELECT d FROM dataset d LIMIT 200) s(d)"
    ).fetchone()
    row_bytes = (found[0] if found else None) or 1
    rows = min(MAX_RANGE_ROWS, max(VECTOR_ROWS, int(_ROW_GROUP_BYTES / row_bytes)))
    return f"FORMAT parquet, ROW_GROUP_SIZE {rows}, COMPRESSION snappy, USE_TMP_FILE false"


@dataclass(frozen=True, slots=True)
class _Look:
    """What is seen of a written file: its rows, how many of them have a key, and whether positions count
    from 0 without a gap, in the file's own order."""

    rows: int
    keys: int
    is_in_order: bool


def _look_at(connection: duckdb.DuckDBPyConnection, written: Path) -> _Look:
    rows, keys, is_in_order = connection.execute(
        # Counted here: DuckDB's own number of a row can't be had where a column has its name.
        "SELECT count(*), count(_key), coalesce(bool_and(_position = place), true) "
        "FROM (SELECT _position, _key, row_number() OVER () - 1 AS place "
        f"FROM read_parquet({engine.text(str(written))}))"
    ).fetchall()[0]
    return _Look(int(rows), int(keys), bool(is_in_order))


def _check_untouched(inputs: Inputs, before: InputsState) -> None:
    """Files were read more than once; what was checked must be what was written."""
    now = state_of(inputs)
    touched = [new.path for old, new in zip(before.files, now.files, strict=True) if old != new]
    if touched:
        raise InputError(
            [Mistake(where=path, what="the file changed while it was read") for path in touched],
            next_step="run again when nothing writes to it",
        )


def _put_in_place(written: Path, target: Path) -> None:
    """fsync the file, rename it beside the target first (other file system), fsync the folder."""
    beside = target.with_name(f".{target.name}.part")
    try:
        shutil.move(written, beside)
        beside.chmod(0o600)
        _sync(beside)
        beside.replace(target)
        _sync(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
