"""Only an id and a refusal in the API's own words end the matter; all else is Unknown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.core.model import Accepted, ProblemKind, Provider, Refused, Unknown
from runner.provider.exchange import Lost, Reply
from runner.provider.outcome import find_id, judge
from runner.provider.profiles import DOUBLEWORD, GENERIC, OPENAI

TEXT, JSON, HTML = "text/plain", "application/json", "text/html"
DEFINITE = (400, 401, 402, 403, 404, 405, 413, 415, 422)
ID = "6c0b2c9e-0000-4000-8000-5f7f3a1d9c0b"


def reply(status: int, body: bytes, media_type: str = JSON, *, is_cut: bool = False) -> Reply:
    return Reply(status_code=status, headers={"content-type": media_type}, body=body, is_cut=is_cut)


@pytest.mark.parametrize("status", DEFINITE)
def test_plain_text_is_a_refusal_where_the_profile_says_so(status: int) -> None:
    answer = reply(status, b"Invalid input_file_id format", TEXT)
    assert isinstance(judge(answer, DOUBLEWORD), Refused)
    assert isinstance(judge(answer, OPENAI), Unknown)
    assert isinstance(judge(answer, GENERIC), Unknown)


@pytest.mark.parametrize("status", DEFINITE)
@pytest.mark.parametrize("provider", [DOUBLEWORD, OPENAI, GENERIC])
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"no","type":"invalid_request_error"}}',
        b'{"error":"w","message":"m"}',
        b'{"detail":"d"}',
    ],
)
def test_an_error_object_is_a_refusal_everywhere(status: int, provider: Provider, body: bytes) -> None:
    assert isinstance(judge(reply(status, body), provider), Refused)


@pytest.mark.parametrize("provider", [DOUBLEWORD, OPENAI, GENERIC])
@pytest.mark.parametrize(
    "status", [*range(300, 400, 7), 408, 409, 425, 499, 500, 501, 502, 503, 504, 520, 599]
)
@pytest.mark.parametrize("body", [b'{"error":{"message":"no"}}', b"no", b""])
def test_what_may_have_been_done_is_unknown(provider: Provider, status: int, body: bytes) -> None:
    assert isinstance(judge(reply(status, body, TEXT), provider), Unknown)


@pytest.mark.parametrize("provider", [DOUBLEWORD, OPENAI, GENERIC])
@pytest.mark.parametrize("status", [*DEFINITE, 200, 201, 429])
@pytest.mark.parametrize("media_type", [TEXT, HTML, ""])
def test_a_web_page_is_never_definite(provider: Provider, status: int, media_type: str) -> None:
    page = b'\n <!doctype html><script>x = {"id": "batch_1"}</script>'
    assert isinstance(judge(reply(status, page, media_type), provider), Unknown)


@pytest.mark.parametrize("status", DEFINITE)
@pytest.mark.parametrize(
    "body", [b"", b" \n", b"\xff\xfe\x00", b'{"error": {"mess', b"{}", b'{"error":null}']
)
def test_an_empty_foreign_or_broken_body_is_not_definite(status: int, body: bytes) -> None:
    assert isinstance(judge(reply(status, body, TEXT), DOUBLEWORD), Unknown)


@pytest.mark.parametrize("status", [*DEFINITE, 429])
def test_a_cut_refusal_is_not_definite(status: int) -> None:
    answer = reply(status, b"Insufficient capacity for 24h completion window", TEXT, is_cut=True)
    assert isinstance(judge(answer, DOUBLEWORD), Unknown)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"Insufficient capacity for 1h completion window. The following", ProblemKind.CAPACITY),
        (b"Unverified accounts can submit at most 1000 requests", ProblemKind.VOLUME),
        (b"Too many file uploads in progress. Please retry later.", ProblemKind.CAPACITY),
        (b"Timed out waiting for upload slot. Please retry later.", ProblemKind.CAPACITY),
    ],
)
def test_doublewords_own_429_is_a_refusal(body: bytes, kind: ProblemKind) -> None:
    message = json.dumps({"error": "too_many_requests", "message": body.decode(), "retry_after_seconds": 30})
    found = judge(reply(429, message.encode()), DOUBLEWORD)
    assert isinstance(found, Refused)
    assert (found.problem.kind, found.problem.retry_after_s) == (kind, 30.0)
    assert isinstance(judge(reply(429, message.encode()), GENERIC), Unknown)


def test_a_bare_429_is_unknown_and_a_rate_limiters_is_not() -> None:
    limited = b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}'
    assert isinstance(judge(reply(429, limited), OPENAI), Refused)
    assert isinstance(judge(reply(429, b'{"error":{"message":"slow down"}}'), OPENAI), Unknown)
    assert isinstance(judge(reply(429, b"slow down", TEXT), DOUBLEWORD), Unknown)


def test_a_failure_before_the_first_byte_is_a_refusal() -> None:
    found = judge(Lost(was_sent=False, why="no connection"), OPENAI)
    assert isinstance(found, Refused)
    assert found.problem.kind is ProblemKind.UNREACHABLE


def test_a_failure_after_the_first_byte_is_unknown() -> None:
    assert isinstance(judge(Lost(was_sent=True, why="reset"), DOUBLEWORD), Unknown)


def test_what_calls_itself_a_web_page_holds_no_id() -> None:
    assert isinstance(judge(reply(200, b'{"id":"session-1"}', "text/html; charset=utf-8"), OPENAI), Unknown)


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_success_keeps_the_bytes_as_they_came(status: int) -> None:
    raw = b'{ "object":"batch",\n "id":"%b", "status":"queued?" }' % ID.encode()
    assert judge(reply(status, raw), GENERIC) == Accepted(object_id=ID, raw=raw)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'[{"id":"a"}]',
        b'{"id":""}',
        b'{"id":{}}',
        b'{"id":7}',
        b'{"id":"../../etc/passwd"}',
        b'{"id":"a b"}',
        b'{"id":"x\\n"}',
        b'{"error":{"id":"err_1","message":"no"}}',
        b'{"id":"chatcmpl-1","error":{"message":"no"}}',
        b'{"metadata":{"id":"inner"},"status":',
        b'{"error":{"message":"no"},"id":"x"',
        b'{"data":[{"id":"inner"',
        b'{"id":"' + b"a" * 129 + b'"}',
        b"accepted: 7",
    ],
)
def test_success_without_a_usable_id_is_unknown(body: bytes) -> None:
    assert isinstance(judge(reply(201, body), DOUBLEWORD), Unknown)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"batch_1","metadata":{"note":"\xff"}}',
        b'{"id":"batch_1","total":NaN}',
        b'\xef\xbb\xbf{"id":"batch_1"}',
        b'{"metadata":{"id":"inner"},"id": "batch_1","status":',
    ],
)
def test_an_id_is_found_in_a_reply_that_is_not_quite_json(body: bytes) -> None:
    assert find_id(body) == "batch_1"


def test_a_reply_cut_anywhere_gives_the_true_id_or_none() -> None:
    value = {
        "object": "batch",
        "metadata": {"id": "inner"},
        "x": [{"id": "deep"}],
        "id": ID,
        "status": "validating",
    }
    whole = json.dumps(value).encode()
    end_of_id = whole.index(ID.encode()) + len(ID) + 1
    for cut in range(len(whole)):
        found = judge(reply(201, whole[:cut], is_cut=True), DOUBLEWORD)
        assert isinstance(found, Accepted if cut >= end_of_id else Unknown), whole[:cut]
        assert not isinstance(found, Accepted) or found.object_id == ID


@settings(deadline=None, max_examples=300)
@given(
    status=st.integers(100, 999),
    body=st.binary(max_size=200),
    media_type=st.sampled_from([TEXT, JSON, HTML, "", "\x00"]),
    is_cut=st.booleans(),
    provider=st.sampled_from([DOUBLEWORD, OPENAI, GENERIC]),
)
def test_every_reply_has_an_outcome_and_only_listed_statuses_are_definite(
    status: int, body: bytes, media_type: str, is_cut: bool, provider: Provider
) -> None:
    found = judge(reply(status, body, media_type, is_cut=is_cut), provider)
    assert not isinstance(found, Refused) or status in (*DEFINITE, 429)
    assert not isinstance(found, Accepted) or 200 <= status < 300
