"""Two published tables compared: what came, went, changed, and how often each value stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError
from runner.results import TableComparison, ValueChange, ValueCount, compare_tables, lineage_columns
from tests.contract.results_factories import make_snapshot, put, record

SCHEMA = {"type": "object", "properties": {"category": {"type": "string"}, "score": {"type": "integer"}}}
FIELDS = lineage_columns(SCHEMA, "", embeddings=False)
EMBEDDINGS = lineage_columns(None, "", embeddings=True)


def table(folder: Path, records: list[dict[str, Any]], *, columns: Any = FIELDS) -> Path:
    """A published Parquet table of these records, repeats included."""
    folder.mkdir(parents=True)
    keys = list(dict.fromkeys((one["_position"], one["_key"]) for one in records))
    values = ", ".join(f"({position}, '{key}', 'b')" for position, key in keys)
    select = f"SELECT * FROM (VALUES {values}) AS t(_position, _key, body)"
    put(
        folder,
        make_snapshot(folder, select),
        [{"_repeat": 1, **one} for one in records],
        ".parquet",
        columns=columns,
    )
    return folder / "out" / "table.parquet"


def rows(*answers: str, **fields: Any) -> list[dict[str, Any]]:
    return [record(place, _answer=answer, **fields) for place, answer in enumerate(answers)]


def compared(
    tmp_path: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], limit: int = 5
) -> TableComparison:
    return compare_tables(table(tmp_path / "a", before), table(tmp_path / "b", after), limit=limit)


def test_a_table_is_equal_to_itself(tmp_path: Path) -> None:
    path = table(tmp_path / "a", rows("x", "y"))
    found = compare_tables(path, path, limit=5)
    assert (found.rows_before, found.rows_after, found.equal, found.changed) == (2, 2, 2, 0)
    assert (found.added, found.removed, found.changes, found.additions) == (0, 0, (), ())


def test_rows_are_the_same_by_key_wherever_they_stand(tmp_path: Path) -> None:
    before = [
        record(0, _key="a", _answer="1"),
        record(1, _key="b", _answer="2"),
        record(2, _key="c", _answer="3"),
    ]
    after = [
        record(0, _key="d", _answer="9"),
        record(1, _key="c", _answer="3"),
        record(2, _key="a", _answer="other"),
    ]
    found = compared(tmp_path, before, after)
    assert (found.equal, found.changed, found.added, found.removed) == (1, 1, 1, 1)
    (change,) = found.changes
    assert (change.key, change.values) == ("a", (ValueChange(column="_answer", before="1", after="other"),))
    assert [(one.key, one.answer) for one in found.additions] == [("d", "9")]
    assert [(one.key, one.status) for one in found.removals] == [("b", "succeeded")]


def test_each_repeat_of_a_row_is_compared_with_itself(tmp_path: Path) -> None:
    before = [record(0, _repeat=1, _answer="x"), record(0, _repeat=2, _answer="y")]
    after = [
        record(0, _repeat=1, _answer="x"),
        record(0, _repeat=2, _answer="z"),
        record(0, _repeat=3, _answer="x"),
    ]
    found = compared(tmp_path, before, after)
    assert (found.equal, found.changed, found.added) == (1, 1, 1)
    assert [(one.key, one.repeat) for one in found.changes] == [("k0", 2)]
    assert [(one.key, one.repeat) for one in found.additions] == [("k0", 3)]


def test_a_lost_answer_and_another_status_are_changes(tmp_path: Path) -> None:
    before = rows("x", "")
    after = [record(0, _status="failed", _answer=None, _error_class="server_error"), record(1, _answer=None)]
    found = compared(tmp_path, before, after)
    assert found.changed == 2
    assert found.changes[0].values == (
        ValueChange(column="_status", before="succeeded", after="failed"),
        ValueChange(column="_answer", before="x", after=None),
        ValueChange(column="_error_class", before=None, after="server_error"),
    )
    assert found.changes[1].values == (ValueChange(column="_answer", before="", after=None),)


def test_values_are_counted_for_columns_that_have_few(tmp_path: Path) -> None:
    before = [record(n, _answer=str(n), category="games" if n < 12 else "net", score=n) for n in range(30)]
    after = [record(n, _answer=str(n), category="games" if n < 15 else None, score=n) for n in range(30)]
    counts = compared(tmp_path, before, after).counts
    assert counts == (
        ValueCount(column="_status", value="succeeded", before=30, after=30),
        ValueCount(column="category", value="games", before=12, after=15),
        ValueCount(column="category", value="net", before=18, after=0),
        ValueCount(column="category", value=None, before=0, after=15),
    )


def test_plain_answers_reasons_and_models_are_counted_where_they_are_few(tmp_path: Path) -> None:
    def counted(name: str, *sides: list[dict[str, Any]]) -> dict[Any, tuple[int, int]]:
        columns = lineage_columns(None, "", embeddings=False)
        before, after = (
            table(tmp_path / f"{name} {number}", side, columns=columns) for number, side in enumerate(sides)
        )
        counts = compare_tables(before, after, limit=5).counts
        return {(one.column, one.value): (one.before, one.after) for one in counts}

    usual = {"_finish_reason": "stop", "_model": "m"}
    before = [record(n, _answer="yes" if n < 3 else "no", **usual) for n in range(4)]
    after = [record(n, _answer="yes", **(usual | {"_model": "n"})) for n in range(4)]
    assert counted("few", before, after) == {
        ("_status", "succeeded"): (4, 4),
        ("_answer", "yes"): (3, 4),
        ("_answer", "no"): (1, 0),
        ("_finish_reason", "stop"): (4, 4),
        ("_model", "m"): (4, 0),
        ("_model", "n"): (0, 4),
    }
    texts = [record(n, _answer=f"text {n}") for n in range(4)]
    assert set(counted("many", texts, texts)) == {("_status", "succeeded")}


def test_a_field_that_only_one_table_has_counts_on_its_side(tmp_path: Path) -> None:
    before = table(tmp_path / "a", rows("x"), columns=lineage_columns(None, "", embeddings=False))
    after = table(tmp_path / "b", rows("x", category="net"))
    found = compare_tables(before, after, limit=5)
    assert found.equal == 1
    assert ValueCount(column="category", value="net", before=0, after=1) in found.counts


def test_embeddings_are_answers(tmp_path: Path) -> None:
    def side(name: str, last: float) -> Path:
        embedded = [record(0, _answer=None, _embedding=[0.5] * 9 + [last])]
        return table(tmp_path / name, embedded, columns=EMBEDDINGS)

    same, other = side("a", 0.25), side("b", 0.75)
    assert compare_tables(same, same, limit=5).equal == 1
    found = compare_tables(same, other, limit=5)
    assert (found.equal, found.changed, [one.key for one in found.changes]) == (0, 1, ["k0"])


def test_examples_are_the_first_ones_and_no_more_than_asked_for(tmp_path: Path) -> None:
    before, after = rows(*(f"old {n}" for n in range(50))), rows(*(f"new {n}" for n in range(80)))
    found = compared(tmp_path, before, after, limit=2)
    assert (found.changed, found.added) == (50, 30)
    assert [one.key for one in found.changes] == ["k0", "k1"]
    assert [one.key for one in found.additions] == ["k50", "k51"]


def test_folders_may_have_any_name(tmp_path: Path) -> None:
    before, after = table(tmp_path / "a", rows("x")), table(tmp_path / "b", rows("y"))
    odd = tmp_path / "it's [1] *?"
    odd.mkdir()
    assert (
        compare_tables(before.rename(odd / "a.parquet"), after.rename(odd / "b.parquet"), limit=5).changed
        == 1
    )


@pytest.mark.parametrize("content", [None, b"no parquet"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    good, bad = table(tmp_path / "a", rows("x")), tmp_path / "bad.parquet"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(InputError):
        compare_tables(good, bad, limit=5)


def test_a_parquet_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    good = table(tmp_path / "a", rows("x"))
    foreign = Path(make_snapshot(tmp_path, "SELECT 1 AS a", name="foreign.parquet"))
    with pytest.raises(InputError, match="not a results table"):
        compare_tables(good, foreign, limit=5)
