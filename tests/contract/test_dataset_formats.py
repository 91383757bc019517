"""The same rows from every format; awkward files; order; unions."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pytest

from runner.dataset import Column, describe, fingerprint_of_inputs
from runner.dataset.csv_files import create_view
from runner.dataset.inputs import find_inputs
from tests.contract.dataset_factories import (
    keys_of,
    make_manifest,
    mistakes_of,
    rows_of,
    take,
    types_of,
    write,
)

ROWS: list[dict[str, Any]] = [
    {"id": "007", "count": 1, "share": 0.5, "is_open": True, "body": "plain"},
    {"id": "A8", "count": -2, "share": 0.25, "is_open": False, "body": 'a "quote", a comma'},
    {"id": "9", "count": 3_000_000_000, "share": 1e-05, "is_open": True, "body": "two\nlines and 🐟 \u2028"},
    {"id": "x", "count": None, "share": None, "is_open": None, "body": None},
]
NAMES = list(ROWS[0])


def _delimited(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(NAMES)
    for row in rows:
        writer.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in row.values()])
    return text.getvalue().encode()


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    columns = (
        "{'id': 'VARCHAR', 'count': 'BIGINT', 'share': 'DOUBLE', 'is_open': 'BOOLEAN', 'body': 'VARCHAR'}"
    )
    folder = Path(os.environ["PYTEST_DATASET_FOLDER"])
    (folder / "in.jsonl").write_bytes(_jsonl(rows))
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (FROM read_json('{folder}/in.jsonl', columns = {columns})) TO '{folder}/out.parquet'"
        )
    return (folder / "out.parquet").read_bytes()


ENCODERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "csv": lambda rows: _delimited(rows, ","),
    "tsv": lambda rows: _delimited(rows, "\t"),
    "jsonl": _jsonl,
    "ndjson": _jsonl,
    "json": lambda rows: json.dumps(rows, indent=1).encode(),
    "parquet": _parquet,
    "csv.gz": lambda rows: gzip.compress(_delimited(rows, ",")),
    "jsonl.gz": lambda rows: gzip.compress(_jsonl(rows)),
    "json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
}


@pytest.fixture(params=ENCODERS)
def encoded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Writes rows in one of the formats."""
    folder = tmp_path / "encoding"
    folder.mkdir()
    monkeypatch.setenv("PYTEST_DATASET_FOLDER", str(folder))
    return lambda stem, rows: write(tmp_path / f"{stem}.{request.param}", ENCODERS[request.param](rows))


Encoded = Callable[[str, list[dict[str, Any]]], Path]


def test_every_format_gives_the_same_rows(encoded: Encoded, tmp_path: Path) -> None:
    snapshot = take(encoded("rows", ROWS), into=tmp_path, key="id")
    assert rows_of(snapshot) == ROWS
    assert keys_of(snapshot) == ["007", "A8", "9", "x"]
    assert types_of(snapshot) == {
        "id": "VARCHAR",
        "count": "BIGINT",
        "share": "DOUBLE",
        "is_open": "BOOLEAN",
        "body": "VARCHAR",
    }


def test_describe_agrees_with_the_snapshot(encoded: Encoded, tmp_path: Path) -> None:
    path = encoded("rows", ROWS)
    assert describe(make_manifest(path)) == take(path, into=tmp_path).columns


def test_content_keys_do_not_depend_on_the_format(encoded: Encoded, tmp_path: Path) -> None:
    rows = [{"id": "a", "count": 1, "share": 0.5, "is_open": True, "body": None}] * 3
    canonical = '{"body":null,"count":"1","id":"a","is_open":"true","share":"0.5"}'
    key = hashlib.md5(canonical.encode()).hexdigest()[:12]
    assert keys_of(take(encoded("rows", rows), into=tmp_path)) == [key, f"{key}-2", f"{key}-3"]


