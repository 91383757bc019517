"""What an upload or a create came to: Accepted, Refused or Unknown.

Theory. A repeated create is a second, fully billed batch, and no server of this family takes an
idempotency key. So this file decides one question: can the server have acted? Only two answers end the
matter: an id, and a refusal in the API's own words. All else is Unknown, and the exactly-once protocol
settles it later by looking. A wrong Unknown costs minutes; a wrong Refused costs money. Therefore:

- A failure before the first byte left this machine is Refused (UNREACHABLE).
- 400, 401, 402, 403, 404, 405, 413, 415 and 422 are Refused if the body has the API's own shape: on a
  profile with `plain_errors` a text or an error object, elsewhere an error object. A web page is written
  by something on the way, which may have passed the request on before it gave up: Unknown.
- 429 is Refused only by its words: Doubleword's capacity, volume and upload-queue texts, and the codes
  that a rate limiter gives before it acts. A bare 429 may come from a gateway that had tried once.
- 408, 409, 425, 5xx, redirects and replies that were cut before anything could be read: Unknown.
- 2xx with an id, even in a reply that is cut after the id, is Accepted: the bytes are kept as they came.
  2xx without one is Unknown. A web page holds no id, whatever is written in it.

Rejected: trusting the status alone (gateways answer in the server's name); asking for valid JSON on 2xx
(a gateway that adds one unknown word must not make us pay twice).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from runner.core.model import Accepted, Problem, ProblemKind, Provider, Refused, Unknown
from runner.core.wire import JsonError, decode_json
from runner.provider.classify import classify, error_code, is_page, json_object
from runner.provider.exchange import Lost, Reply

ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
"""What an id may look like; it becomes part of addresses and of file names."""

_DEFINITE: Final = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422})
_DEFINITE_429_TEXTS: Final = (
    "Insufficient capacity for ",
    "Unverified accounts can submit at most",
    "Too many file uploads in progress",
    "Timed out waiting for upload slot",
)
_DEFINITE_429_CODES: Final = frozenset(
    {
        "rate_limit_exceeded",
        "insufficient_quota",
        "rate_limit",
        "concurrency_limit_exceeded",
        "spend_cap_reset_pending",
        "token_limit_exceeded",
    }
)
_FIRST_ID: Final = re.compile(rb'"id"\s*:\s*"([A-Za-z0-9_-]{1,128})"')


def judge(result: Reply | Lost, provider: Provider) -> Accepted | Refused | Unknown:
    """The outcome of one upload or create, from its reply or from the lack of one."""
    if isinstance(result, Lost):
        problem = Problem(
            kind=ProblemKind.SERVER_TROUBLE if result.was_sent else ProblemKind.UNREACHABLE,
            message=result.why,
        )
        return Unknown(problem=problem) if result.was_sent else Refused(problem=problem)
    if 200 <= result.status_code < 300:
        return _judge_success(result)
    problem = problem_of(result)
    return Refused(problem=problem) if _is_definite(result, provider) else Unknown(problem=problem)


def problem_of(reply: Reply) -> Problem:
    """The problem that a reply states, whatever the call."""
    return classify(reply.status_code, reply.headers, reply.body, received_at=datetime.now(UTC))


def _judge_success(reply: Reply) -> Accepted | Unknown:
    found = None if is_page(reply.headers, reply.body) else find_id(reply.body)
    if found is not None:
        return Accepted(object_id=found, raw=reply.body)
    state = "was cut off" if reply.is_cut else "names no usable id"
    message = f"{reply.status_code}: the reply {state}, so the outcome is unknown"
    return Unknown(
        problem=Problem(kind=ProblemKind.SERVER_TROUBLE, message=message, status_code=reply.status_code)
    )


def find_id(body: bytes) -> str | None:
    """The object's own id: from JSON, else by pattern at the outermost level of a cut or odd object."""
    try:
        value: Any = decode_json(body)
    except JsonError:
        return _find_id_by_pattern(body)
    found = value.get("id") if isinstance(value, dict) and not value.get("error") else None
    return found if isinstance(found, str) and ID.match(found) else None


def _find_id_by_pattern(body: bytes) -> str | None:
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    for match in _FIRST_ID.finditer(body):
        before = body[: match.start()]
        if b'"error"' in before:
            return None
        is_outermost = before.count(b"{") == before.count(b"}") + 1 and before.count(b"[") == before.count(
            b"]"
        )
        if is_outermost:
            return match[1].decode()
    return None


def _is_definite(reply: Reply, provider: Provider) -> bool:
    if reply.is_cut or is_page(reply.headers, reply.body):
        return False
    if reply.status_code == 429:
        return _is_definite_429(reply, provider)
    return reply.status_code in _DEFINITE and _has_own_shape(reply.body, provider)


def _is_definite_429(reply: Reply, provider: Provider) -> bool:
    value = json_object(reply.body)
    if error_code(value) in _DEFINITE_429_CODES:
        return True
    text = reply.body.decode("utf-8", errors="replace")
    return provider.plain_errors and any(sentence in text for sentence in _DEFINITE_429_TEXTS)


def _has_own_shape(body: bytes, provider: Provider) -> bool:
    value = json_object(body)
    if value is not None:
        return any(value.get(word) for word in ("error", "message", "detail"))
    if not provider.plain_errors or not body.strip():
        return False
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return not text.lstrip().startswith(("{", "[", "\ufeff")) and "\0" not in text
