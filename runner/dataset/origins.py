"""Where rows come from: the file and, in text formats, the line. Slow; for telling a mistake.

Rows lie in the order of the files, so the files are gone through once, up to the last row that is asked for.
"""

# ruff: noqa: S608 - every name and text in SQL goes through engine.name and engine.text
from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace

import duckdb

from runner.dataset import csv_files, engine, json_files
from runner.dataset.inputs import Format, Inputs


def origins(
    connection: duckdb.DuckDBPyConnection, inputs: Inputs, positions: Collection[int]
) -> dict[int, str]:
    """`file:line` (or `file, record 3`) of each position, as far as it can be known."""
    found: dict[int, str] = {}
    last = max(positions, default=-1)
    with suppress(csv.Error):  # lines can't be counted beyond a damaged one
        for position, place in enumerate(_all_origins(connection, inputs)):
            if position > last:
                break
            if position in positions:
                found[position] = place
    return found


def _all_origins(connection: duckdb.DuckDBPyConnection, inputs: Inputs) -> Iterator[str]:
    match inputs.format:
        case Format.CSV | Format.TSV:
            for path, header in zip(inputs.paths, csv_files.read_headers(inputs), strict=True):
                yield from (f"{path}:{line}" for line in csv_files.lines_of_records(path, header.delimiter))
        case Format.JSONL:
            for path in inputs.paths:
                yield from (f"{path}:{line}" for line in json_files.lines_of_records(path))
        case Format.JSON | Format.PARQUET:
            for path, plain in zip(inputs.paths, inputs.plain_paths, strict=True):
                one = replace(inputs, paths=(path,), plain_paths=(plain,))
                yield from (f"{path}, record {index + 1}" for index in range(_count(connection, one)))


def _count(connection: duckdb.DuckDBPyConnection, inputs: Inputs) -> int:
    rows = (
        f"read_parquet({engine.text_list(inputs.plain_paths)})"
        if inputs.format is Format.PARQUET
        else f"read_json_objects({json_files.reader_arguments(inputs)})"
    )
    found = connection.execute(f"SELECT count(*) FROM {rows}").fetchone()
    return int(found[0]) if found is not None else 0
