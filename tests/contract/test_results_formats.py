"""One suite over the four formats: the same rows go in, an independent reader gets them out."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runner.results import fields_of, lineage_columns
from tests.contract.results_factories import (
    COLUMNS,
    SUFFIXES,
    make_snapshot,
    plain_snapshot,
    put,
    read_back,
    record,
)

ODD_TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    "nan",
    "a,b",
    'say "hi"',
    "two\nlines",
    "cr\rlf\r\n",
    "tab\t",
    "line\u2028sep\u2029",
    "\U0001f600 e\u0301 \u202e",
    "nul\x00inside",
    "\\N \\u0041 \\",
    "'; DROP TABLE results; --",
    "=1+1",
    "007",
    "\ufeffbom",
    '{"a": 1}',
    "\x01\x1f\x7f\x85",
    "2024-01-01",
    "#comment",
    '"',
    '""',
    ",",
    "\n",
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_odd_texts_come_back_as_they_went_in(tmp_path: Path, suffix: str) -> None:
    snapshot = plain_snapshot(tmp_path, len(ODD_TEXTS))
    put(tmp_path, snapshot, (record(i, _answer=text) for i, text in enumerate(ODD_TEXTS)), suffix)
    rows = read_back(tmp_path / "out" / f"table{suffix}")
    assert [row["_answer"] for row in rows] == ODD_TEXTS
    assert [row["body"] for row in rows] == [f"body {i}" for i in range(len(ODD_TEXTS))]
    assert [row["_key"] for row in rows] == [f"k{i}" for i in range(len(ODD_TEXTS))]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_columns_are_the_datasets_then_ours_and_no_position(tmp_path: Path, suffix: str) -> None:
    put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], suffix)
    (row,) = read_back(tmp_path / "out" / f"table{suffix}")
    assert list(row) == ["body", *(column.name for column in COLUMNS)]


def test_null_and_empty_text_are_kept_apart_everywhere(tmp_path: Path) -> None:
    snapshot = plain_snapshot(tmp_path, 2)
    put(tmp_path, snapshot, [record(0, _answer=""), record(1, _answer=None)], *SUFFIXES)
    for suffix in (".parquet", ".jsonl", ".db"):
        assert [row["_answer"] for row in read_back(tmp_path / "out" / f"table{suffix}")] == ["", None]
    lines = (tmp_path / "out" / "table.csv").read_text().split("\n")
    assert lines[1].startswith('body 0,k0,succeeded,"",')
    assert lines[2].startswith("body 1,k1,succeeded,,")


TYPED = """
SELECT 0 AS _position, 'k0' AS _key, DATE '2024-02-29' AS day, TIMESTAMP '2024-02-29 12:00:00.25' AS local,
 TIMESTAMPTZ '2024-02-29 12:00:00+02' AS zoned, 12345678901234567.10::DECIMAL(38,2) AS price,
 'nan'::DOUBLE AS nan, '-inf'::DOUBLE AS inf, 0.1::DOUBLE AS tenth, 9223372036854775807 AS big,
 18446744073709551615::UBIGINT AS huge, true AS flag, '\\x00\\xFF'::BLOB AS bytes, TIME '23:59:59' AS clock,
 {'a': [1.50::DECIMAL(4,2)], 't': TIMESTAMP '2024-01-01 00:00:00', 'n': 'nan'::DOUBLE,
  'b': '\\x01'::BLOB} AS nested,
 ['x', NULL, 'y"z'] AS list, map {'k': 1} AS map,
 '00000000-0000-0000-0000-00000000000a'::UUID AS id,
 [[1, 2], NULL, []] AS lists, [{'w': TIMESTAMPTZ '2024-01-01 00:00:00+00'}] AS structs
UNION ALL SELECT 1, 'k1', NULL, NULL,
 NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
 NULL, NULL, NULL ORDER BY 1
