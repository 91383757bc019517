"""Answers against the schema."""

from __future__ import annotations

import pytest

from runner.manifest import answer_checker

SCHEMA = {
    "type": "object",
    "required": ["a"],
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string"}}},
}


def test_without_a_schema_every_answer_is_right() -> None:
    assert answer_checker(None)("anything") is None


@pytest.mark.parametrize("text", ['{"a": 1}', '{"a": 1, "b": ["x"]}'])
def test_an_answer_that_fits_is_right(text: str) -> None:
    assert answer_checker(SCHEMA)(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("not json", "the answer is not JSON"),
        ("{}", "the answer: 'a' is a required property"),
        ('{"a": "x"}', "a: 'x' is not of type 'integer'"),
        ('{"a": 1, "b": [1]}', "b/0: 1 is not of type 'string'"),
    ],
)
def test_an_answer_that_does_not_fit_says_where(text: str, problem: str) -> None:
    found = answer_checker(SCHEMA)(text)
    assert found is not None
    assert found.startswith(problem)
