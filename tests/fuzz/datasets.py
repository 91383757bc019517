"""Datasets: bytes of every format, whole, shaken, torn, ragged, deep, wide, in odd encodings and compressed.

Judged: the snapshot is taken, and all its rows can be read and have keys that differ, or there is an
`InputError` whose every mistake has a place. Many examples share a connection (see `tests.lent_duckdb`). Half
of the examples go to the readers alone that we wrote by hand, which take a tenth of the time.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import duckdb

from runner.core.model import Manifest
from runner.dataset import csv_files, describe, engine, json_files, read_rows, take_snapshot
from runner.dataset.inputs import Format, digest_of_inputs, find_inputs
from runner.errors import InputError, Mistake
from tests.contract.dataset_factories import make_manifest
from tests.fuzz.mutation import (
    ODD_BYTES,
    in_odd_encoding,
    mutated,
    shaken,
    some_scalar,
    some_text,
    some_value,
)
from tests.lent_duckdb import Lender

COLUMNS = 100
"""As wide as a table gets here: DuckDB's work grows with the square (250 columns: seconds)."""
CELLS = (
    "1", "-1", "007", "1e5", "3.10", "", '""', "true", "2024-01-02", "2024-01-02 03:04:05", "x", "a b",
    "é", "NULL", "NaN", "9" * 25, "0.1", "1_000", " 1", "\N{NO-BREAK SPACE}", "=1+1", "inf", "12:30",
    "\\N"
)  # fmt: skip
HEADERS = (
    "id",
    "text",
    "ID",
    "",
    "_key",
    "_position",
    "a,b",
    'a"b',
    "é",
    "filename",
    "rowid",
    "x" * 200,
    "select",
    "1",
)
QUERIES = (
    None, None, None, None, None, "SELECT * FROM dataset", "SELECT id FROM dataset", "SELECT 1", "SELECT",
    "", "SELECT * FROM read_csv('/etc/passwd')", "DROP TABLE x", "SELECT * FROM dataset; SELECT 1",
    "SELECT *, [1] AS l, {'a': 1} AS s FROM dataset ORDER BY 1", "COPY (SELECT 1) TO 'x.csv'",
    "SELECT x FROM range(1000) t(x)", "SELECT getenv('HOME') AS h", "FROM dataset --", "SELECT 1/0 AS z",
    "SELECT repeat('a', 10000) AS r FROM dataset", "SELECT * FROM dataset WHERE $p",
    "WITH RECURSIVE t AS"
)  # fmt: skip


READERS = (*["snapshot"] * 14, *["hand"] * 15, "describe")


@dataclass(frozen=True)
class DatasetExample:
    """Files by name, and the dataset's settings. `by`: what reads them (`snapshot`, `describe`, `hand`)."""

    files: tuple[tuple[str, bytes], ...]
    query: str | None
    key: tuple[str, ...]
    by: str


class Datasets:
    """See the module."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "d"
        self._scratch = folder / "d" / "scratch"
        self._taken = 0
        engine.connect = Lender(folder).connect
        with duckdb.connect() as maker:
            path = folder / "good.parquet"
            maker.execute(
                f"COPY (SELECT 1 AS id, 'x' AS text, [1.5] AS l UNION ALL SELECT 2, NULL, NULL) TO '{path}'"
            )
            self._parquet = path.read_bytes()

    def _target(self) -> Path:
        """A name that no snapshot had: a connection remembers what it read of a Parquet file."""
        self._taken += 1
        return self._folder / f"snapshot-{self._taken}.parquet"

    # ------------------------------------------------------------ making

    def make(self, random: Random) -> DatasetExample:
        """One file, sometimes two; a key and a query sometimes."""
        make = random.choice((_csv, _csv, _jsonl, _jsonl, _json, self._parquet_bytes))
        count = random.choice((1, 1, 1, 1, 2))
        files = []
        for number in range(count):
            suffix, data = make(random)
            if random.random() < 0.06 and suffix != "parquet":
                data = gzip.compress(data, 1)
                data = shaken(random, data) if random.random() < 0.5 else data
                suffix += ".gz"
            files.append((f"{'ab'[number]}.{suffix}", data))
        key = random.choice(((), (), (), ("id",), ("id", "text"), ("missing",)))
        return DatasetExample(tuple(files), random.choice(QUERIES), key, random.choice(READERS))

    def _parquet_bytes(self, random: Random) -> tuple[str, bytes]:
        data = self._parquet
        match random.randrange(4):
            case 0:
                data = shaken(random, data)
            case 1:
                end = len(data) - random.randrange(1, 200)
                data = data[:end] + bytes([data[end] ^ 1 << random.randrange(8)]) + data[end + 1 :]
            case 2:
                data = data[: random.randrange(len(data))] + data[-8:]
            case _:
                place = random.randrange(4, len(data) - 8)
                data = data[:place] + random.randbytes(4) + data[place + 4 :]
        return "parquet", data

    # ------------------------------------------------------------ judging

    def judge(self, example: DatasetExample) -> str:
        """Accepted or refused, by format."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        paths = []
        for name, data in example.files:
            paths.append(self._folder / name)
            paths[-1].write_bytes(data)
        kind = paths[0].suffix.lstrip(".")
        manifest = make_manifest(*paths, query=example.query, key=example.key)
        try:
            if example.by == "hand":
                _read_by_hand(manifest)
                return f"{kind}-read-by-hand"
            if example.by == "describe":
                describe(manifest, {})
                return f"{kind}-described"
            taken = take_snapshot(manifest, self._target(), scratch=self._scratch)
        except InputError as error:
            _check_mistakes(error)
            assert not list(self._scratch.iterdir()), "scratch was left"
            return f"{kind}-refused"
        keys: list[str] = []
        for batch in read_rows(taken.path, 0, taken.rows):
            for position, key, row in batch:
                assert position == len(keys)
                assert list(row) == [column.name for column in taken.columns]
                keys.append(key)
        assert len(set(keys)) == len(keys) == taken.rows
        assert not list(self._scratch.iterdir()), "scratch was left"
        return f"{kind}-accepted"


