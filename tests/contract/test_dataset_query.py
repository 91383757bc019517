"""`dataset.query`: one SELECT over `dataset`, in its own order, and no way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.dataset import describe
from runner.errors import InputError
from tests.contract.dataset_factories import make_manifest, mistakes_of, rows_of, take, types_of, write


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three rows."""
    return write(tmp_path / "a.csv", "id,x,body\n007,2,b\n008,3,a\n010,1,\n")


ALLOWED = {
    "SELECT id FROM dataset WHERE x > 1": ["007", "008"],
    "SELECT id FROM dataset ORDER BY x;": ["010", "007", "008"],
    "select id from dataset order by x desc -- the largest first;": ["008", "007", "010"],
    "-- a comment\n/* another; */ FROM dataset SELECT id ; ; -- the end;": ["007", "008", "010"],
    "WITH one AS (SELECT * FROM dataset LIMIT 1) SELECT id FROM one": ["007"],
    "SELECT id || ';' || ')' AS id FROM dataset LIMIT 1": ["007;)"],
    "(SELECT id FROM dataset LIMIT 1) UNION ALL SELECT 'z'": ["007", "z"],
    "SELECT max(id) AS id FROM dataset": ["010"],
    "VALUES ('v')": ["v"],
    "SELECT id FROM dataset TABLESAMPLE reservoir(100 ROWS) REPEATABLE (1) ORDER BY id": [
        "007",
        "008",
        "010",
    ],
}


@pytest.mark.parametrize("query", ALLOWED)
def test_a_query_decides_rows_and_order(query: str, table: Path, tmp_path: Path) -> None:
    assert [next(iter(row.values())) for row in rows_of(take(table, into=tmp_path, query=query))] == ALLOWED[
        query
    ]


def test_the_order_of_a_large_sort_is_kept(tmp_path: Path) -> None:
    numbers = [(number * 7_919) % 100_003 for number in range(100_003)]
    path = write(tmp_path / "a.csv", "n\n" + "\n".join(map(str, numbers)) + "\n")
    found = rows_of(take(path, into=tmp_path, query="SELECT n FROM dataset ORDER BY n DESC"))
    assert [row["n"] for row in found] == sorted(numbers, reverse=True)


def test_rows_without_an_order_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    numbers = [(number * 7_919) % 100_003 for number in range(100_003)]
    path = write(tmp_path / "a.csv", "n\n" + "\n".join(map(str, numbers)) + "\n")
    found = rows_of(take(path, into=tmp_path, query="SELECT n FROM dataset WHERE n % 2 = 0"))
    assert [row["n"] for row in found] == [number for number in numbers if number % 2 == 0]


def test_parameters_are_bound_and_not_pasted(table: Path, tmp_path: Path) -> None:
    query = "SELECT id, $hostile AS h, $count + x AS n FROM dataset WHERE x < $count"
    hostile = "'); DROP VIEW dataset; --"
    snapshot = take(
        table, into=tmp_path, query=query, parameters={"hostile": hostile, "count": 2, "unused": [1]}
    )
    assert rows_of(snapshot) == [{"id": "010", "h": hostile, "n": 3}]


def test_a_parameter_without_a_value_is_a_mistake(table: Path, tmp_path: Path) -> None:
    found = mistakes_of(table, into=tmp_path, query="SELECT $a, $b", parameters={"b": 1, "c": 2})
    assert found == ["m.yaml:5:10: dataset.query: $a has no value; known: b, c"]
    assert mistakes_of(table, into=tmp_path, query="SELECT ?") == [
        "m.yaml:5:10: dataset.query: $1 has no value"
    ]


MISTAKES = {
    "SELEC id FROM dataset": 'syntax error at or near "SELEC" (query line 1, column 1)',
    "SELECT 1; SELECT 2": "2 statements where one SELECT is expected",
    "": "no statement where one SELECT is expected",
    "-- nothing": "no statement where one SELECT is expected",
    "DROP VIEW dataset": "a DROP statement where one SELECT is expected",
}


@pytest.mark.parametrize("query", MISTAKES)
def test_a_mistake_in_the_query_is_told_with_its_place(query: str, table: Path, tmp_path: Path) -> None:
    assert mistakes_of(table, into=tmp_path, query=query) == [
        f"m.yaml:5:10: dataset.query: {MISTAKES[query]}"
    ]
    with pytest.raises(InputError):
        describe(make_manifest(table, query=query))


