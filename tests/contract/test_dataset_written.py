"""What a row renders to and is called hangs on what is written in it, not on numbers in other rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.dataset import Snapshot, read_rows
from tests.contract.dataset_factories import keys_of, rows_of, take, types_of, write

BIG = 2**53 + 1


def _lines(*values: str) -> str:
    return "".join(f'{{"v": {value}, "t": "x"}}\n' for value in values)


def _values(snapshot: Snapshot) -> list[Any]:
    """Each value as Python writes it: 5 and 5.0 are not the same here."""
    return [repr(row["v"]) for row in rows_of(snapshot)]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_a_fraction_leaves_the_whole_numbers_of_other_rows_alone(suffix: str, tmp_path: Path) -> None:
    values = ["5", "-7", "1.5", "5.0", "0", str(BIG)]
    if suffix in ("csv", "tsv"):
        content = "v\n" + "\n".join(values) + "\n"
    else:
        content = _lines(*values) if suffix == "jsonl" else "[" + ",".join(_lines(*values).splitlines()) + "]"
    snapshot = take(write(tmp_path / f"a.{suffix}", content), into=tmp_path)
    assert _values(snapshot) == values
    assert types_of(snapshot)["v"] == "DOUBLE"


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("key", ["v", ""])
def test_a_fraction_leaves_the_keys_of_other_rows_alone(suffix: str, key: str, tmp_path: Path) -> None:
    def keys(*values: str) -> list[str]:
        content = _lines(*values) if suffix == "jsonl" else "v,t\n" + "".join(f"{v},x\n" for v in values)
        return keys_of(take(write(tmp_path / f"a.{suffix}", content), into=tmp_path, key=key or ()))

    before = keys("1", "5", str(BIG))
    assert keys("1", "5", str(BIG), "3.5")[:3] == before
    assert keys("3.5", "2.0")[0] == keys("3.5", "7")[0]


def test_keys_beyond_53_bits_beside_a_fraction_keep_every_digit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", _lines("1.5", "9007199254740993", "9007199254740992", "1" * 38))
    snapshot = take(path, into=tmp_path, key="v")
    assert keys_of(snapshot) == ["1.5", "9007199254740993", "9007199254740992", "1" * 38]
    assert [row["v"] for row in rows_of(snapshot)] == [1.5, 9007199254740993, 9007199254740992, int("1" * 38)]


def test_whole_numbers_inside_objects_and_lists_stay_as_written(tmp_path: Path) -> None:
    records = [
        {"m": {"n": 5, "l": [1, 2.5]}, "e": [0, 0.25], "o": [{"a": 1}, {"a": 1.5, "b": BIG}]},
        {"m": {"n": 1.5}, "e": None, "o": [{"b": 0.5}, {"b": 2**64 + 1, "a": 2.0}]},
        {"m": {"n": 2.0, "l": []}, "e": [3, 4], "o": []},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    snapshot = take(path, into=tmp_path)
    assert [repr(row) for row in rows_of(snapshot)] == [
        repr(
            {"m": {"n": 5, "l": [1, 2.5]}, "e": [0, 0.25], "o": [{"a": 1, "b": None}, {"a": 1.5, "b": BIG}]}
        ),
        repr(
            {"m": {"n": 1.5, "l": None}, "e": None, "o": [{"a": None, "b": 0.5}, {"a": 2.0, "b": 2**64 + 1}]}
        ),
        repr({"m": {"n": 2.0, "l": []}, "e": [3, 4], "o": []}),
    ]
    # What no DOUBLE can hold is JSON; all else is numbers for SQL.
    assert types_of(snapshot) == {
        "m": "STRUCT(n DOUBLE, l DOUBLE[])",
        "e": "DOUBLE[]",
        "o": "STRUCT(a DOUBLE, b JSON)[]",
    }


def test_whole_numbers_inside_beyond_64_bits_keep_every_digit(tmp_path: Path) -> None:
    name = "a \"quoted\\ 'name'"
    records: list[dict[str, Any]] = [
        {"m": {name: 2**64 - 1, "l": [[2**63]]}},
        {"m": {name: 1, "l": [[-1], []]}},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert rows_of(take(path, into=tmp_path)) == records


def test_numbers_of_one_kind_are_stored_without_more(tmp_path: Path) -> None:
    content = "".join(f'{{"i": {n}, "f": {n}.5, "e": [{n}.5], "m": {{"i": {n}}}}}\n' for n in range(3))
    snapshot = take(write(tmp_path / "a.jsonl", content), into=tmp_path)
    assert types_of(snapshot) == {"i": "BIGINT", "f": "DOUBLE", "e": "DOUBLE[]", "m": "STRUCT(i BIGINT)"}
    ((_, _, first),) = next(iter(read_rows(snapshot.path, 0, 1)))
    assert first == {"i": 0, "f": 0.5, "e": [0.5], "m": {"i": 0}}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_query_counts_with_numbers_and_hands_them_on_as_written(suffix: str, tmp_path: Path) -> None:
    content = _lines("5", "1.5", "30") if suffix == "jsonl" else "v,t\n5,x\n1.5,x\n30,x\n"
    path = write(tmp_path / f"a.{suffix}", content)
    query = "SELECT v AS price, v * 2 AS twice, t FROM dataset WHERE v > 1.4 ORDER BY v"
    snapshot = take(path, into=tmp_path, query=query, key="price")
    assert [repr(row["price"]) for row in rows_of(snapshot)] == ["1.5", "5", "30"]
    assert [repr(row["twice"]) for row in rows_of(snapshot)] == ["3.0", "10.0", "60.0"]
    assert keys_of(snapshot) == ["1.5", "5", "30"]
    assert types_of(snapshot) == {"price": "DOUBLE", "twice": "DOUBLE", "t": "VARCHAR"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_query_is_handed_no_number_without_its_digits(suffix: str, tmp_path: Path) -> None:
    content = _lines("1.5", str(BIG)) if suffix == "jsonl" else f"v,t\n1.5,x\n{BIG},x\n"
    path = write(tmp_path / f"a.{suffix}", content)
    snapshot = take(path, into=tmp_path, query="SELECT * FROM dataset", key="v")
    assert keys_of(snapshot) == ["1.5", str(BIG)]
    assert types_of(snapshot)["v"] == "VARCHAR"


def test_a_column_of_the_name_that_the_snapshot_needs_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "_written\n1\n")
    with pytest.raises(Exception, match="_written"):
        take(path, into=tmp_path)


def test_keys_of_mixed_types_are_what_was_written_without_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", _lines("1", '"two"', "2.5", "true", '"say \\"hi\\""'))
    snapshot = take(path, into=tmp_path, key="v")
    assert keys_of(snapshot) == ["1", "two", "2.5", "true", 'say "hi"']
    alone = take(write(tmp_path / "b.jsonl", _lines('"two"')), into=tmp_path)
    mixed = take(write(tmp_path / "c.jsonl", _lines('"two"', "1")), into=tmp_path)
    assert keys_of(alone)[0] == keys_of(mixed)[0]