"""


def typed_rows(tmp_path: Path, suffix: str) -> list[dict[str, Any]]:
    put(tmp_path, make_snapshot(tmp_path, TYPED), [record(0), record(1)], suffix)
    return read_back(tmp_path / "out" / f"table{suffix}")


def test_parquet_keeps_every_type(tmp_path: Path) -> None:
    first, second = typed_rows(tmp_path, ".parquet")
    assert first["day"] == date(2024, 2, 29)
    assert first["price"] == Decimal("12345678901234567.10")
    assert math.isnan(first["nan"])
    assert first["zoned"] == datetime(2024, 2, 29, 10, tzinfo=UTC)
    assert first["nested"]["a"] == [Decimal("1.50")]
    assert first["bytes"] == b"\x00\xff"
    assert second["nested"] is None
    assert second["list"] is None
    with closing(duckdb.connect()) as engine:
        before = engine.execute(f"DESCRIBE SELECT * FROM '{tmp_path / 'snapshot.parquet'}'").fetchall()
        after = engine.execute(f"DESCRIBE SELECT * FROM '{tmp_path / 'out' / 'table.parquet'}'").fetchall()
    assert [row[:2] for row in before[2:]] == [row[:2] for row in after[: len(before) - 2]]


def test_jsonl_writes_types_as_json_can_say_them(tmp_path: Path) -> None:
    first, second = typed_rows(tmp_path, ".jsonl")
    line = (tmp_path / "out" / "table.jsonl").read_text()
    assert '"price":12345678901234567.10,' in line
    assert first["huge"] == 18446744073709551615
    assert (first["day"], first["local"], first["zoned"]) == (
        "2024-02-29",
        "2024-02-29T12:00:00.25",
        "2024-02-29T10:00:00Z",
    )
    assert (first["nan"], first["inf"], first["tenth"]) == (None, None, 0.1)
    assert first["bytes"] == "AP8="
    assert first["nested"] == {"a": [1.5], "t": "2024-01-01T00:00:00", "n": None, "b": "AQ=="}
    assert (first["list"], first["map"], first["lists"]) == (["x", None, 'y"z'], {"k": 1}, [[1, 2], None, []])
    assert first["structs"] == [{"w": "2024-01-01T00:00:00Z"}]
    assert [value for name, value in second.items() if name not in record(1)] == [None] * (len(second) - 3)


@pytest.mark.parametrize("suffix", [".csv", ".db"])
def test_csv_and_sqlite_write_nested_values_as_json_text(tmp_path: Path, suffix: str) -> None:
    first, second = typed_rows(tmp_path, suffix)
    assert json.loads(first["nested"]) == {"a": [1.5], "t": "2024-01-01T00:00:00", "n": None, "b": "AQ=="}
    assert json.loads(first["list"]) == ["x", None, 'y"z']
    assert json.loads(first["map"]) == {"k": 1}
    assert first["price"] == "12345678901234567.10"
    assert first["huge"] == "18446744073709551615"
    assert first["local"] == "2024-02-29T12:00:00.25"
    assert first["zoned"] == "2024-02-29T10:00:00Z"
    assert second["nested"] == ("" if suffix == ".csv" else None)
    if suffix == ".db":
        assert (first["bytes"], first["tenth"], first["big"], first["flag"]) == (
            b"\x00\xff",
            0.1,
            2**63 - 1,
            1,
        )
        assert (first["nan"], first["inf"]) == (None, -math.inf)
    else:
        assert (first["bytes"], first["tenth"], first["nan"], first["flag"]) == ("AP8=", "0.1", "nan", "true")


SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"type": "string"},
        "count": {"type": "integer"},
        "score": {"type": "number"},
        "sure": {"type": ["boolean", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object"},
    },
}


def test_schema_fields_become_typed_columns(tmp_path: Path) -> None:
    columns = lineage_columns(SCHEMA, "a_", embeddings=True)
    fields = {
        "a_label": "spam",
        "a_count": -(2**63),
        "a_score": 1e-300,
        "a_sure": False,
        "a_tags": ["x", "y\n"],
        "a_more": {"deep": [1, {"x": None}]},
        "_embedding": [0.1, -2.5],
    }
    put(tmp_path, plain_snapshot(tmp_path, 2), [record(0, **fields), record(1)], *SUFFIXES, columns=columns)
    parquet, empty = read_back(tmp_path / "out" / "table.parquet")
    assert {name: parquet[name] for name in fields} == {**fields, "a_more": '{"deep":[1,{"x":null}]}'}
    assert {empty[name] for name in fields} == {None}
    jsonl, _ = read_back(tmp_path / "out" / "table.jsonl")
    assert {name: jsonl[name] for name in fields} == fields
    sqlite, _ = read_back(tmp_path / "out" / "table.db")
    assert json.loads(sqlite["a_tags"]) == ["x", "y\n"]
    assert json.loads(sqlite["a_more"]) == fields["a_more"]
    assert sqlite["a_count"] == -(2**63)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("depth", [200, 246, 250, 254, 255, 1_000])
def test_an_answer_that_is_nested_too_deeply_fails_no_table(tmp_path: Path, depth: int, repeats: int) -> None:
    text = '{"label":"deep","more":' + "[" * depth + "]" * depth + "}"
    fields = fields_of(text, SCHEMA)
    assert not isinstance(fields, str)
    columns = lineage_columns(SCHEMA, "", embeddings=False)
    lineage = [record(0, _answer=text, _repeat=at + 1, **fields) for at in range(repeats)]
    put(tmp_path, plain_snapshot(tmp_path, 1), lineage, *SUFFIXES, columns=columns)
    rows = read_back(tmp_path / "out" / "table.parquet")
    assert [(row["label"], row["_answer"]) for row in rows] == [("deep", text)] * repeats
    assert {row["more"] for row in rows} == {"[" * depth + "]" * depth if depth <= 250 else None}


@pytest.mark.parametrize(
    "given",
    [
        1767225600,
        1767225600.0,
        "2026-01-01T00:00:00Z",
        "2026-01-01T01:00:00+01:00",
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
)
def test_times_are_utc_however_they_are_given(tmp_path: Path, given: object) -> None:
    put(tmp_path, plain_snapshot(tmp_path, 1), [record(0, _answered_at=given)], *SUFFIXES)
    assert read_back(tmp_path / "out" / "table.parquet")[0]["_answered_at"] == datetime(
        2026, 1, 1, tzinfo=UTC
    )
    for suffix in SUFFIXES[1:]:
        (row,) = read_back(tmp_path / "out" / f"table{suffix}")
        assert row["_answered_at"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("given", [1e18, -1e18, "soon", "", [1]])
def test_a_time_that_is_none_does_not_fail_the_table(tmp_path: Path, given: object) -> None:
    put(tmp_path, plain_snapshot(tmp_path, 1), [record(0, _answered_at=given)], ".parquet")
    assert read_back(tmp_path / "out" / "table.parquet")[0]["_answered_at"] is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_inputs_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    rows = 20_000 if suffix == ".db" else 100_000  # Parquet: more than one row group
    snapshot = plain_snapshot(tmp_path, rows)
    digests = {put(tmp_path, snapshot, map(record, range(rows)), suffix).digests for _ in range(2)}
    assert len(digests) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_repeats_stand_beside_the_row_they_repeat(tmp_path: Path, suffix: str) -> None:
    lineage = [
        record(position, _repeat=repeat, _answer=f"{position}/{repeat}")
        for position, repeats in enumerate([1, 3, 2])
        for repeat in range(1, repeats + 1)
    ]
    published = put(tmp_path, plain_snapshot(tmp_path, 3), lineage, suffix)
    rows = read_back(tmp_path / "out" / f"table{suffix}")
    assert published.rows == 6
    assert [row["_answer"] for row in rows] == ["0/1", "1/1", "1/2", "1/3", "2/1", "2/2"]
    assert [row["body"][-1] for row in rows] == ["0", "1", "1", "1", "2", "2"]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("value", ["'x'", "7", "{'0': 'theirs', '_key': 'theirs'}", "'{\"0\": 1}'::JSON"])
def test_whatever_a_datasets_columns_are_called_repeats_keep_their_answers(
    tmp_path: Path, value: str, wide: bool
) -> None:
    names = ("r", "s", "l", "j", "m", "p", "k", "0", "q")
    columns = ", ".join(f'{value} AS "{name}"' for name in names)
    snapshot = make_snapshot(tmp_path, f"SELECT 0 AS _position, 'k0' AS _key, {columns}")
    answers = [text * (5_000 if wide else 1) for text in ("one", "two")]
    lineage = [record(0, _repeat=at + 1, _answer=answer) for at, answer in enumerate(answers)]
    put(tmp_path, snapshot, lineage, ".jsonl")
    rows = read_back(tmp_path / "out" / "table.jsonl")
    assert [(row["_key"], row["_status"], row["_answer"]) for row in rows] == [
        ("k0", "succeeded", answer) for answer in answers
    ]
    assert all(rows[0][name] == rows[1][name] == rows[0]["r"] is not None for name in names)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("repeats", [1, 2])
def test_answers_of_a_megabyte_come_back_whole(tmp_path: Path, suffix: str, repeats: int) -> None:
    def answer(position: int, repeat: int) -> str:
        return f"{position}/{repeat} " + 'é\n"' * 350_000

    count = 48 // repeats  # 67 MB of answers
    snapshot = plain_snapshot(tmp_path, count)
    lineage = (record(p, _answer=answer(p, r), _repeat=r) for p in range(count) for r in range(repeats))
    put(tmp_path, snapshot, lineage, suffix)
    csv.field_size_limit(10_000_000)
    rows = read_back(tmp_path / "out" / f"table{suffix}")
    assert [row["_answer"] for row in rows] == [answer(p, r) for p in range(count) for r in range(repeats)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_dataset_without_rows_gives_a_table_without_rows(tmp_path: Path, suffix: str) -> None:
    published = put(tmp_path, plain_snapshot(tmp_path, 0), [], suffix)
    assert published.rows == 0
    assert read_back(tmp_path / "out" / f"table{suffix}") == []


def test_several_targets_hold_the_same_rows(tmp_path: Path) -> None:
    published = put(tmp_path, plain_snapshot(tmp_path, 50), map(record, range(50)), *SUFFIXES)
    answers = [[row["_answer"] for row in read_back(path)] for path in published.paths]
    assert answers == [[f"answer {i}" for i in range(50)]] * 4


def test_csv_safe_defuses_formulas_and_nothing_else(tmp_path: Path) -> None:
    texts = ["=1", "+1", "-x", "@a", "\tb", "\rc", "a=1", "", "'=", " =1"]
    lineage = [record(i, _answer=text, _cost=-1.5) for i, text in enumerate(texts)]
    put(tmp_path, plain_snapshot(tmp_path, len(texts)), lineage, ".csv", ".jsonl", csv_safe=True)
    rows = read_back(tmp_path / "out" / "table.csv")
    assert [row["_answer"] for row in rows] == ["'=1", "'+1", "'-x", "'@a", "'\tb", "'\rc", *texts[6:]]
    assert {row["_cost"] for row in rows} == {"-1.5"}
    assert [row["_answer"] for row in read_back(tmp_path / "out" / "table.jsonl")] == texts


def test_odd_column_names_are_kept(tmp_path: Path) -> None:
    snapshot = make_snapshot(
        tmp_path,
        '''SELECT 0 AS _position, 'k0' AS _key,
        1 AS "a ""b""", 2 AS "it's", 3 AS "select", 4 AS "p", 5 AS "é\n" ''',
    )
    put(tmp_path, snapshot, [record(0)], *SUFFIXES)
    for suffix in SUFFIXES:
        (row,) = read_back(tmp_path / "out" / f"table{suffix}")
        assert list(row)[:5] == ['a "b"', "it's", "select", "p", "é\n"]
        assert [int(value) for value in list(row.values())[:5]] == [1, 2, 3, 4, 5]


def test_sqlite_declares_types_and_marks_the_file_as_ours(tmp_path: Path) -> None:
    put(tmp_path, plain_snapshot(tmp_path, 1), [record(0)], ".db")
    with closing(sqlite3.connect(tmp_path / "out" / "table.db")) as database:
        declared = {row[1]: row[2] for row in database.execute("PRAGMA table_info(results)")}
        assert (declared["_key"], declared["_cost"], declared["_attempts"]) == ("TEXT", "REAL", "INTEGER")
        assert database.execute("PRAGMA application_id").fetchone() == (0x52554E52,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