def test_many_equal_rows_are_numbered_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "v\n" + "x\ny\nx\n" * 20_000)
    snapshot = take(path, into=tmp_path)
    keys = keys_of(snapshot)
    assert [row["v"] for row in rows_of(snapshot)] == ["x", "y", "x"] * 20_000
    x, y = keys[:2]
    assert keys[2:6] == [f"{x}-2", f"{x}-3", f"{y}-2", f"{x}-4"]
    assert keys[-1] == f"{x}-40000"
    assert len(set(keys)) == 60_000


@pytest.mark.parametrize("name", ["file_row_number", "FILE_ROW_NUMBER", "filename", "rowid", "place"])
@pytest.mark.parametrize("key", ["id", ()])
def test_a_column_may_have_a_name_that_duckdb_gives_itself(
    name: str, key: str | tuple[str, ...], tmp_path: Path
) -> None:
    rows = [{"id": "b", name: 7}, {"id": "a", name: 7}]
    lines = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    cells = write(tmp_path / "a.csv", f"id,{name}\nb,7\na,7\n")
    table = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM read_json('{lines}')) TO '{table}'")
    for path in (lines, cells, table):
        assert rows_of(take(path, into=tmp_path, key=key)) == rows


def test_files_of_a_glob_come_in_the_order_of_their_names(encoded: Encoded, tmp_path: Path) -> None:
    last = encoded("part-2", ROWS[2:])
    encoded("part-1", ROWS[:2])
    pattern = str(last).replace("part-2", "part-*")
    snapshot = take(pattern, into=tmp_path)
    assert [row["body"] for row in rows_of(snapshot)] == [row["body"] for row in ROWS]


def test_a_list_keeps_its_own_order(encoded: Encoded, tmp_path: Path) -> None:
    one, two = encoded("b", ROWS[:2]), encoded("a", ROWS[2:])
    assert [row["id"] for row in rows_of(take(one, two, into=tmp_path))] == ["007", "A8", "9", "x"]


def test_a_snapshot_is_private_and_nothing_else_is_left(encoded: Encoded, tmp_path: Path) -> None:
    snapshot = take(encoded("rows", ROWS), into=tmp_path)
    assert stat.S_IMODE(Path(snapshot.path).stat().st_mode) == 0o600
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not [path for path in tmp_path.iterdir() if "part" in path.suffix]


def test_columns_of_several_csv_files_are_joined_by_name(tmp_path: Path) -> None:
    one = write(tmp_path / "1.csv", "id,x\n1,a\n")
    two = write(tmp_path / "2.csv", "y,id\n0.5,2\n")
    three = write(tmp_path / "3.csv", "y,id\n1.5,3\n")
    snapshot = take(tmp_path / "*.csv", into=tmp_path)
    assert rows_of(snapshot) == [
        {"id": 1, "x": "a", "y": None},
        {"id": 2, "x": None, "y": 0.5},
        {"id": 3, "x": None, "y": 1.5},
    ]
    assert [path.name for path in (one, two, three)] == ["1.csv", "2.csv", "3.csv"]


def test_large_files_with_different_headers_stay_in_order(tmp_path: Path) -> None:
    body = "x" * 200
    write(tmp_path / "1.csv", "n,body\n" + "".join(f"{n},{body}\n" for n in range(25_000)))
    write(tmp_path / "2.csv", "body,n\n" + "".join(f"{body},{n}\n" for n in range(25_000, 60_000)))
    for key in ("n", ()):
        found = rows_of(take(tmp_path / "*.csv", into=tmp_path, key=key))
        assert [row["n"] for row in found] == list(range(60_000))


def test_a_name_that_looks_like_a_glob_is_taken_literally_where_it_exists(tmp_path: Path) -> None:
    folder = tmp_path / "a*b"
    folder.mkdir()
    path = write(folder / "data[1]'s.csv", "a\n1\n")
    write(folder / "data1's.csv", "a\n2\n")
    snapshot = take(path, into=folder)
    assert rows_of(snapshot) == [{"a": 1}]
    assert describe(make_manifest(path)) == snapshot.columns


