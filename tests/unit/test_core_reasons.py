"""Every row that moved is laid to one account, and a number is given only where it is known."""

from __future__ import annotations

import pytest

from runner.core.planning import Reason
from runner.core.reasons import Shifts, attributed


def rows(edited: str, **shifts: int | None) -> dict[str, int | None]:
    usual: dict[str, int | None] = {"changed": 0, "with_data": 0, "came": 0, "gone": 0}
    reasons = [Reason(what=what, was="a", now="b") for what in edited.split()]
    found = attributed(reasons, Shifts(**(usual | shifts)))  # type: ignore[arg-type]
    return {reason.what: reason.rows for reason in found}


@pytest.mark.parametrize(
    ("edited", "shifts", "expected"),
    [
        ("dataset", {"changed": 1, "with_data": 1, "came": 2, "gone": 3}, {"dataset": 6}),
        ("dataset params", {"changed": 9, "with_data": 1}, {"dataset": 1, "params": 8}),
        ("dataset params", {"changed": 1, "with_data": 1}, {"dataset": 1, "params": 0}),
        ("params template", {"changed": 9}, {"params": None, "template": None}),
        ("params model", {"changed": 9}, {"params": None, "model": 9}),
        ("model schema", {"changed": 9}, {"model": 9, "schema": 9}),
        ("repeats", {"came": 10, "by_repeats": 10}, {"repeats": 10}),
        ("dataset repeats", {"came": 13, "by_repeats": 10}, {"dataset": 3, "repeats": 10}),
        ("key", {"came": 5, "gone": 5}, {"key": 10}),
        ("key dataset", {"came": 5, "gone": 5}, {"key": 10, "dataset": None}),
        ("query", {"changed": 1, "with_data": 1, "gone": 4}, {"query": 5}),
        ("query dataset", {"changed": 1, "with_data": 1}, {"query": None, "dataset": None}),
        ("dataset", {"changed": 40, "with_data": 1, "came": 1}, {"dataset": 41}),
        ("on_truncated", {"changed": 2}, {"on_truncated": 2}),
        ("on_truncated model", {"changed": 9}, {"on_truncated": None, "model": 9}),
        ("dataset on_truncated", {"changed": 3, "with_data": 1}, {"dataset": 1, "on_truncated": 2}),
        ("dataset params", {"changed": 9, "with_data": None}, {"dataset": None, "params": None}),
    ],
)
def test_rows_are_laid_to_what_is_known_to_have_moved_them(
    edited: str, shifts: dict[str, int | None], expected: dict[str, int | None]
) -> None:
    assert rows(edited, **shifts) == expected