def test_an_unknown_column_is_told_with_those_that_are_known(table: Path, tmp_path: Path) -> None:
    (found,) = mistakes_of(table, into=tmp_path, query="SELECT *\nFROM dataset\nWHERE boddy = 3")
    said, _, place = found.partition(" (")
    known, _, bindings = said.partition(" Candidate bindings: ")
    assert known == 'm.yaml:5:10: dataset.query: Referenced column "boddy" not found in FROM clause!'
    assert '"body"' in bindings
    assert place == "query line 3, column 7)"


def test_no_secrets_of_the_user_are_seen(table: Path, tmp_path: Path) -> None:
    assert rows_of(take(table, into=tmp_path, query="FROM duckdb_secrets()")) == []


def test_a_mistake_that_shows_only_in_the_rows_is_told(table: Path, tmp_path: Path) -> None:
    (found,) = mistakes_of(table, into=tmp_path, query="SELECT CAST(body AS INTEGER) AS n FROM dataset")
    assert found.startswith("m.yaml:5:10: dataset.query: Could not convert string 'b' to INT32")


def test_a_number_that_no_column_of_the_snapshot_can_hold_is_told(table: Path, tmp_path: Path) -> None:
    query = "SELECT 170141183460469231731687303715884105727::HUGEINT AS h"
    (found,) = mistakes_of(table, into=tmp_path, query=query)
    assert found.startswith(
        "m.yaml:5:10: dataset.query: Could not cast value 1701411834604692317316873037158841057"
    )
    assert "DECIMAL(38,0)" in found


ESCAPES = [
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM glob('/**')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query('COPY dataset TO ''{written}''')",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x')",
    "SELECT * FROM read_csv('s3://bucket/x')",
    "SELECT getenv('HOME')",
    "SELECT * FROM sqlite_scan('{secret}', 'x')",
    "SELECT (SELECT content FROM read_text('{secret}')) FROM dataset",
    "SELECT 1) TO '{written}' (FORMAT csv); --",
    "SELECT 1)) TO '{written}' --",
    "SELECT 1 /*",
    "SELECT 1; DROP VIEW dataset",
    "SELECT 1; COPY dataset TO '{written}'",
    "COPY dataset TO '{written}'",
    "COPY (SELECT 1) TO '{written}'",
    "EXPORT DATABASE '{written}'",
    "ATTACH '{written}'",
    "CREATE TABLE t AS SELECT 1",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "CHECKPOINT",
    "EXPLAIN ANALYZE SELECT 1",
    "WITH x AS (INSERT INTO dataset VALUES (1) RETURNING *) SELECT * FROM x",
    "SELECT * FROM secret_rows",
]


@pytest.mark.parametrize("query", ESCAPES)
def test_a_query_reads_nothing_but_the_dataset_and_writes_nothing(
    query: str, table: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    secret, written = write(folder / "secret.csv", "token\nhunter2\n"), folder / "written"
    secret_rows = [("hunter2",)]  # a Python variable that DuckDB would find, if it were allowed to look
    text = query.format(secret=secret, folder=folder, written=written)
    (found,) = mistakes_of(table, into=tmp_path, query=text)
    assert found.startswith("m.yaml:5:10: dataset.query: ")
    assert "hunter2" not in found
    assert [path.name for path in folder.iterdir()] == ["secret.csv"]
    assert secret_rows


def test_a_query_that_reaches_for_a_file_is_told_what_is_allowed(table: Path, tmp_path: Path) -> None:
    assert mistakes_of(table, into=tmp_path, query="SELECT * FROM read_text('/etc/hostname')") == [
        (
            'm.yaml:5:10: dataset.query: Cannot access file "/etc/hostname" (query line 1, column 15); '
            "a query may only read `dataset`; name its files in dataset.path"
        )
    ]


def test_a_query_over_several_files_sees_one_table(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", '{"a": 1}\n')
    write(tmp_path / "2.jsonl", '{"a": 2, "b": "x"}\n')
    snapshot = take(tmp_path / "*.jsonl", into=tmp_path, query="SELECT sum(a) AS a, max(b) AS b FROM dataset")
    assert rows_of(snapshot) == [{"a": 3, "b": "x"}]
    assert types_of(snapshot) == {"a": "DECIMAL(38,0)", "b": "VARCHAR"}