def test_a_mistake_in_a_file_with_a_strange_name_names_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "data[1].parquet", b"no")
    (mistake,) = mistakes_of(path, into=tmp_path)
    assert mistake == f"{path}: not a Parquet file (no Parquet footer), or cut short"


# ---------------------------------------------------------------- awkward CSV

AWKWARD = {
    "a byte order mark is not part of the first name": (b"\xef\xbb\xbfid,x\n1,a\n", [{"id": 1, "x": "a"}]),
    "CRLF lines": (b"id,x\r\n1,a\r\n2,b\r\n", [{"id": 1, "x": "a"}, {"id": 2, "x": "b"}]),
    "CR lines": (b"id,x\r1,a\r2,b\r", [{"id": 1, "x": "a"}, {"id": 2, "x": "b"}]),
    "newlines of any kind inside quotes": (b'id,x\n1,"a\r\nb\nc"\n', [{"id": 1, "x": "a\r\nb\nc"}]),
    "doubled quotes": (b'id,x\n1,"say ""hi"""\n', [{"id": 1, "x": 'say "hi"'}]),
    "no newline at the end": (b"id,x\n1,a", [{"id": 1, "x": "a"}]),
    "blank lines are skipped": (b"id,x\n1,a\n\n2,b\n\n\n", [{"id": 1, "x": "a"}, {"id": 2, "x": "b"}]),
    "blank lines are skipped in one column too": (b"x\na\n\nb\n\n", [{"x": "a"}, {"x": "b"}]),
    "one column": (b"x\na\n", [{"x": "a"}]),
    "a first line that looks like data": (b"1,2\n3,4\n", [{"1": 3, "2": 4}]),
    "only a header": (b"a,b\n", []),
    "a hash is no comment": (b"id,x\n#1,a\n2,b\n", [{"id": "#1", "x": "a"}, {"id": "2", "x": "b"}]),
    "NUL": (b"id,x\n1,a\x00b\n", [{"id": 1, "x": "a\x00b"}]),
    "U+2028 is no line end": ("id,x\n1,a\u2028b\n".encode(), [{"id": 1, "x": "a\u2028b"}]),
    "emoji": ("id,x\n1,👩‍🚀\n".encode(), [{"id": 1, "x": "👩‍🚀"}]),
    "quoted numbers are numbers": (b'a,b\n"1","2"\n', [{"a": 1, "b": 2}]),
    "an empty cell is NULL and a quoted one is empty": (
        b'a,b\n,""\nx,y\n',
        [{"a": None, "b": ""}, {"a": "x", "b": "y"}],
    ),
    "a quoted empty cell among numbers is NULL": (
        b'a,b\n1,x\n"",y\n',
        [{"a": 1, "b": "x"}, {"a": None, "b": "y"}],
    ),
    "spaces are kept": (b"a,b\n x , y\n", [{"a": " x ", "b": " y"}]),
    "semicolons, where the header has no comma": (b"a;b\n1,5;x\n", [{"a": "1,5", "b": "x"}]),
    "a name is missing": (b",b\n1,2\n", [{"column0": 1, "b": 2}]),
    "names that need quoting": (b'"a ""b""",select\n1,2\n', [{'a "b"': 1, "select": 2}]),
    "names in other scripts": ("größe,名前\n1,2\n".encode(), [{"größe": 1, "名前": 2}]),
}


@pytest.mark.parametrize("rule", AWKWARD)
def test_awkward_csv_is_read_as_written(rule: str, tmp_path: Path) -> None:
    content, rows = AWKWARD[rule]
    assert rows_of(take(write(tmp_path / "a.csv", content), into=tmp_path)) == rows


@pytest.mark.parametrize("size", [200_000, 12_000_000])
def test_huge_cells_are_read_whole(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"id,x\n1,b\n2," + b"z" * size + b"\n3,c\n")
    assert [len(row["x"]) for row in rows_of(take(path, into=tmp_path))] == [1, size, 1]


# ---------------------------------------------------------------- types of CSV

