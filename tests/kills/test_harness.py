"""The harness can fail: a worse program is found out, and the judge sees what it is there to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kills.figures import play_all
from tests.kills.judge import judge
from tests.kills.scenario import Scenario, Stage

ROWS = ({"id": "k0", "text": "row-0-end"}, {"id": "k1", "text": "row-1-end"})
ONCE = [("k0-0123456789abcdef", "completed"), ("k1-0123456789abcdef", "completed")]


@pytest.fixture
def weakened(request: pytest.FixtureRequest, stages_of_worker: list[Stage]) -> Iterator[list[Stage]]:
    """Stages whose program has the weakness that the test names."""
    for stage in stages_of_worker:
        stage.weakness = request.param
    yield stages_of_worker
    for stage in stages_of_worker:
        stage.weakness = ""


def scenarios(*names: str) -> list[Scenario]:
    return [Scenario.named(name) for name in names]


@pytest.mark.parametrize("weakened", ["intent-after-call"], indirect=True)
def test_a_program_that_records_its_intent_after_the_call_buys_twice(weakened: list[Stage]) -> None:
    figures = play_all(scenarios("create.answered/clean/0", "create.landed/clean/0"), weakened)
    assert figures.duplicates > 0
    assert "python -m tests.kills --only create." in figures.failures[0]


@pytest.mark.parametrize("weakened", ["blind-retry"], indirect=True)
def test_a_program_that_sends_an_unknown_create_again_buys_twice(weakened: list[Stage]) -> None:
    assert play_all(scenarios("publish.begins/lost-create/0"), weakened).duplicates > 0


@pytest.mark.parametrize("weakened", ["no-proof"], indirect=True)
def test_a_program_that_does_not_look_for_the_batch_buys_twice(weakened: list[Stage]) -> None:
    assert play_all(scenarios("create.answered/clean/0"), weakened).duplicates > 0


@pytest.mark.parametrize("weakened", ["join-by-order"], indirect=True)
def test_a_program_that_matches_answers_by_their_order_loses_them(weakened: list[Stage]) -> None:
    assert play_all(scenarios("publish.begins/clean/0"), weakened).losses > 0


# ---------------------------------------------------------------- the judge


def table_of(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def published(number: int, **values: Any) -> dict[str, Any]:
    row = {"_key": f"k{number}", "_status": "succeeded", "_answer": f"you said row-{number}-end"}
    return {**row, "_error_class": None, "_error_message": None, **values}


def counts(tmp_path: Path, *rows: dict[str, Any], **words: Any) -> tuple[int, int, int]:
    given = {"executed": ONCE, "attempts": 2, "is_held": False, **words}
    verdict = judge(ROWS, table_of(tmp_path, *rows), **given)
    assert bool(verdict.problems) == bool(verdict.duplicates or verdict.losses or verdict.extra_rows)
    return verdict.duplicates, verdict.losses, verdict.extra_rows


def test_the_judge_has_nothing_to_say_of_what_is_right(tmp_path: Path) -> None:
    assert counts(tmp_path, published(0), published(1)) == (0, 0, 0)


def test_the_judge_sees_a_request_that_was_executed_twice(tmp_path: Path) -> None:
    assert counts(tmp_path, published(0), published(1), executed=ONCE + ONCE[:1]) == (1, 0, 0)


def test_the_judge_lets_a_request_fail_as_often_as_there_are_attempts(tmp_path: Path) -> None:
    failed = [("k0-0123456789abcdef", "failed")]
    assert counts(tmp_path, published(0), published(1), executed=ONCE + failed * 2) == (0, 0, 0)
    assert counts(tmp_path, published(0), published(1), executed=ONCE + failed * 3) == (1, 0, 0)


@pytest.mark.parametrize(
    "rows",
    [
        (published(0),),
        (published(0), published(1, _answer="you said row-0-end")),
        (published(0), published(1, _status="unaccounted", _answer=None)),
        (published(0), published(1, _status="pending", _answer=None)),
    ],
    ids=["missing", "swapped", "unaccounted", "pending"],
)
def test_the_judge_sees_an_answer_that_is_lost(tmp_path: Path, rows: tuple[dict[str, Any], ...]) -> None:
    assert counts(tmp_path, *rows) == (0, 1, 0)


def test_the_judge_sees_a_row_that_nobody_wants(tmp_path: Path) -> None:
    assert counts(tmp_path, published(0), published(1), published(1)) == (0, 0, 1)
    assert counts(tmp_path, published(0), published(1), published(2)) == (0, 0, 1)


def test_the_judge_lets_a_held_row_be_pending_only_if_it_never_ran(tmp_path: Path) -> None:
    pending = published(1, _status="pending", _answer=None)
    assert counts(tmp_path, published(0), pending, executed=ONCE[:1], is_held=True) == (0, 0, 0)
    assert counts(tmp_path, published(0), pending, executed=ONCE, is_held=True) == (0, 1, 0)


def test_a_table_that_was_never_written_is_a_loss_of_every_row(tmp_path: Path) -> None:
    verdict = judge(ROWS, tmp_path / "none.jsonl", ONCE, attempts=1, is_held=False)
    assert verdict.losses == len(ROWS)
