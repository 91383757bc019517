"""What Python wrote comes back equal and in order; keys are injective; ranges join to the whole."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.dataset import read_rows
from tests.contract.dataset_factories import keys_of, rows_of, take, write
from tests.lent_duckdb import lent_connections

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.lists(
    st.text("abcdefgh_ éß", min_size=1, max_size=6), min_size=1, max_size=5, unique_by=str.casefold
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
)
FEW = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def shared_connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a connection does by itself is not what is tried here."""
    with lent_connections(tmp_path_factory.mktemp("lent")):
        yield


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[Any]) -> list[dict[str, Any]]:
    """Rows with the same columns; each column of one strategy."""
    names = draw(NAMES)
    row = st.tuples(*[cells] * len(names)).map(lambda values: dict(zip(names, values, strict=True)))
    return draw(st.lists(row, min_size=1, max_size=12))


def _csv_bytes(rows: list[dict[str, Any]], terminator: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=terminator, quoting=csv.QUOTE_ALL)
    writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    return text.getvalue().encode()


@FEW
@given(rows=tables(TEXTS.map(lambda text: f"t{text}")), terminator=st.sampled_from(["\n", "\r\n"]))
def test_text_that_the_csv_module_wrote_comes_back(rows: list[dict[str, Any]], terminator: str) -> None:
    with _folder() as folder:
        path = write(folder / "a.csv", _csv_bytes(rows, terminator))
        assert rows_of(take(path, into=folder)) == rows


@FEW
@given(rows=tables(st.one_of(st.integers(), st.floats(), TEXTS).map(str)))
def test_whatever_type_a_csv_column_gets_its_text_can_be_got_back(rows: list[dict[str, Any]]) -> None:
    with _folder() as folder:
        path = write(folder / "a.csv", _csv_bytes(rows, "\n"))
        for row, found in zip(rows, rows_of(take(path, into=folder)), strict=True):
            for name, cell in row.items():
                assert _as_text(found[name], cell) == cell


def _as_text(value: object, cell: str) -> str:
    """The value as it was written: a whole number in a column of fractions was written without `.0`."""
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, bool):
        return cell if text.lower() == cell.lower() else text
    return cell if isinstance(value, float) and text in (cell.lower(), f"{cell}.0") else text


@FEW
@given(rows=tables(st.one_of(SCALARS, st.lists(TEXTS, max_size=3))))
def test_records_that_the_json_module_wrote_come_back(rows: list[dict[str, Any]]) -> None:
    with _folder() as folder:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        found = rows_of(take(write(folder / "a.jsonl", lines), into=folder))
        assert len(found) == len(rows)
        for row, other in zip(rows, found, strict=True):
            for name, value in row.items():
                assert _is_same(value, other[name])


def _is_same(value: object, found: object) -> bool:
    """Equal; or a number in a column that needed another kind of number, or exact text for large ones."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(found, str):
        return float(found) == float(value)
    if isinstance(value, int) and isinstance(found, float):
        return float(value) == found
    return value == found and isinstance(value, bool) == isinstance(found, bool)


@FEW
@given(
    rows=st.lists(
        st.tuples(st.text("a|\\b", max_size=4), st.text("a|\\b", max_size=4)), unique=True, min_size=1
    )
)
def test_different_rows_have_different_keys(rows: list[tuple[str, str]]) -> None:
    with _folder() as folder:
        lines = "".join(json.dumps({"a": one, "b": two}) + "\n" for one, two in rows)
        keys = keys_of(take(write(folder / "a.jsonl", lines), into=folder, key=("a", "b")))
        assert len(set(keys)) == len(rows)


@FEW
@given(data=st.data(), rows=st.lists(st.sampled_from(["x", "y", "z", "1"]), min_size=1, max_size=30))
def test_reordering_keeps_the_set_of_content_keys(data: st.DataObject, rows: list[str]) -> None:
    with _folder() as folder:
        shuffled = data.draw(st.permutations(rows))
        one, two = (
            keys_of(take(write(folder / f"{name}.csv", "v\n" + "\n".join(order) + "\n"), into=folder))
            for name, order in (("one", rows), ("two", shuffled))
        )
        assert len(set(one)) == len(rows)
        assert Counter(one) == Counter(two)


@FEW
@given(rows=st.integers(1, 30_000), cuts=st.lists(st.integers(0, 30_000), max_size=5))
def test_ranges_joined_are_the_whole(rows: int, cuts: list[int]) -> None:
    with _folder() as folder:
        path = write(folder / "a.csv", "n\n" + "\n".join(map(str, range(rows))) + "\n")
        snapshot = take(path, into=folder)
        borders = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
        joined = [
            (position, row["n"])
            for start, stop in pairwise(borders)
            for batch in read_rows(snapshot.path, start, stop)
            for position, _, row in batch
        ]
        assert joined == [(number, number) for number in range(rows)]


NUMBERS = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["5.0", "1e3", "-0", "0.1e-7", "9007199254740993", "null"]),
)


@FEW
@given(
    numbers=st.lists(NUMBERS, min_size=1, max_size=5),
    others=st.lists(NUMBERS, min_size=1, max_size=5),
    form=st.sampled_from(["%s", "[%s]", '{"a": %s}', '[{"a": [%s, null]}]']),
)
def test_rows_that_are_added_change_no_number_of_the_rows_before(
    numbers: list[str], others: list[str], form: str
) -> None:
    def rows(texts: list[str]) -> tuple[list[str], list[str]]:
        lines = [f'{{"i": {index}, "v": {form % text}}}\n' for index, text in enumerate(texts)]
        snapshot = take(write(folder / "a.jsonl", "".join(lines)), into=folder)
        keys = keys_of(snapshot) if form == "%s" else []  # content inside is told by its type
        return [repr(row) for row in rows_of(snapshot)], keys

    with _folder() as folder:
        before, keys_before = rows(numbers)
        after, keys_after = rows(numbers + others)
    assert after[: len(numbers)] == before
    assert keys_after[: len(keys_before)] == keys_before
