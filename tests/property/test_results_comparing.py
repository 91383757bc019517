"""Whatever two tables hold, their comparison accounts for every row of both, as plain dicts would."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.results import compare_tables

Table = dict[tuple[str, int], str | None]
tables = st.dictionaries(
    st.tuples(st.sampled_from("abcde'é \n"), st.integers(1, 2)),
    st.none() | st.sampled_from(["", "x", "y", "NULL"]),
    max_size=8,
)


def written(path: Path, table: Table) -> Path:
    with duckdb.connect() as engine:
        engine.execute(
            "CREATE TABLE t (_key VARCHAR, _status VARCHAR, _answer VARCHAR, _finish_reason VARCHAR, "
            "_error_class VARCHAR, _repeat BIGINT)"
        )
        for (key, repeat), answer in table.items():
            engine.execute("INSERT INTO t VALUES (?, 'succeeded', ?, 'stop', NULL, ?)", [key, answer, repeat])
        engine.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    return path


@settings(max_examples=25, deadline=None)
@given(before=tables, after=tables)
def test_a_comparison_says_what_a_loop_over_both_would_say(
    tmp_path_factory: pytest.TempPathFactory, before: Table, after: Table
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    sides = [written(folder / f"{n}.parquet", side) for n, side in enumerate((before, after))]
    found = compare_tables(*sides, limit=100)
    both = before.keys() & after.keys()
    changed = [place for place in after if place in both and before[place] != after[place]]
    assert (found.rows_before, found.rows_after) == (len(before), len(after))
    assert (found.equal, found.changed) == (len(both) - len(changed), len(changed))
    assert [(one.key, one.repeat) for one in found.changes] == changed
    assert [(one.key, one.repeat, one.answer) for one in found.additions] == [
        (*place, answer) for place, answer in after.items() if place not in before
    ]
    assert [(one.key, one.repeat) for one in found.removals] == [
        place for place in before if place not in after
    ]
