"""Columns that some files of a dataset have and others don't: in the rows of those they are NULL.

Files are united by the names of their columns, letter case aside. A NULL prints as nothing in a prompt, so
what a file lacks is told before anything is asked. A query is the user's own word on what the columns are:
then nothing is lacking. Nor does a file without rows lack anything.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import duckdb

from runner.core.model import Manifest
from runner.dataset import csv_files, engine
from runner.dataset.inputs import Format, Inputs, short
from runner.errors import Mistake

_FILES_SHOWN = 3
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
"""To DuckDB names are the same that differ in the case of these letters, and no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """A column that `files` (paths, in dataset order) of all so many don't have.

    `is_fixed`: their format gives all rows of a file the same columns; else none of a file's records has it.
    """

    column: str
    files: tuple[str, ...]
    all_files: int
    is_fixed: bool


def lacking_columns(
    connection: duckdb.DuckDBPyConnection,
    inputs: Inputs,
    columns: Sequence[str],
    fields: Mapping[str, Collection[str]],
) -> tuple[Lacking, ...]:
    """Of the dataset's columns those that some files lack. Reads no rows: headers and footers alone.

    `fields`: what the records of each JSON file have, by its plain path. Raises duckdb.Error.
    """
    if len(inputs.paths) < 2:
        return ()
    is_fixed = inputs.format not in (Format.JSON, Format.JSONL)
    named = dict(_columns_of_files(connection, inputs)) if is_fixed else fields
    paths_of: dict[frozenset[str], set[str]] = {}
    for path, names in named.items():
        paths_of.setdefault(frozenset(map(_folded, names)), set()).add(path)
    lacking = {column: _without(_folded(column), paths_of) for column in columns}
    if is_fixed and any(lacking.values()):
        empty = _without_rows(connection, inputs, set().union(*lacking.values()))
        lacking = {column: files - empty for column, files in lacking.items()}
    both = list(zip(inputs.paths, inputs.plain_paths, strict=True))
    return tuple(
        Lacking(
            column=column,
            files=tuple(path for path, plain in both if plain in files),
            all_files=len(both),
            is_fixed=is_fixed,
        )
        for column, files in lacking.items()
        if files and len(files) < len(both)  # what no file has comes of the names of folders
    )


def lacking_mistake(manifest: Manifest, lacking: Lacking, reader: str) -> Mistake:
    """What to say where `reader` (the template, the key) needs the column."""
    files, column = lacking.files, short(lacking.column)
    names = [Path(path).name for path in files]
    names = names if len(set(names)) == len(names) else list(files)
    listed = ", ".join(names[:_FILES_SHOWN])
    listed += f" and {len(files) - _FILES_SHOWN:,} more" if len(files) > _FILES_SHOWN else ""
    what = (
        f"{reader} reads the column {column!r}, and {len(files):,} of {lacking.all_files:,} files "
        f"{'has' if len(files) == 1 else 'have'} none (it is NULL in their rows): {listed}"
    )
    quoted = column if column.isidentifier() else engine.name(column)
    hint = (
        "add it there, take those files out of dataset.path, or say in dataset.query what stands for it: "
        f"SELECT * REPLACE (coalesce({quoted}, ...) AS {quoted}) FROM dataset; "
        "SELECT * FROM dataset, where NULL is meant"
    )
    return Mistake(where=manifest.where("dataset.path"), path="dataset.path", what=what, hint=hint)


def _folded(name: str) -> str:
    return name.translate(_LOWER)


def _without(folded: str, paths_of: Mapping[frozenset[str], set[str]]) -> set[str]:
    return {path for names, paths in paths_of.items() if folded not in names for path in paths}


def _columns_of_files(
    connection: duckdb.DuckDBPyConnection, inputs: Inputs
) -> Iterable[tuple[str, Collection[str]]]:
    """The plain path of each file and its columns."""
    if inputs.format is not Format.PARQUET:
        headers = csv_files.read_headers(inputs)
        return [(path, header.names) for path, header in zip(inputs.plain_paths, headers, strict=True)]
    nodes: dict[str, list[tuple[str, int]]] = {}
    found = connection.execute(
        "SELECT file_name, name, coalesce(num_children, 0) "
        f"FROM parquet_schema({engine.text_list(inputs.plain_paths)})"
    )
    while batch := found.fetchmany(10_000):
        for path, name, children in batch:
            nodes.setdefault(path, []).append((name, children))
    return [(path, _top_level(schema)) for path, schema in nodes.items()]


def _top_level(schema: Sequence[tuple[str, int]]) -> list[str]:
    """The columns among a schema's nodes, which come each before its children; the first is the root."""
    names, inside = [], 0
    for name, children in schema[1:]:
        if not inside:
            names.append(name)
        inside = max(inside - 1, 0) + children
    return names


def _without_rows(connection: duckdb.DuckDBPyConnection, inputs: Inputs, plain_paths: set[str]) -> set[str]:
    """Those of these files that hold no rows."""
    if inputs.format is Format.PARQUET:
        counted = connection.execute(
            f"SELECT file_name, num_rows FROM parquet_file_metadata({engine.text_list(sorted(plain_paths))})"
        )
        return {path for path, rows in counted.fetchall() if not rows}
    return {path for path in plain_paths if not _has_rows(path)}


def _has_rows(path: str) -> bool:
    try:
        return next(islice(csv_files.lines_of_records(path, ","), 1), None) is not None
    except csv.Error:
        return True  # whoever reads it says what is wrong