COLUMNS: dict[str, tuple[list[str], str, list[object]]] = {
    "whole numbers": (["1", "-20", "0"], "BIGINT", [1, -20, 0]),
    "leading zeros are text": (["007", "8"], "VARCHAR", ["007", "8"]),
    "a plus sign is text": (["+1", "2"], "VARCHAR", ["+1", "2"]),
    "too long for 64 bits is text": (["12345678901234567890", "1"], "VARCHAR", ["12345678901234567890", "1"]),
    "fractions": (["0.5", "-2.25", "3"], "DOUBLE", [0.5, -2.25, 3.0]),
    "exponents as floats are printed": (["1e-05", "2.5"], "DOUBLE", [1e-05, 2.5]),
    "what only looks like an exponent is text": (["1e5", "12"], "VARCHAR", ["1e5", "12"]),
    "money keeps its zeros": (["1.50", "2.00"], "DECIMAL(18,2)", ["1.50", "2.00"]),
    "versions are text": (["3.9", "3.10"], "VARCHAR", ["3.9", "3.10"]),
    "more digits than a double has": (
        ["0.12345678901234567890", "1"],
        "VARCHAR",
        ["0.12345678901234567890", "1"],
    ),
    "thousands": (["1,000", "2"], "VARCHAR", ["1,000", "2"]),
    "booleans": (["true", "False"], "BOOLEAN", [True, False]),
    "yes and no are text": (["yes", "no"], "VARCHAR", ["yes", "no"]),
    "t and f are text": (["t", "f"], "VARCHAR", ["t", "f"]),
    "dates": (["2024-02-29", "1999-12-31"], "DATE", ["2024-02-29", "1999-12-31"]),
    "no such date": (["2024-02-30", "1999-12-31"], "VARCHAR", ["2024-02-30", "1999-12-31"]),
    "dates of other forms are text": (["01/02/2024", "03/04/2024"], "VARCHAR", ["01/02/2024", "03/04/2024"]),
    "times of day are text": (["12:30", "01:00"], "VARCHAR", ["12:30", "01:00"]),
    "timestamps": (["2024-01-01T10:00:00", "2024-01-01 10:00:00"], "TIMESTAMP", ["2024-01-01 10:00:00"] * 2),
    "timestamps with a zone are text": (["2024-01-01T10:00:00Z"], "VARCHAR", ["2024-01-01T10:00:00Z"]),
    "nothing": (["", ""], "VARCHAR", [None, None]),
    "nan among fractions": (["0.5", "nan"], "DOUBLE", [0.5, "nan"]),
}


@pytest.mark.parametrize("rule", COLUMNS)
def test_a_csv_column_has_a_type_only_if_no_cell_loses_anything(rule: str, tmp_path: Path) -> None:
    cells, kind, values = COLUMNS[rule]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["v", "w"], *([cell, "w"] for cell in cells)])
    snapshot = take(write(tmp_path / "a.csv", text.getvalue()), into=tmp_path)
    assert types_of(snapshot)["v"] == kind
    found = [row["v"] for row in rows_of(snapshot)]
    assert (
        found == values
        or [str(value) for value in found] == values
        or str(found) == str(values).replace("'", "")
    )


def test_one_late_cell_decides_the_type_of_its_column(tmp_path: Path) -> None:
    lines = [f"{number},{number},2024-01-01" for number in range(30_000)]
    path = write(tmp_path / "a.csv", "\n".join(["id,n,d", *lines, "30000x,1.5,later"]) + "\n")
    snapshot = take(path, into=tmp_path)
    assert types_of(snapshot) == {"id": "VARCHAR", "n": "DOUBLE", "d": "VARCHAR"}
    assert rows_of(snapshot)[-1] == {"id": "30000x", "n": 1.5, "d": "later"}