def _read_by_hand(manifest: Manifest) -> None:
    """Our own readers: of text, of compressed bytes, and those that find the line of a mistake."""
    inputs = find_inputs(manifest)
    digest_of_inputs(inputs)
    found: list[Mistake] = []
    if inputs.format in (Format.CSV, Format.TSV):
        found = csv_files.find_mistakes(inputs)
    elif inputs.format in (Format.JSON, Format.JSONL):
        found = json_files.find_mistakes(inputs)
    if found:
        raise InputError(found)


def _check_mistakes(error: InputError) -> None:
    assert error.mistakes
    for mistake in error.mistakes:
        assert mistake.where, mistake
        assert mistake.what, mistake
        assert len(str(mistake)) < 5000, len(str(mistake))
        str(mistake).encode()
    assert len(error.mistakes) < 100


# ---------------------------------------------------------------- CSV and TSV


def _csv(random: Random) -> tuple[str, bytes]:
    suffix, delimiter = random.choice((("csv", ","), ("csv", ","), ("csv", ";"), ("tsv", "\t")))
    names = ["id", "text", *random.sample(HEADERS, random.randrange(3))][: random.randrange(1, 5)]
    rows = _rows(random, len(names))
    text = io.StringIO(newline="")
    end = random.choice(("\n", "\n", "\r\n", "\r"))
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=random.choice((0, 1)))
    writer.writerows([names, *rows])
    written = text.getvalue()
    match random.randrange(8):
        case 0 | 1:
            data = shaken(random, written.encode("utf-8", "surrogatepass"))
        case 2:
            data = in_odd_encoding(random, written)
        case 3:
            lines = written.split(end)
            place = random.randrange(len(lines))
            lines[place] += random.choice(
                (delimiter, delimiter * 3, '"', delimiter + '"x', end, "\0", "\x1a")
            )
            data = end.join(lines).encode()
        case 4:
            data = _huge_csv(random, delimiter)
        case _:
            data = written.encode("utf-8", "surrogatepass")
    return suffix, data


def _rows(random: Random, width: int) -> list[list[str]]:
    rows = []
    for number in range(random.choice((0, 1, 2, 3, 5))):
        cells = [str(number), *(random.choice(CELLS) for _ in range(width))]
        if random.random() < 0.1:
            cells[random.randrange(width)] = some_text(random).replace("\ud800", "")
        ragged = random.random() < 0.1
        rows.append(cells[: random.randrange(width + 1) if ragged else width])
    return rows


def _huge_csv(random: Random, delimiter: str) -> bytes:
    size = random.choice((300, 300, 3_000, 3_000, 200_000))
    return random.choice(
        (
            b"id,text\n1," + b"x" * size * 5 + b"\n",
            b'id,text\n1,"' + b"x" * size * 5,
            delimiter.encode().join(b"c%d" % number for number in range(min(size, COLUMNS))) + b"\n1\n",
            b"id\n" + b"1\n" * min(size, 3_000),
            b"id\n" + b"\n" * size,
            b"id,text\n" + b'"' * size,
            delimiter.encode() * min(size, COLUMNS) + b"\n",
            b"x" * size,
        )
    )


# ---------------------------------------------------------------- JSON


def _records(random: Random) -> list[Any]:
    records: list[Any] = [
        {"id": number, "text": random.choice(CELLS), "n": {"a": number, "l": [1, 2]}}
        for number in range(random.choice((1, 2, 3, 5)))
    ]
    if random.random() < 0.7:
        place = random.randrange(len(records))
        records[place] = mutated(random, records[place], ("id", "text", "ID", "_key", "", "a", "a.b"))
    if random.random() < 0.15:
        records.append(some_value(random))
    if random.random() < 0.15:
        records[0]["v" if isinstance(records[0], dict) else 0] = some_scalar(random)
    return records


def _json_text(random: Random, value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def _jsonl(random: Random) -> tuple[str, bytes]:
    end = random.choice((b"\n", b"\n", b"\r\n", b"\n\n", b" \n"))
    try:
        lines = [_json_text(random, record) for record in _records(random)]
    except TypeError:
        lines = [b"[]"]
    data = end.join(lines)
    return random.choice(("jsonl", "ndjson")), _spoilt(random, data)


def _json(random: Random) -> tuple[str, bytes]:
    try:
        records: Sequence[Any] = _records(random)
    except TypeError:
        records = []
    data = _json_text(random, records)
    if random.random() < 0.2:
        data = b" ".join(_json_text(random, record) for record in records)
    return "json", _spoilt(random, data)


def _spoilt(random: Random, data: bytes) -> bytes:
    match random.randrange(10):
        case 0 | 1:
            return shaken(random, data)
        case 2:
            return in_odd_encoding(random, data.decode("utf-8", "replace"))
        case 3:
            levels = random.choice((5, 100, 1_000, 100_000))
            opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}")))
            return data + b'\n{"id": 9, "d": ' + opening * levels + b"1" + closing * levels + b"}\n"
        case 4:
            return (
                data
                + b'\n{"id": 9, "text": '
                + random.choice((*ODD_BYTES, b'"' + b"x" * 300_000 + b'"'))
                + b"}\n"
            )
        case 5 if random.random() < 0.3:
            fields = b",".join(
                b'"f%d":%d' % (number, number) for number in range(random.choice((50, COLUMNS)))
            )
            return data + b"\n{" + fields + b"}\n"
        case _:
            return data
