"""Every DuckDB type comes back from a snapshot as a faithful Python value."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import duckdb
import pytest

from runner.dataset import describe, read_rows, take_snapshot
from tests.contract.dataset_factories import make_manifest, rows_of, take, types_of, write

VALUES: dict[str, object] = {
    "1::TINYINT": 1,
    "18446744073709551615::UBIGINT": 18446744073709551615,
    "99999999999999999999999999999999999999::HUGEINT": 99999999999999999999999999999999999999,
    "7::UHUGEINT": 7,
    "[7::HUGEINT, NULL]": [7, None],
    "1.50::DECIMAL(4,2)": Decimal("1.50"),
    "0.1::DOUBLE": 0.1,
    "'inf'::DOUBLE": math.inf,
    "true": True,
    "'text'": "text",
    "''": "",
    "NULL": None,
    "'a'::ENUM('a', 'b')": "a",
    r"'\xAA\x00'::BLOB": b"\xaa\x00",
    "'550e8400-e29b-41d4-a716-446655440000'::UUID": UUID("550e8400-e29b-41d4-a716-446655440000"),
    "'101'::BIT": "101",
    "DATE '2024-02-29'": date(2024, 2, 29),
    "TIME '10:00:00.5'": time(10, 0, 0, 500_000),
    "TIMESTAMP '2024-01-01 10:00:00.123456'": datetime(2024, 1, 1, 10, 0, 0, 123_456),  # noqa: DTZ001
    "TIMESTAMP_NS '2024-01-01 10:00:00.123456789'": datetime(2024, 1, 1, 10, 0, 0, 123_456),  # noqa: DTZ001
    "TIMESTAMP_S '2024-01-01 10:00:00'": datetime(2024, 1, 1, 10),  # noqa: DTZ001
    "'2024-01-01 10:00:00+02'::TIMESTAMPTZ": datetime(2024, 1, 1, 8, tzinfo=UTC),
    "['2024-01-01 10:00:00+02'::TIMESTAMPTZ]": [datetime(2024, 1, 1, 8, tzinfo=UTC)],
    "'10:00:00+02'::TIMETZ": "10:00:00+02",
    "INTERVAL '1 month 2 days'": "1 month 2 days",
    "[1, NULL, 3]": [1, None, 3],
    "[]::INTEGER[]": [],
    "{'a': 1, 'b': {'c': [NULL, 'x']}}": {"a": 1, "b": {"c": [None, "x"]}},
    "{'a b': INTERVAL 1 DAY}": {"a b": "1 day"},
    "MAP {'k': 1}": {"k": 1},
    "MAP {1: {'z': 2::HUGEINT}}": {1: {"z": 2}},
    "MAP {3::HUGEINT: 'x'}": {3: "x"},
    """'{"a": [1, null]}'::JSON""": {"a": [1, None]},
    "'null'::JSON": None,
    """['1'::JSON, '"x"'::JSON]""": [1, "x"],
    """{'j': '{"b": 1}'::JSON}""": {"j": {"b": 1}},
    "union_value(k := 1)": {"k": 1},
}


@pytest.mark.parametrize("expression", VALUES)
def test_a_value_comes_back_as_what_it_is(expression: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "n\n1\n2\n")
    query = f"SELECT CASE WHEN n = 1 THEN {expression} END AS v FROM dataset"
    snapshot = take(path, into=tmp_path, query=query)
    first, second = (row["v"] for row in rows_of(snapshot))
    assert first == VALUES[expression]
    assert type(first) is type(VALUES[expression])
    assert second is None


@pytest.mark.parametrize("expression", VALUES)
def test_the_columns_say_what_the_snapshot_holds(expression: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "n\n1\n")
    snapshot = take(path, into=tmp_path, query=f"SELECT {expression} AS v")
    with duckdb.connect() as connection:
        held = connection.execute(f"DESCRIBE FROM read_parquet('{snapshot.path}')").fetchall()
    assert [(name, kind) for name, kind, *_ in held] == [
        ("_position", "BIGINT"),
        ("_key", "VARCHAR"),
        *((column.name, column.type) for column in snapshot.columns),
    ]


def test_an_array_of_fixed_size_is_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "n\n1\n")
    snapshot = take(
        path, into=tmp_path, query="SELECT [1, 2]::INTEGER[2] AS v, [[7::HUGEINT]]::HUGEINT[1][1] AS w"
    )
    assert rows_of(snapshot) == [{"v": [1, 2], "w": [[7]]}]
    assert types_of(snapshot) == {"v": "INTEGER[]", "w": "DECIMAL(38,0)[][]"}


def test_nan_stays_nan(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "n\n1\n")
    (row,) = rows_of(take(path, into=tmp_path, query="SELECT 'nan'::DOUBLE AS v"))
    assert math.isnan(row["v"])


def test_a_parquet_file_keeps_its_types_through_the_snapshot(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 1::SMALLINT AS s, DATE '2024-01-01' AS d, 1.5::DECIMAL(9,3) AS m, "
            f"{{'a': [1]}} AS n, '{{}}'::JSON AS j) TO '{tmp_path}/in.parquet'"
        )
    snapshot = take(tmp_path / "in.parquet", into=tmp_path)
    assert types_of(snapshot) == {
        "s": "SMALLINT",
        "d": "DATE",
        "m": "DECIMAL(9,3)",
        "n": "STRUCT(a INTEGER[])",
        "j": "JSON",
    }
    assert rows_of(snapshot) == [
        {"s": 1, "d": date(2024, 1, 1), "m": Decimal("1.500"), "n": {"a": [1]}, "j": {}}
    ]
    assert describe(make_manifest(tmp_path / "in.parquet")) == snapshot.columns


def test_parquet_files_with_different_columns_are_joined_by_name(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 1 AS a, 'x' AS b) TO '{tmp_path}/1.parquet'")
        connection.execute(f"COPY (SELECT 2.5::DOUBLE AS a, true AS c) TO '{tmp_path}/2.parquet'")
    assert rows_of(take(tmp_path / "?.parquet", into=tmp_path)) == [
        {"a": 1.0, "b": "x", "c": None},
        {"a": 2.5, "b": None, "c": True},
    ]


def test_a_snapshot_in_the_place_of_another_is_read_afresh(tmp_path: Path) -> None:
    target = tmp_path / "s.parquet"
    for content in ("1", "2"):
        path = write(tmp_path / "a.csv", f"n\n{content}\n")
        take_snapshot(make_manifest(path, key="n"), target, scratch=tmp_path)
        assert list(read_rows(str(target), 0, 9)) == [[(0, content, {"n": int(content)})]]


def test_rows_come_in_batches_and_ranges_beyond_the_end_are_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "n\n" + "\n".join(map(str, range(5_000))) + "\n")
    snapshot = take(path, into=tmp_path, key="n")
    batches = list(read_rows(snapshot.path, 1_000, 4_500, batch_rows=1_500))
    assert [len(batch) for batch in batches] == [1_500, 1_500, 500]
    assert batches[0][0] == (1_000, "1000", {"n": 1_000})
    assert batches[-1][-1] == (4_499, "4499", {"n": 4_499})
    assert list(read_rows(snapshot.path, 5_000, 9_000)) == []
    assert list(read_rows(snapshot.path, 7, 7)) == []


_OF_THE_ZONE = """
import sys
from pathlib import Path
from runner.dataset import read_rows
from tests.contract.dataset_factories import take

query = "WITH zoned AS (SELECT id, t::TIMESTAMPTZ AS z FROM dataset) "
query += "SELECT id, z AS t, [z] AS ts, CAST(z AS VARCHAR) AS text FROM zoned"
folder = Path(sys.argv[1])
snapshot = take(folder / "rows.csv", into=folder, query=query, key="id")
print([row for batch in read_rows(snapshot.path, 0, 9) for row in batch])
"""


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_the_zone_of_the_machine_changes_no_value(tmp_path: Path, zone: str) -> None:
    write(tmp_path / "rows.csv", "id,t\na,2024-03-31 03:30:00+00\nb,\n")
    done = subprocess.run(
        [sys.executable, "-c", _OF_THE_ZONE, str(tmp_path)],
        env={**os.environ, "TZ": zone, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    moment = "datetime.datetime(2024, 3, 31, 3, 30, tzinfo=datetime.timezone.utc)"
    assert f"'t': {moment}, 'ts': [{moment}], 'text': '2024-03-31 03:30:00+00'" in done.stdout
    assert "'t': None" in done.stdout