MANY_TYPES = [
    ("BIGINT", ("1", "-2")),
    ("DOUBLE", ("1e-05", "0.5")),
    ("DOUBLE", ("1", "0.5")),
    ("DECIMAL(18,2)", ("1.50", "0.25")),
    ("DECIMAL(18,3)", ("1.500", "0.250")),
    ("BOOLEAN", ("true", "false")),
    ("DATE", ("2024-01-01", "2024-02-29")),
    ("TIMESTAMP", ("2024-01-01 10:00:00", "2024-01-01T10:00:00")),
    ("VARCHAR", ("007", "1")),
    ("VARCHAR", ("1", "x" * 50)),
    ("VARCHAR", ("", "")),
]


@pytest.mark.parametrize("empty_rows", [0, 1_000])
def test_each_of_many_columns_has_the_type_of_its_own_cells(empty_rows: int, tmp_path: Path) -> None:
    """Also where a column's first cell comes late; what is a DECIMAL is not told then."""
    kinds = [(kind, cells) for _ in range(15) for kind, cells in MANY_TYPES]
    lines = [[f"c{place}" for place in range(len(kinds))]]
    lines += [["" for _ in kinds]] * empty_rows + [[cells[row] for _, cells in kinds] for row in (0, 1)]
    path = write(tmp_path / "a.csv", "".join(",".join(line) + "\n" for line in lines))
    expected = ["VARCHAR" if empty_rows and "DECIMAL" in kind else kind for kind, _ in kinds]
    assert list(types_of(take(path, into=tmp_path)).values()) == expected


def test_the_statements_that_find_types_do_not_grow_with_the_columns(tmp_path: Path) -> None:
    def statements(columns: int) -> int:
        names = ",".join(f"c{place}" for place in range(columns))
        path = write(tmp_path / "a.csv", names + "\n" + ",".join(["1"] * columns) + "\n")
        inputs = find_inputs(make_manifest(path))
        with duckdb.connect() as connection:
            counted = Mock(wraps=connection)
            create_view(
                counted, replace(inputs, plain_paths=inputs.paths), keys=(), is_queried=False, whole=True
            )
            assert connection.table("dataset").types == ["BIGINT"] * columns
        return len(counted.execute.mock_calls)

    assert statements(60) == statements(2)


def test_a_key_column_is_never_read_as_a_fraction_or_a_date(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,day\n0.5,2024-01-01\n1.0,2024-01-02\n")
    snapshot = take(path, into=tmp_path, key=("ID", "day"))
    assert types_of(snapshot) == {"id": "VARCHAR", "day": "VARCHAR"}
    assert keys_of(snapshot) == ["0.5|2024-01-01", "1.0|2024-01-02"]


# ---------------------------------------------------------------- types of JSON


def test_json_values_keep_their_types_and_nesting(tmp_path: Path) -> None:
    record = {
        "text": "2024-01-01",
        "uuid": "550e8400-e29b-41d4-a716-446655440000",
        "digits": "007",
        "nested": {"a": [1, 2], "b": {"c": None, "d": "x"}},
        "list": [{"q": 1}, {"q": 2}],
        "empty": [],
        "none": None,
        "large": 2**64 - 1,
        "surrogate pair": "\U0001f41f",
        "nul": "a\x00b",
    }
    snapshot = take(write(tmp_path / "a.jsonl", json.dumps(record) + "\n"), into=tmp_path)
    assert rows_of(snapshot) == [record]


def test_values_of_different_types_come_back_as_they_were(tmp_path: Path) -> None:
    values = [1, "t", {"k": 1}, [1, "x"], True, None, 1.5, "1"]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps({"v": value}) + "\n" for value in values))
    assert [row["v"] for row in rows_of(take(path, into=tmp_path))] == values


def test_whole_numbers_beyond_64_bits_keep_every_digit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"v": 123456789012345678901234567890, "w": 1}\n{"v": 1, "w": 2}\n')
    assert rows_of(take(path, into=tmp_path)) == [
        {"v": 123456789012345678901234567890, "w": 1},
        {"v": 1, "w": 2},
    ]


