"""What a server may write is read, whatever its depth and size: a value or a bad line, no exception."""

from __future__ import annotations

import json

import pytest

from runner.core.settling import judge
from runner.core.wire import BadLine, ResultLine, batch_from, read_batch, read_result_line

DEPTHS = (100, 254, 255, 600, 1000, 1020, 5000)


def deep(levels: int) -> bytes:
    return b"[" * levels + b"1" + b"]" * levels


@pytest.mark.parametrize("levels", DEPTHS)
@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id":"a","error":{"code":@,"message":"m"}}',
        b'{"custom_id":"a","error":{"code":"c","message":@}}',
        b'{"custom_id":"a","error":{"other":@}}',
        b'{"custom_id":"a","error":@}',
        b'{"custom_id":"a","response":{"status_code":200,"body":@}}',
        b'{"custom_id":"a","response":{"status_code":200,"body":{"choices":@}}}',
        b'{"custom_id":"a","response":{"status_code":500,"body":{"error":{"code":@}}}}',
        b'{"custom_id":"a","response":{"status_code":@,"body":{}}}',
    ],
)
def test_a_line_of_any_depth_has_an_outcome_or_is_bad(line: bytes, levels: int) -> None:
    found = read_result_line(line.replace(b"@", deep(levels)))
    assert isinstance(found, BadLine if levels > 1020 else ResultLine | BadLine)
    if isinstance(found, ResultLine):
        assert found.custom_id == "a"
        cause = judge(found).cause
        assert cause is not None
        assert len(cause.message) < 2100


@pytest.mark.parametrize("levels", DEPTHS)
@pytest.mark.parametrize("field", ["status", "errors", "metadata", "request_counts", "created_at", "x"])
def test_a_batch_of_any_depth_is_read_or_unreadable(field: str, levels: int) -> None:
    for value in (deep(levels), b'{"a":' + deep(levels) + b"}"):
        found = read_batch(b'{"id":"batch-1","' + field.encode() + b'":' + value + b"}")
        assert found is None or found.batch_id == "batch-1"
        assert found is not None or levels > 1000


@pytest.mark.parametrize("number", [-1, 2**53, 2**63, 2**64 - 1, 1e30, True, "7", None])
def test_a_number_beyond_reason_counts_as_not_given(number: object) -> None:
    batch = batch_from(
        {
            "id": "batch-1",
            "created_at": number,
            "expires_at": number,
            "request_counts": {"total": number, "completed": number, "failed": number},
        }
    )
    assert batch is not None
    assert (batch.total, batch.completed, batch.failed) == (None, None, None)
    assert (batch.created_at_s, batch.expires_at_s) == (None, None)


def test_the_last_second_of_the_calendar_is_a_moment() -> None:
    batch = batch_from({"id": "b", "created_at": 0, "expires_at": 253_402_300_799})
    assert batch is not None
    assert (batch.created_at_s, batch.expires_at_s) == (0, 253_402_300_799)


def test_words_of_a_server_are_short_in_an_outcome_however_long_they_came() -> None:
    body = {"model": "m" * 5000, "choices": [{"text": "fine", "finish_reason": "f" * 5000}]}
    line = {"id": "i" * 5000, "custom_id": "a", "response": {"status_code": 200, "body": body}}
    error = {"id": "i", "custom_id": "a", "error": {"code": "c" * 5000, "message": "m" * 5000}}
    for value in (line, error):
        found = read_result_line(json.dumps(value).encode())
        assert isinstance(found, ResultLine)
        outcome = judge(found)
        code = outcome.cause.code if outcome.cause is not None else None
        words = (outcome.model, outcome.finish_reason, outcome.response_id, code)
        assert all(word is None or len(word) <= 300 for word in words)
