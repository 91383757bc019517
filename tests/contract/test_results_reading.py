"""A published table is read back and questioned in the same words, whatever its format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError
from runner.results import lineage_columns, query
from tests.contract.results_factories import SUFFIXES, make_snapshot, put, record

SCHEMA = {"properties": {"tags": {"type": "array", "items": {"type": "string"}}, "score": {"type": "number"}}}


@pytest.fixture(params=SUFFIXES)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    snapshot = make_snapshot(
        tmp_path,
        "SELECT range AS _position, 'k' || range AS _key, '00' || range AS code, range AS number, "
        "'2024-01-0' || (range + 1) AS day FROM range(3)",
    )
    lineage = [
        record(
            0,
            _answer='a "b", c\nd',
            score=0.5,
            tags=["x", "y"],
            _cost=0.25,
            _answered_at="2026-01-01T00:00:00Z",
        ),
        record(1, _answer="", _status="failed"),
        record(2, _answer=None, score=2.0, _cost=1.0),
    ]
    columns = lineage_columns(SCHEMA, "", embeddings=False)
    return put(tmp_path, snapshot, lineage, request.param, columns=columns).paths[0]


def lines(table: Path, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in "".join(query(table, format="jsonl", **options)).split("\n") if line]


def test_jsonl_and_json_show_every_value_in_its_type(table: Path) -> None:
    rows = lines(table)
    assert [row["_answer"] for row in rows] == ['a "b", c\nd', "", None]
    assert [row["code"] for row in rows] == ["000", "001", "002"]
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert [row["score"] for row in rows] == [0.5, None, 2.0]
    assert [row["day"] for row in rows] == ["2024-01-01", "2024-01-02", "2024-01-03"]
    assert rows[0]["_answered_at"] == "2026-01-01T00:00:00Z"
    assert rows[1]["_answered_at"] is None
    assert rows[0]["tags"] in (["x", "y"], '["x","y"]')
    assert json.loads("".join(query(table, format="json"))) == rows


def test_csv_keeps_null_and_empty_text_apart(table: Path) -> None:
    text = "".join(query(table, sql="SELECT _key, _answer FROM results", format="csv"))
    assert text == '_key,_answer\nk0,"a ""b"", c\nd"\nk1,""\nk2,\n'
    assert len(list(csv.reader(io.StringIO(text)))) == 4


def test_where_and_limit_narrow_the_rows(table: Path) -> None:
    assert [row["_key"] for row in lines(table, where="_cost > 0.3 -- dear")] == ["k2"]
    assert [row["_key"] for row in lines(table, where="_status = 'succeeded'", limit=1)] == ["k0"]
    assert [row["_key"] for row in lines(table, where="_answered_at >= '2026-01-01'")] == ["k0"]
    assert lines(table, limit=0) == []
    assert "".join(query(table, format="json", limit=0)) == "[]\n"


def test_sql_asks_anything_of_the_table(table: Path) -> None:
    assert lines(table, sql="SELECT _status, count(*) AS n FROM results GROUP BY 1 ORDER BY 1;") == [
        {"_status": "failed", "n": 1},
        {"_status": "succeeded", "n": 2},
    ]
    assert lines(table, sql="SELECT 1 AS a, 2 AS A, 'nan'::DOUBLE AS x", limit=5) == [
        {"a": 1, "A_1": 2, "x": None}
    ]


def test_the_table_for_people_is_aligned_and_clean(table: Path) -> None:
    text = "".join(
        query(table, sql="SELECT _key, 'x' || chr(27) || '[31m' || repeat('y', 99) AS long FROM results")
    )
    head, rule, *rows = text.split("\n")
    assert head.split() == ["_key", "long"]
    assert set(rule) == {"-", " "}
    assert rows[0].startswith("k0    x[31myyy")
    assert rows[0].endswith("y…")
    assert len(rows[0]) == len(rows[1]) == 46
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW results",
        "SELECT 1; SELECT 2",
        "",
        ";",
        "SELEC",
        "SELECT * FROM nothing",
        "SELECT nothing FROM results",
        "SELECT 'x'::INT FROM results",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY results TO '/tmp/stolen.csv'",
        "INSTALL httpfs",
        "SET threads = 1",
        "ATTACH 'x.db'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_csv('https://example.org/x.csv')",
    ],
)
def test_sql_that_can_not_be_run_is_a_mistake_in_words(table: Path, sql: str) -> None:
    with pytest.raises(InputError) as caught:
        list(query(table, sql=sql, format="jsonl"))
    assert caught.value.mistakes[0].where == "--sql"
    assert caught.value.mistakes[0].what


def test_a_where_that_can_not_be_run_names_its_option(table: Path) -> None:
    with pytest.raises(InputError, match="--where"):
        list(query(table, where="nothing = 1"))


@pytest.mark.parametrize("column", ["_position", "numbr"])
def test_a_column_that_the_table_does_not_have_is_told_with_those_that_it_has(
    table: Path, column: str
) -> None:
    """`_position` is one of the ledger's tables, not of this one."""
    for where, sql in ((f"{column} = 1", None), (None, f"SELECT {column} FROM results")):
        with pytest.raises(InputError) as caught:
            list(query(table, where=where, sql=sql))
        (mistake,) = caught.value.mistakes
        assert mistake.what.startswith(f'Referenced column "{column}" not found')
        assert mistake.hint.startswith("columns: code, number, day, _key, _status, _answer, ")


def test_every_mistake_of_the_options_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        query(tmp_path / "no.csv", sql="SELECT 1", where="true", format="xml", limit=-1)
    assert len(caught.value.mistakes) == 4


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_table_is_a_mistake_in_words(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(b'{"a": \xff\x00' * 200)
    with pytest.raises(InputError):
        list(query(path, sql="SELECT count(*), max(_key) FROM results"))


def test_a_table_without_rows_can_be_read(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path, "SELECT 0 AS _position, 'k' AS _key WHERE false")
    for path in put(tmp_path, snapshot, [], *SUFFIXES).paths:
        assert "".join(query(path, format="jsonl")) == ""
        assert "_key" in "".join(query(path))
