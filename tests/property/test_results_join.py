"""Any lineage in position order, for any snapshot: each row exactly once, with its own answer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import RunnerError
from tests.contract.results_factories import SUFFIXES, make_snapshot, put, read_back

pytestmark = pytest.mark.usefixtures("lent_duckdb")

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(
    st.tuples(TEXTS.filter(bool), st.lists(st.none() | TEXTS, min_size=1, max_size=3)), max_size=12
)


def snapshot_of(folder: Path, keys: list[str]) -> str:
    def literal(key: str) -> str:
        return "decode(from_hex('" + key.encode().hex() + "'))"

    values = ", ".join(f"({i}, {literal(key)}, {i * 7})" for i, key in enumerate(keys))
    source = f"(VALUES {values})" if keys else "(SELECT 0, '', 0 WHERE false)"
    return make_snapshot(folder, f"SELECT * FROM {source} t(_position, _key, own) ORDER BY 1")


def lineage_of(rows: list[tuple[str, list[str | None]]]) -> list[dict[str, Any]]:
    return [
        {"_position": position, "_key": key, "_status": "succeeded", "_answer": answer, "_repeat": repeat}
        for position, (key, answers) in enumerate(rows)
        for repeat, answer in enumerate(answers)
    ]


@settings(deadline=None, max_examples=25)
@given(ROWS)
def test_each_row_stands_there_once_with_its_own_answers(rows: list[tuple[str, list[str | None]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lineage = lineage_of(rows)
        published = put(folder, snapshot_of(folder, [key for key, _ in rows]), lineage, *SUFFIXES)
        assert published.rows == len(lineage)
        for path in published.paths:
            shown = [
                (int(row["own"]), row["_key"], row["_answer"], int(row["_repeat"])) for row in read_back(path)
            ]
            expected = [
                (
                    r["_position"] * 7,
                    r["_key"],
                    ("" if path.suffix == ".csv" else None) if r["_answer"] is None else r["_answer"],
                    r["_repeat"],
                )
                for r in lineage
            ]
            assert shown == expected


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_changed_lineage_is_refused_and_the_old_table_stays(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 8), label="rows")
    keys = [f"key {i}" for i in range(count)]
    lineage = lineage_of([(key, [key.upper()]) for key in keys])
    place = data.draw(st.integers(0, count - 1), label="place")
    match data.draw(st.sampled_from(["shuffle", "lack", "double", "foreign", "swap keys"]), label="change"):
        case "shuffle":
            changed = data.draw(st.permutations(lineage).filter(lambda order: order != lineage))
        case "lack":
            changed = lineage[:place] + lineage[place + 1 :]
        case "double":
            changed = [*lineage, lineage[place] | {"_position": count}]
        case "foreign":
            changed = [row | ({"_key": "stranger"} if i == place else {}) for i, row in enumerate(lineage)]
        case _:
            changed = [row | {"_key": keys[(i + 1) % count]} for i, row in enumerate(lineage)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshot = snapshot_of(folder, keys)
        (path,) = put(folder, snapshot, lineage, ".jsonl").paths
        before = path.read_bytes()
        with pytest.raises(RunnerError, match="a fault of this program"):
            put(folder, snapshot, changed, ".jsonl")
        assert path.read_bytes() == before
        assert [child.name for child in path.parent.iterdir()] == [path.name]
