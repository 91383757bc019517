"""The lines that workers make are those that this process makes, and so is all that is found on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.commands import lineage_pool as lineage_pool_module
from runner.commands.lineage_pool import LineageWork, PortionMaker, cut, lineage_workers
from runner.commands.publishing import _lines, _Sums
from runner.commands.raw_answers import RawAnswers
from runner.commands.work import Order
from runner.core.model import Status
from runner.errors import LedgerError
from runner.ledger import Ledger, LedgerPlace, Place, StoredRow, StoredRows
from tests.contract.lineage_factories import SCHEMA, Heard, make_table
from tests.fault.render_factories import render_workers as workers


@pytest.fixture
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that share a request stand in different ranges."""
    monkeypatch.setattr(lineage_pool_module, "_RANGE_ROWS", 12)


@pytest.mark.parametrize(
    ("count", "shape"),
    [(2, {}), (1, {"schema": SCHEMA, "repeats": 3, "prices": None}), (1, {"embeddings": True})],
)
def test_a_table_is_the_same_however_many_make_it(
    tmp_path: Path, short_ranges: None, count: int, shape: dict[str, Any]
) -> None:
    alone = make_table(tmp_path / "alone", 90, **shape)
    together = make_table(tmp_path / "together", 90, **shape)
    here, there = alone.made(0), together.made(count)
    assert there.lines == here.lines
    assert there.totals == here.totals
    assert there.statuses == here.statuses, "what the ledger was told of answers"
    assert together.heard.troubles == alone.heard.troubles == []
    assert workers() == []
    shown = [json.loads(line) for line in here.text.splitlines()]
    assert [line["p"] for line in shown] == list(range(90))
    found = {Status.SUCCEEDED, Status.FAILED, Status.UNACCOUNTED, Status.UNSENDABLE}
    assert set(here.totals.by_status) == found | ({Status.INVALID} if "schema" in shape else set())
    assert here.totals.rows == 90 * shape.get("repeats", 1)
    assert len(here.totals.raw_paths) == 2


def test_tokens_of_a_request_that_rows_of_many_ranges_share_are_counted_once(
    tmp_path: Path, short_ranges: None
) -> None:
    table = make_table(tmp_path / "t", 90)
    made = table.made(0)
    ((wanted,),) = table.project.asked("SELECT sum(input_tokens) FROM attempt")
    assert made.totals.input_tokens == wanted


# ---------------------------------------------------------------- who makes them


def test_few_rows_and_one_processor_start_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_table(tmp_path / "t", 5).project.ledger as ledger:
        monkeypatch.setattr(lineage_pool_module, "processors", lambda: 2)
        assert lineage_workers(ledger, lineage_pool_module.WORTH_ROWS - 1, None) == 0
        assert lineage_workers(ledger, lineage_pool_module.WORTH_ROWS, None) == 1
        assert lineage_workers(ledger, 10**6, 1) == 0
        assert lineage_workers(ledger, 10**6, 3) == 2
        monkeypatch.setattr(lineage_pool_module, "processors", lambda: 64)
        assert lineage_workers(ledger, 10**6, None) == 3, "memory"
        monkeypatch.setattr(lineage_pool_module, "processors", lambda: 1)
        assert lineage_workers(ledger, 10**6, None) == 0


@pytest.mark.parametrize("url", ["postgresql://me:secret@host/db", "sqlite://", "sqlite:///:memory:"])
def test_a_ledger_that_is_no_file_is_told_to_no_process(tmp_path: Path, url: str) -> None:
    place = LedgerPlace(project=tmp_path, folder=tmp_path, url=url)
    ledger = Ledger(place, reader=None, writer=None)  # type: ignore[arg-type]
    assert lineage_workers(ledger, 10**6, 2) == 0


def test_a_ledger_that_a_worker_can_not_read_is_told_in_words(tmp_path: Path) -> None:
    table = make_table(tmp_path / "t", 5)
    with RawAnswers(table.source.folder) as raw:
        pool = table.pool(raw, 0)
        work = LineageWork(table.project.ledger.place, 1, table.source, 0)
        broken = PortionMaker(_Unreadable(), 1, table.source, raw, lambda _: None)  # type: ignore[arg-type]
        (portion,) = broken.make_or_say(Order(2, 4))
        assert (work.end_of(portion), portion.lines) == (2, ())
        there = work.unpack(*work.pack(portion))
        assert there == portion
        pool.pieces = lambda *_: iter([there])  # type: ignore[method-assign]
        with pytest.raises(LedgerError, match="a page is torn") as caught:
            list(_lines(pool, raw, table.project.ledger, _Sums(), Heard()))
        assert caught.value.next_step == "rebuild it"


class _Unreadable:
    def stored_rows(self, *_: int) -> StoredRows:
        raise LedgerError("a page is torn", next_step="rebuild it")


# ---------------------------------------------------------------- portions


LENGTHS = st.lists(st.none() | st.integers(0, 1_400_000), max_size=40)


def rows_of(lengths: list[int | None], start: int) -> StoredRows:
    def row(position: int, length: int | None) -> StoredRow:
        values: list[Any] = [None] * 23
        values[Place.POSITION], values[Place.LENGTH] = position, length
        return tuple(values)

    return StoredRows([row(start + at, length) for at, length in enumerate(lengths)], {}, {})


@given(LENGTHS, st.integers(1, 3), st.data())
def test_portions_hold_whole_rows_and_are_the_same_from_each_cut_on(
    lengths: list[int | None], repeats: int, data: st.DataObject
) -> None:
    lengths = lengths[: len(lengths) // repeats * repeats]
    stored = rows_of(lengths, 6 * repeats)
    parts = list(cut(stored, repeats))
    assert [row for part in parts for row in part.rows] == stored.rows
    for part in parts:
        assert len(part.rows) % repeats == 0
        assert sum(row[Place.LENGTH] or 0 for row in part.rows[:-repeats]) <= 2 << 20
    if parts:
        done = data.draw(st.integers(0, len(parts) - 1), label="portions that came")
        begun = sum(len(part.rows) for part in parts[:done])
        rest = StoredRows(stored.rows[begun:], {}, {})
        assert list(cut(rest, repeats)) == parts[done:]
