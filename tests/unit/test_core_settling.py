"""Result lines and absences, judged. One table of literal lines."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.core.model import Cause, Outcome, Status
from runner.core.settling import grace_left_s, is_better, judge, judge_absence, read_answer
from runner.core.wire import BadLine, ResultLine, read_result_line
from tests.unit.core_factories import make_batch, make_provider


def judged(value: Any) -> Outcome:
    line = read_result_line(json.dumps(value).encode())
    assert isinstance(line, ResultLine)
    return judge(line)


def chat(finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "batch_req_1",
        "custom_id": "k",
        "response": {
            "status_code": 200,
            "request_id": None,
            "body": {
                "model": "m-actual",
                "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4},
            },
        },
        "error": None,
    }


def packed(kind: str, **details: Any) -> dict[str, Any]:
    """An error line of Doubleword: JSON text inside the message."""
    message: dict[str, Any] = {"type": kind}
    if details:
        message["details"] = details
    return {
        "id": "batch_req_1",
        "custom_id": "k",
        "response": None,
        "error": {"code": None, "message": json.dumps(message)},
    }


def test_a_success_keeps_tokens_model_and_id() -> None:
    outcome = judged(chat(role="assistant", content="hello"))
    assert outcome == Outcome(
        status=Status.SUCCEEDED,
        finish_reason="stop",
        input_tokens=3,
        output_tokens=4,
        model="m-actual",
        response_id="batch_req_1",
    )


@pytest.mark.parametrize(
    ("line", "status", "error_class"),
    [
        (chat("length", content="cut"), Status.TRUNCATED, "length"),
        (chat("content_filter", content=None), Status.REFUSED, "content_filter"),
        (chat("stop", content=None, refusal="I can't"), Status.REFUSED, "refusal"),
        (chat("stop", content=None), Status.FAILED, "unusable_body"),
        (
            {"custom_id": "k", "response": {"status_code": 200, "body": "oops"}},
            Status.FAILED,
            "unusable_body",
        ),
        (
            {"custom_id": "k", "response": {"status_code": 200, "body": {"choices": []}}},
            Status.FAILED,
            "unusable_body",
        ),
        ({"custom_id": "k", "response": {"status_code": 200, "body": None}}, Status.FAILED, "unusable_body"),
        ({"custom_id": "k"}, Status.FAILED, "unusable_body"),
        (packed("BatchTerminated"), Status.CANCELLED, "cancelled"),
        (packed("Timeout", error="slow"), Status.FAILED, "timeout"),
        (packed("NetworkError", error="reset"), Status.FAILED, "server_error"),
        (packed("TaskTerminated"), Status.FAILED, "server_error"),
        (packed("RequestBuilderError", error="bad"), Status.FAILED, "invalid_request"),
        (packed("RetriableHttpStatus", status=503, body="busy"), Status.FAILED, "server_error"),
        (packed("RetriableHttpStatus", status=429, body="slow down"), Status.FAILED, "rate_limited"),
        (packed("NonRetriableHttpStatus", status=400, body="bad"), Status.FAILED, "invalid_request"),
        (packed("NonRetriableHttpStatus", status=402, body="credit"), Status.FAILED, "payment"),
        (
            {"custom_id": "k", "response": None, "error": {"code": "batch_expired", "message": "late"}},
            Status.EXPIRED,
            "expired",
        ),
        ({"custom_id": "k", "error": {"message": "plain words"}}, Status.FAILED, "server_error"),
    ],
)
def test_what_a_line_means(line: dict[str, Any], status: Status, error_class: str) -> None:
    outcome = judged(line)
    assert outcome.status is status
    assert outcome.cause is not None
    assert outcome.cause.error_class == error_class


def test_a_4xx_in_the_output_file_with_no_error_is_a_failure() -> None:
    body = {"error": {"message": "no such model", "code": "model_not_found"}}
    outcome = judged({"custom_id": "k", "response": {"status_code": 400, "body": body}, "error": None})
    assert outcome.status is Status.FAILED
    assert outcome.cause is not None
    assert (outcome.cause.code, outcome.cause.message) == ("model_not_found", "no such model")


def test_the_body_of_an_inner_error_is_decoded_once_more() -> None:
    inner = json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}})
    outcome = judged(packed("NonRetriableHttpStatus", status=400, body=inner))
    assert outcome.cause is not None
    assert (outcome.cause.code, outcome.cause.message) == ("context_length_exceeded", "too long")
    assert not outcome.retryable


@pytest.mark.parametrize(
    ("status", "again"),
    [
        *((status, False) for status in (400, 403, 405, 410, 413, 415, 422, 451)),
        *((status, True) for status in (401, 402, 408, 409, 425, 429, 499, 500, 502, 503, 504, 529)),
    ],
)
def test_only_passing_causes_are_asked_again(status: int, again: bool) -> None:
    assert judged(packed("RetriableHttpStatus", status=status, body="")).retryable is again


def test_content_in_several_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    answer = read_answer({"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]})
    assert answer is not None
    assert answer.text == "ab"


def test_the_responses_endpoint_and_embeddings_are_read() -> None:
    body = {
        "status": "completed",
        "output": [
            {"type": "reasoning", "content": None},
            {
                "type": "message",
                "content": [{"type": "output_text", "text": "x"}, {"type": "output_text", "text": "y"}],
            },
        ],
    }
    answer = read_answer(body)
    assert answer is not None
    assert (answer.text, answer.finish_reason) == ("xy", "stop")
    vector = read_answer({"data": [{"embedding": [1, 0.5]}]})
    assert vector is not None
    assert vector.embedding == (1.0, 0.5)


@pytest.mark.parametrize(
    ("word", "errors", "status"),
    [
        ("completed", None, Status.UNACCOUNTED),
        ("failed", None, Status.UNACCOUNTED),
        ("failed", "token limit", Status.FAILED),
        ("expired", None, Status.EXPIRED),
        ("cancelled", None, Status.CANCELLED),
    ],
)
def test_a_request_in_neither_file_gets_the_state_that_its_batch_explains(
    word: str, errors: str | None, status: Status
) -> None:
    assert judge_absence(word, errors).status is status


@pytest.mark.parametrize(
    ("cancelled_at_s", "told_at_s", "seen_for_s", "left_s"),
    [
        (None, None, 0, 60),
        (None, None, 60, 0),
        (None, 5000.0, 30, 30),
        (1000, None, 30, 30),
        (1000, 1010.0, 0, 51),
        (1000, 1061.0, 0, 0),
        (1000, 900.0, 20, 40),  # the server's clock was set back, or the stamp is a lie: ours decides
    ],
)
def test_the_grace_after_a_cancel_ends_by_the_servers_times_or_by_ours(
    cancelled_at_s: int | None, told_at_s: float | None, seen_for_s: float, left_s: float
) -> None:
    batch = make_batch(cancelled_at_s=cancelled_at_s, told_at_s=told_at_s)
    provider = make_provider(cancel_grace_s=60.0)
    left = grace_left_s(batch, provider, seen_since_s=1.0, now_s=1.0 + seen_for_s)
    assert left == left_s


def test_an_answer_is_never_replaced_by_an_error_nor_by_a_second_answer() -> None:
    assert is_better(Status.SUCCEEDED, None)
    assert is_better(Status.SUCCEEDED, Status.FAILED)
    assert is_better(Status.SUCCEEDED, Status.UNACCOUNTED)
    assert not is_better(Status.FAILED, Status.SUCCEEDED)
    assert not is_better(Status.SUCCEEDED, Status.SUCCEEDED)
    assert not is_better(Status.FAILED, Status.TRUNCATED)


@pytest.mark.parametrize(
    ("line", "blocked"),
    [
        (packed("NonRetriableHttpStatus", status=401, body="bad key"), True),
        (packed("RetriableHttpStatus", status=402, body="Account balance too low."), True),
        (packed("RetriableHttpStatus", status=429, body='{"error":{"code":"insufficient_quota"}}'), True),
        (packed("RetriableHttpStatus", status=402, body='{"error":{"code":"spend_cap_exceeded"}}'), True),
        (
            packed("RetriableHttpStatus", status=429, body='{"error":{"code":"spend_cap_reset_pending"}}'),
            False,
        ),
        (packed("NonRetriableHttpStatus", status=403, body="Model 'x' is not available"), False),
        ({"custom_id": "k", "response": {"status_code": 402, "body": {"error": {"message": "pay"}}}}, True),
    ],
)
def test_a_failure_that_the_account_is_to_blame_for_is_no_fault_of_the_request(
    line: dict[str, Any], blocked: bool
) -> None:
    outcome = judged(line)
    assert outcome.blocked is blocked
    assert outcome.retryable or not blocked


def test_a_failure_counts_the_tokens_that_it_owns_up_to() -> None:
    usage = {"usage": {"prompt_tokens": 7, "completion_tokens": 9}}
    for status, body in ((200, {"choices": [], **usage}), (500, {"error": {"message": "late"}, **usage})):
        outcome = judged({"custom_id": "k", "response": {"status_code": status, "body": body}})
        assert (outcome.status, outcome.input_tokens, outcome.output_tokens) == (Status.FAILED, 7, 9)


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        ('{"error":"too_many_requests","retry_after_seconds":30}', 30.0),
        ('{"error":{"message":"slow down","retry_after":2.5}}', 2.5),
        ('{"retry_after_seconds":5,"error":{"retry_after":8}}', 8.0),
        ('{"retry_after":1e300}', None),
        ('{"retry_after":86400}', 3600.0),
        ('{"retry_after":-4}', None),
        ('{"retry_after":"soon"}', None),
        ("slow down", None),
    ],
)
def test_the_wait_that_an_error_line_asks_for_is_read_and_bounded(body: str, wait_s: float | None) -> None:
    assert judged(packed("RetriableHttpStatus", status=429, body=body)).retry_after_s == wait_s


@pytest.mark.parametrize(
    ("errors", "again"),
    [
        ({"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}, True),
        ({"data": [{"code": "invalid_json_line", "line": 3}]}, False),
        ({"data": [{"code": "mismatched_model"}, {"code": "missing_required_parameter"}]}, False),
        ({"data": [{"code": "mismatched_model"}, {"code": None}]}, True),
        ({"data": [{"code": "mismatched_model"}, {}]}, True),
        ({"data": []}, True),
        ({"data": [{"code": ["token_limit_exceeded"]}, {"code": {}}]}, True),
        ("something broke", True),
    ],
)
def test_a_batch_that_was_rejected_for_its_content_is_not_sent_again(errors: Any, again: bool) -> None:
    text = errors if isinstance(errors, str) else json.dumps(errors)
    assert judge_absence("failed", text).retryable is again


def test_a_full_queue_is_the_cause_in_the_servers_words_and_costs_no_attempt() -> None:
    full = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m. Limit: 9 tokens"}
    errors = json.dumps({"object": "list", "data": [full]})
    outcome = judge_absence("failed", errors, is_unbegun=True)
    assert outcome.queued_out
    assert outcome.cause == Cause(error_class="queue_full", code=full["code"], message=full["message"])
    assert judge_absence("failed", errors) == outcome._replace(queued_out=False)
    for word in ("completed", "expired", "cancelled", None):
        assert not judge_absence(word, errors, is_unbegun=True).queued_out
    for beside in ({"code": "invalid_request"}, "words"):
        other = judge_absence("failed", json.dumps({"data": [full, beside]}), is_unbegun=True)
        assert (other.queued_out, other.cause and other.cause.error_class) == (False, "batch_failed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(["custom_id", "response", "error", "id"])


@given(st.dictionaries(KEYS, JSON | st.fixed_dictionaries({"status_code": JSON, "body": JSON})))
def test_whatever_a_server_sends_is_judged_without_a_traceback(value: dict[str, Any]) -> None:
    line = read_result_line(json.dumps(value).encode())
    assert isinstance(line, BadLine) or isinstance(judge(line), Outcome)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_line_or_a_bad_line(data: bytes) -> None:
    assert isinstance(read_result_line(data), ResultLine | BadLine)


def test_an_answer_with_a_lone_surrogate_is_mended_not_lost() -> None:
    body = b'{"choices":[{"message":{"content":"a\\ud800b"}}]}'
    raw = b'{"custom_id":"k","response":{"status_code":200,"body":%b}}' % body
    line = read_result_line(raw)
    assert isinstance(line, ResultLine)
    assert line.mended
    answer = read_answer(line.body)
    assert answer is not None
    assert answer.text == "a\ufffdb"
