"""Tables of text: widths as a terminal counts them, and a history that fits 80 places."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from runner.cli.columns import cut, padded, table
from runner.cli.history_text import history_text
from runner.cli.sides_text import diff_text
from runner.cli.texts import clean_text, compact
from runner.commands.diffing import DiffResult
from runner.commands.history import PastRun
from runner.results import ChangedAnswer, LoneAnswer, TableComparison, ValueChange, ValueCount

RUN = PastRun(
    run="5b0c3f0e" * 4,
    manifest="manifests/support-tickets.yaml",
    name="support-tickets",
    state="interrupted",
    exit_code=None,
    started_at="2026-11-24T01:12:03Z",
    finished_at="2026-11-25T00:53:03Z",
    duration_s=85_260.0,
    rows=123_456_789,
    requests_sent=123_456_789,
    succeeded=123_450_000,
    failed=6_000,
    unsendable=789,
    input_tokens=98_765_432_100,
    output_tokens=12_345,
    cost=1200.0,
    paid_input_tokens=98_765_432_100,
    paid_output_tokens=12_345,
    paid_cost=1234.5,
    currency="USD",
    changed=("dataset", "template", "params", "model", "schema"),
    model="m",
    version="1",
    git_commit="0123456789abcdef",
    manifest_digest="",
    template_digest="",
    dataset_digest="",
)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (123_456, "123k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_234_567, "1.2M"),
        (9_950_000, "10M"),
        (98_765_432_100, "99B"),
    ],
)
def test_a_compact_number_has_five_places_at_most(number: int, shown: str) -> None:
    assert compact(number) == shown


def test_wide_letters_take_two_places() -> None:
    assert cut("漢字漢字", 5) == "漢字…"
    assert cut("abc", 3) == "abc"
    assert (cut("abcd", 3), cut("abcd", 0)) == ("ab…", "")
    assert padded("漢", 4) == "漢  "
    assert table([("a", "n"), ("漢", "1")], right={1}) == ["a   n", "漢  1"]


def test_an_empty_column_is_left_out() -> None:
    assert table([("a", "b", "c"), ("1", "", "2")]) == ["a  c", "1  2"]


def test_a_longer_text_keeps_its_indentation_and_loses_what_could_repaint_the_screen() -> None:
    assert clean_text("a\x1b[31m\n\n  b\tc\r\nd\u202e") == ["a", "", "  b    c", "d"]


def test_history_fits_80_places_whatever_its_figures() -> None:
    lines = history_text([RUN, replace(RUN, changed=None)], width=80, names_manifests=True)
    assert max(map(cell_len, lines)) <= 80
    assert len(lines) == 1 + 2 * 2
    assert "changed: dataset, template" in lines[2]
    assert "…" not in lines[1]


def test_history_is_one_whole_line_for_each_run_where_nothing_limits_it() -> None:
    lines = history_text([RUN], width=None, names_manifests=False)
    assert len(lines) == 2
    assert "123,456,789" in lines[1]
    assert "1,234.50 USD" in lines[1]
    assert lines[1].endswith("dataset, template, params, model, schema  0123456")
    assert history_text([RUN], width=300, names_manifests=False) == lines


def test_a_diff_fits_its_width_and_shows_where_long_answers_part() -> None:
    long = "the same beginning of a long answer, again and again and again, "
    tables = TableComparison(
        rows_before=1_000,
        rows_after=1_001,
        equal=998,
        changed=2,
        added=1,
        removed=0,
        changes=(
            ChangedAnswer(
                key="k" * 200,
                repeat=2,
                values=(
                    ValueChange(column="_answer", before="{}", after="[]"),
                    ValueChange(column="category", before="games\n", after=None),
                ),
            ),
            ChangedAnswer(
                key="漢",
                repeat=1,
                values=(ValueChange(column="_answer", before=f"{long}old", after=f"{long}new"),),
            ),
        ),
        additions=(LoneAnswer(key="x", repeat=1, status="failed", answer=None),),
        removals=(),
        counts=(
            ValueCount(column="_status", value="succeeded", before=3, after=3),
            ValueCount(column="category", value="games", before=12, after=15),
            ValueCount(column="category", value=None, before=1, after=0),
        ),
    )
    found = DiffResult(
        manifest="m.yaml",
        before="a" * 32,
        after="b" * 32,
        before_started_at="2026-11-24T01:12:03Z",
        after_started_at="2026-11-24T02:12:03Z",
        changed=("template",),
        tables=tables,
    )
    lines = diff_text(found, width=80)
    assert max(map(cell_len, lines)) <= 80
    text = "\n".join(lines)
    assert "  category  games       12     15  +3" in text
    assert "            (none)       1      0  -1" in text
    assert "_status" not in text
    assert "_answer" not in lines[lines.index("changed answers (2)") + 2]
    assert "old" in lines[-4]
    assert "new" in lines[-4]
    assert lines[-1].split() == ["x", "failed", "(none)"]
