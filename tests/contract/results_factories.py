"""Snapshots, lineage and independent readers for the tests of the results room."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from runner.results import LineForm, Published, ResultColumn, lineage_columns, publish

SUFFIXES = (".parquet", ".csv", ".jsonl", ".db")
COLUMNS = lineage_columns(None, "", embeddings=False)


def make_snapshot(folder: Path, select: str, *, name: str = "snapshot.parquet") -> str:
    """A snapshot of what `select` gives; it must name `_position` and `_key`."""
    path = folder / name
    with closing(duckdb.connect()) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute(f"COPY ({select}) TO '{path}' (FORMAT parquet)")
    return str(path)


def plain_snapshot(folder: Path, rows: int) -> str:
    """Keys k0, k1, ...; one column `body`."""
    return make_snapshot(
        folder,
        f"SELECT range AS _position, 'k' || range AS _key, 'body ' || range AS body FROM range({rows})",
    )


def record(position: int, **fields: Any) -> dict[str, Any]:
    """A succeeded row of `plain_snapshot`."""
    return {
        "_position": position,
        "_key": f"k{position}",
        "_status": "succeeded",
        "_answer": f"answer {position}",
        **fields,
    }


def put(
    folder: Path,
    snapshot: str,
    lineage: Iterable[Mapping[str, Any]],
    *suffixes: str,
    columns: Sequence[ResultColumn] = COLUMNS,
    csv_safe: bool = False,
) -> Published:
    """Publish to `folder/out/table<suffix>`."""
    targets = [folder / "out" / f"table{suffix}" for suffix in suffixes]
    lines = LineForm(columns).groups(lineage)
    return publish(snapshot, lines, columns, targets, scratch=folder / "scratch", csv_safe=csv_safe)


def read_back(path: Path) -> list[dict[str, Any]]:
    """Every row as name -> value, by a reader that shares nothing with the writer where one exists."""
    match path.suffix:
        case ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        case ".jsonl":
            lines = path.read_bytes().split(b"\n")
            assert lines.pop() == b""
            return [json.loads(line) for line in lines]
        case ".db":
            with closing(sqlite3.connect(path)) as database:
                cursor = database.execute("SELECT * FROM results ORDER BY rowid")
                names = [column[0] for column in cursor.description]
                return [dict(zip(names, row, strict=True)) for row in cursor]
        case _:
            with closing(duckdb.connect()) as engine:
                engine.execute("SET TimeZone = 'UTC'")
                table = engine.execute(f"SELECT * FROM read_parquet('{path}')")
                names = [column[0] for column in table.description or ()]
                return [dict(zip(names, row, strict=True)) for row in table.fetchall()]
