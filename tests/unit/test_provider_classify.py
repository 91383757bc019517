"""Foreign refusals become our words, whatever they look like."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.model import Problem, ProblemKind
from runner.provider.classify import MAX_MESSAGE_CHARACTERS, classify, readable

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
TEXT = {"content-type": "text/plain; charset=utf-8"}
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html"}


def problem(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Problem:
    return classify(status, TEXT if headers is None else headers, body, received_at=NOW)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"Authentication required", ProblemKind.AUTHENTICATION),
        (401, b"", ProblemKind.AUTHENTICATION),
        (402, b"Account balance too low. Please add credits to continue.", ProblemKind.PAYMENT),
        (429, b'{"error":{"message":"quota","code":"insufficient_quota"}}', ProblemKind.PAYMENT),
        (400, b'{"error":{"message":"limit","code":"billing_hard_limit_reached"}}', ProblemKind.PAYMENT),
        (
            429,
            b'{"error":"too_many_requests","message":"Insufficient capacity for 1h"}',
            ProblemKind.CAPACITY,
        ),
        (429, b"", ProblemKind.CAPACITY),
        (
            429,
            b'{"error":"too_many_requests","message":"Unverified accounts can submit at most 1000 requests"}',
            ProblemKind.VOLUME,
        ),
        (400, b"Unsupported completion_window. Allowed values: 24h, 1h", ProblemKind.INVALID_REQUEST),
        (400, b"File contains 50001 requests, which exceeds the maximum of 50000", ProblemKind.TOO_LARGE),
        (413, b"File exceeds the maximum allowed size of 104857600 bytes", ProblemKind.TOO_LARGE),
        (
            403,
            b"Line 3: Model 'm' has not been configured or is not available to user",
            ProblemKind.INVALID_REQUEST,
        ),
        (403, b"Batch API access required", ProblemKind.AUTHENTICATION),
        (404, b"Batch with ID 1 not found", ProblemKind.NOT_FOUND),
        (404, b'{"error":{"message":"no such","code":"model_not_found"}}', ProblemKind.INVALID_REQUEST),
        (410, b"gone", ProblemKind.NOT_FOUND),
        (405, b"", ProblemKind.INVALID_REQUEST),
        (409, b'{"message":"conflict"}', ProblemKind.INVALID_REQUEST),
        (415, b"Expected application/json", ProblemKind.INVALID_REQUEST),
        (422, b"missing field `endpoint`", ProblemKind.INVALID_REQUEST),
        (301, b"", ProblemKind.INVALID_REQUEST),
        (302, b"", ProblemKind.SERVER_TROUBLE),
        (408, b"", ProblemKind.SERVER_TROUBLE),
        (425, b"", ProblemKind.SERVER_TROUBLE),
        (500, b"Internal server error", ProblemKind.SERVER_TROUBLE),
        (503, b'{"error":"service_unavailable","message":"x"}', ProblemKind.SERVER_TROUBLE),
        (599, b"", ProblemKind.SERVER_TROUBLE),
        (999, b"", ProblemKind.SERVER_TROUBLE),
        (101, b"", ProblemKind.SERVER_TROUBLE),
    ],
)
def test_the_kind_is_what_a_person_does_about_it(status: int, body: bytes, kind: ProblemKind) -> None:
    assert problem(status, body).kind is kind
    assert problem(status, body).status_code == status


@pytest.mark.parametrize("status", [400, 403, 404, 405, 422, 500, 502, 504])
def test_a_web_page_is_never_the_servers_own_refusal(status: int) -> None:
    page = b"<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head></html>"
    found = problem(status, page, HTML)
    assert found.kind is ProblemKind.SERVER_TROUBLE
    assert "a web page instead of an answer (502 Bad Gateway)" in found.message


@pytest.mark.parametrize(
    ("status", "kind"),
    [(413, ProblemKind.TOO_LARGE), (401, ProblemKind.AUTHENTICATION), (429, ProblemKind.CAPACITY)],
)
def test_a_proxys_page_still_says_what_its_status_says(status: int, kind: ProblemKind) -> None:
    assert problem(status, b"<html>", HTML).kind is kind


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"inner","type":"t"}}', "400 Bad Request: inner"),
        (b'{"error":"word","message":"sentence"}', "400 Bad Request: sentence"),
        (b'{"error":"word"}', "400 Bad Request: word"),
        (b'{"detail":"why"}', "400 Bad Request: why"),
        (b'{"detail":[{"loc":["body"]}]}', '400 Bad Request: {"detail":[{"loc":["body"]}]}'),
        (b"plain text\n", "400 Bad Request: plain text"),
        (b"two\r\nlines", "400 Bad Request: two lines"),
        (b"\xff\xfe", "400 Bad Request: ��"),
        (b"", "400 Bad Request"),
        (b"[1,2]", "400 Bad Request: [1,2]"),
    ],
)
def test_the_message_is_the_sentence_in_the_body(body: bytes, message: str) -> None:
    assert problem(400, body).message == message


def test_a_redirect_names_the_host_and_no_more() -> None:
    found = classify(307, {"location": "https://evil.example/path?token=abc"}, b"", received_at=NOW)
    assert "evil.example" in found.message
    assert "token" not in found.message


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"retry-after": "60"}, b'{"retry_after_seconds":30}', 60.0),
        ({"retry-after": "10"}, b'{"retry_after_seconds":30}', 30.0),
        ({"retry-after": "1.5"}, b"", 1.5),
        ({}, b'{"error":{"retry_after":7}}', 7.0),
        ({"retry-after": "999999"}, b"", 3600.0),
        ({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, b"", 30.0),
        (
            {"retry-after": "Sun, 01 Mar 2026 13:00:30 GMT", "date": "Sun, 01 Mar 2026 13:00:00 GMT"},
            b"",
            30.0,
        ),
        ({"retry-after": "Sun, 01 Mar 2020 12:00:00 GMT"}, b"", 0.0),
        ({"retry-after": "soon"}, b"", None),
        ({"retry-after": "-5"}, b"", None),
        ({"retry-after": "nan"}, b"", None),
        ({"retry-after": "1e9"}, b"", None),
        ({"retry-after": "٣"}, b"", None),
        ({}, b'{"retry_after_seconds":-1}', None),
        ({}, b'{"retry_after_seconds":true}', None),
        ({}, b'{"retry_after_seconds":"30"}', None),
        ({}, b"", None),
    ],
)
def test_the_larger_wait_counts_and_garbage_does_not(
    headers: dict[str, str], body: bytes, wait_s: float | None
) -> None:
    assert classify(429, headers, body, received_at=NOW).retry_after_s == wait_s


def test_a_message_is_safe_on_a_terminal() -> None:
    assert readable("a\x1b[31mred\x07\u202eback\u2028line\x00\ud800end") == "a [31mred back line end"
    assert len(readable("x" * 100_000)) == MAX_MESSAGE_CHARACTERS


@settings(deadline=None, max_examples=300)
@given(
    status=st.integers(100, 999),
    body=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.dictionaries(
                    st.sampled_from(["error", "message", "code", "type", "detail", "retry_after", "x"]),
                    inner,
                    max_size=4,
                )
                | st.lists(inner, max_size=3)
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    ),
    headers=st.dictionaries(
        st.sampled_from(["retry-after", "date", "content-type", "location"]), st.text(max_size=40), max_size=4
    ),
)
def test_anything_at_all_becomes_a_problem(status: int, body: bytes, headers: dict[str, str]) -> None:
    found = classify(status, headers, body, received_at=NOW)
    assert found.message.isprintable()
    assert len(found.message) <= MAX_MESSAGE_CHARACTERS + 60
    assert found.retry_after_s is None or 0 <= found.retry_after_s <= 3600


def test_a_date_beyond_the_calendar_is_no_date() -> None:
    headers = {"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359", "date": "Mon, 01 Jan 0001 00:00:00 +2359"}
    assert classify(503, headers, b"", received_at=NOW).retry_after_s is None


def test_a_body_that_is_too_deep_to_be_written_again_is_a_problem() -> None:
    body = b'{"error":{"x":' + b"[" * 500 + b"]" * 500 + b"}}"
    assert "nested too deeply" in classify(400, {}, body, received_at=NOW).message