def test_a_field_that_appears_late_is_a_column(tmp_path: Path) -> None:
    lines = ['{"a": 1}'] * 30_000 + ['{"a": 2, "b": {"c": "x"}}']
    snapshot = take(write(tmp_path / "a.jsonl", "\n".join(lines) + "\n"), into=tmp_path)
    assert types_of(snapshot) == {"a": "BIGINT", "b": "STRUCT(c VARCHAR)"}
    assert rows_of(snapshot)[-1] == {"a": 2, "b": {"c": "x"}}


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", '{}\n{"a": 1, "b": {}}\n{}\n'), ("a.json", '[{}, {"a": 1, "b": {}}, {}]')],
)
def test_a_record_without_fields_lacks_every_field(name: str, content: str, tmp_path: Path) -> None:
    nothing = {"a": None, "b": None}
    snapshot = take(write(tmp_path / name, content), into=tmp_path)
    assert rows_of(snapshot) == [nothing, {"a": 1, "b": {}}, nothing]


def test_objects_with_data_for_field_names_stay_json(tmp_path: Path) -> None:
    records = [{"m": {f"user-{number}": number}} for number in range(500)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert rows_of(take(path, into=tmp_path)) == records


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n',
        b'{"a": 1}\r\n{"a": 2}\r\n',
        b'\n{"a": 1}\n   \n{"a": 2}',
    ],
)
def test_json_lines_may_have_a_mark_blank_lines_and_no_last_newline(content: bytes, tmp_path: Path) -> None:
    assert rows_of(take(write(tmp_path / "a.jsonl", content), into=tmp_path)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    "content", ['{"a": 1,\n "b": [2]}', '[{"a": 1, "b": [2]}]', ' \n[\n{"a":1,"b":[2]}\n]\n']
)
def test_a_json_file_holds_an_array_or_objects(content: str, tmp_path: Path) -> None:
    assert rows_of(take(write(tmp_path / "a.json", content), into=tmp_path)) == [{"a": 1, "b": [2]}]


# ---------------------------------------------------------------- digest and state


def test_the_digest_depends_on_bytes_query_and_parameters_and_not_on_names(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "a\n1\n")
    same = write(tmp_path / "two.csv", "a\n1\n")
    other = write(tmp_path / "three.csv", "a\n2\n")
    digest = take(one, into=tmp_path).digest
    assert take(same, into=tmp_path).digest == digest
    assert take(other, into=tmp_path).digest != digest
    assert take(one, into=tmp_path, query="FROM dataset").digest != digest
    query = "SELECT a + $n AS a FROM dataset"
    first, second = (take(one, into=tmp_path, query=query, parameters={"n": n}).digest for n in (1, 2))
    assert first != second


def test_the_state_of_the_inputs_changes_with_every_touch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\n1\n")
    manifest = make_manifest(path)
    before = fingerprint_of_inputs(manifest)
    assert fingerprint_of_inputs(manifest) == before
    assert [(file.path, file.size_bytes) for file in before.files] == [(str(path), 4)]
    os.utime(path, ns=(1, 1))
    assert fingerprint_of_inputs(manifest) != before


def test_no_folder_of_duckdb_appears_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "an empty home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    snapshot = take(write(tmp_path / "a.csv", "a\n1\n"), into=tmp_path, query="FROM dataset ORDER BY a")
    assert rows_of(snapshot) == [{"a": 1}]
    assert list(home.iterdir()) == []
    assert not list(tmp_path.rglob("*.duckdb"))


def test_an_empty_dataset_is_a_snapshot_without_rows(tmp_path: Path) -> None:
    snapshot = take(write(tmp_path / "a.csv", "a,b\n"), into=tmp_path, key="a")
    assert (snapshot.rows, rows_of(snapshot)) == (0, [])
    assert snapshot.columns == (Column(name="a", type="VARCHAR"), Column(name="b", type="VARCHAR"))


def test_a_mistake_leaves_no_snapshot(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a\n1\n1\n")
    assert mistakes_of(path, into=tmp_path, key="a")
    assert not list(tmp_path.glob("*.parquet"))
    assert list((tmp_path / "scratch").iterdir()) == []
