"""Places of a snapshot that hold what they held: whoever reads them, reads the same."""

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
        differs = differing_places(now_path, then_path, rows=len(now), columns=columns, scratch=folder)
        then_rows, now_rows = (_read(path, columns) for path in (then_path, now_path))
        if differs is None:
            return
        assert len(differs) == len(now)
        for differ, one, other in zip(differs, then_rows, now_rows, strict=True):
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


def test_a_snapshot_that_is_gone_or_of_another_shape_tells_nothing() -> None:
    folder = Path(tempfile.mkdtemp())
    now = _snapshot(folder, "now", [{"a": 1, "b": 2}])
    gone = str(folder / "gone.parquet")
    assert differing_places(now, gone, rows=1, columns=None, scratch=folder) is None
    other = _snapshot(folder, "other", [{"a": "1", "b": 2}])
    assert differing_places(now, other, rows=1, columns=None, scratch=folder) is None
    assert differing_places(now, other, rows=1, columns={"b"}, scratch=folder) == bytearray([0])
    assert differing_places(now, other, rows=1, columns={"b", "c"}, scratch=folder) == bytearray([0])


def test_rows_that_came_or_went_differ() -> None:
    folder = Path(tempfile.mkdtemp())
    rows = [{"a": number, "b": 0} for number in range(3)]
    short, long = _snapshot(folder, "short", rows[:2]), _snapshot(folder, "long", rows)
    assert differing_places(long, short, rows=3, columns=None, scratch=folder) == bytearray([0, 0, 1])
    assert differing_places(short, long, rows=2, columns=None, scratch=folder) == bytearray([0, 0])
