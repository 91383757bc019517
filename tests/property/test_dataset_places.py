"""Places of a snapshot that hold what they held: whoever reads them, reads the same.

And those that differ read in the file that holds them alone as they do in the snapshot."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.dataset import differing_places, read_rows, take_snapshot
from tests.contract.dataset_factories import make_manifest
from tests.lent_duckdb import lent_connections

CELLS = st.sampled_from([None, 0, 1, 1.0, -0.0, 0.0, 2**60, "1", "", "x", "2024-01-01", True, [1], {"k": 1}])
NUMBERS = st.sampled_from([0, 1, 1.0, -0.0, 0.0, 2.5, None])
ROWS = st.lists(st.fixed_dictionaries({"a": NUMBERS | CELLS, "b": NUMBERS}), min_size=1, max_size=6)


@pytest.fixture(autouse=True, scope="module")
def shared_connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a connection does by itself is not what is tried here."""
    with lent_connections(tmp_path_factory.mktemp("lent")):
        yield


@settings(max_examples=60, deadline=None)
@example(before=[{"a": 0, "b": 0}, {"a": 0, "b": 1.0}], edits=[1.0, *[None] * 5], named=True)
@given(
    before=ROWS,
    edits=st.lists(st.one_of(st.none(), st.none(), NUMBERS), min_size=6, max_size=6),
    named=st.booleans(),
)
def test_a_place_that_does_not_differ_reads_as_it_did(
    before: list[dict[str, Any]], edits: list[float | None], named: bool
) -> None:
    now = [row if edit is None else {**row, "b": edit} for row, edit in zip(before, edits, strict=False)]
    columns = frozenset({"b"}) if named else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        then_path, now_path = (
            _snapshot(folder, word, rows) for word, rows in (("then", before), ("now", now))
        )
        found = differing_places(
            now_path, then_path, rows=len(now), columns=columns, most=len(now), scratch=folder
        )
        then_rows, now_rows = (_read(path, columns) for path in (then_path, now_path))
        if found is None:
            return
        differing = [row for row in now_rows if found.places[row[0]]]
        assert repr(_read(found.path, columns)) == repr(differing)
        assert len(found.places) == len(now)
        for differ, one, other in zip(found.places, then_rows, now_rows, strict=True):
            assert differ or repr(one) == repr(other)
            assert named or not differ or repr(one) != repr(other)


def _snapshot(folder: Path, word: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"{word}.jsonl"
    lines = [json.dumps({"id": f"k{number}", **row}) for number, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n")
    target = folder / f"{word}.parquet"
    take_snapshot(make_manifest(path, key="id"), target, scratch=folder)
    return str(target)


def _read(path: str, columns: frozenset[str] | None) -> list[Any]:
    return [row for batch in read_rows(path, 0, 99, columns=columns) for row in batch]


def _differs(
    now: str, before: str, rows: int, columns: set[str] | None, *, most: int = 9
) -> bytearray | None:
    found = differing_places(now, before, rows=rows, columns=columns, most=most, scratch=Path(now).parent)
    return None if found is None else found.places


def test_a_snapshot_that_is_gone_or_of_another_shape_tells_nothing() -> None:
    folder = Path(tempfile.mkdtemp())
    now = _snapshot(folder, "now", [{"a": 1, "b": 2}])
    assert _differs(now, str(folder / "gone.parquet"), 1, None) is None
    other = _snapshot(folder, "other", [{"a": "1", "b": 2}])
    assert _differs(now, other, 1, None) is None
    assert _differs(now, other, 1, {"b"}) == bytearray([0])
    assert _differs(now, other, 1, {"b", "c"}) == bytearray([0])


def test_rows_that_came_or_went_differ() -> None:
    folder = Path(tempfile.mkdtemp())
    rows = [{"a": number, "b": 0} for number in range(3)]
    short, long = _snapshot(folder, "short", rows[:2]), _snapshot(folder, "long", rows)
    assert _differs(long, short, 3, None) == bytearray([0, 0, 1])
    assert _differs(short, long, 2, None) == bytearray([0, 0])


def test_more_rows_than_wanted_are_not_told_apart() -> None:
    folder = Path(tempfile.mkdtemp())
    before = _snapshot(folder, "before", [{"a": number} for number in range(3)])
    now = _snapshot(folder, "now", [{"a": 7 - number} for number in range(3)])
    assert _differs(now, before, 3, None, most=3) == bytearray([1, 1, 1])
    assert _differs(now, before, 3, None, most=2) is None
