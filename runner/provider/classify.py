"""Foreign refusals to our words, once, for every call: status, headers and body to a `Problem`.

Pure, total and free of I/O: any status, any bytes, any header value gives a problem and never an
exception. Bodies come as plain text (Doubleword), as `{"error": {"message": ...}}` (OpenAI), as
`{"error": "word", "message": ...}`, `{"message": ...}`, `{"detail": ...}`, as an HTML page of something on
the way, or empty. What a person does about it decides the kind, not the number alone: a 429 can mean
waiting, verifying the account or paying. Whether a refusal is definite is not judged here (`outcome`).
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from runner.core.model import Problem, ProblemKind
from runner.core.wire import JsonError, decode_json, shown_json

MAX_RETRY_AFTER_S: Final = 3600.0
MAX_MESSAGE_CHARACTERS: Final = 500

_PAYMENT_CODES: Final = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "spend_cap_exceeded"}
)
_WAIT_STATUSES: Final = frozenset({408, 425, 499})
_BY_STATUS: Final[dict[int, ProblemKind]] = {
    401: ProblemKind.AUTHENTICATION,
    402: ProblemKind.PAYMENT,
    407: ProblemKind.AUTHENTICATION,
    413: ProblemKind.TOO_LARGE,
    429: ProblemKind.CAPACITY,
}
"""What these say holds for a page of something on the way as well: a proxy's 413 is cured by splitting."""


def classify(
    status_code: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    received_at: datetime,
) -> Problem:
    """The problem that a reply states.

    `headers` has lower-case names. `body` may be cut. `received_at` (aware UTC) is used where
    Retry-After is a date and the reply has no Date of its own.
    """
    value = json_object(body)
    return Problem(
        kind=_kind(status_code, headers, body, value),
        message=_message(status_code, headers, body, value),
        status_code=status_code,
        retry_after_s=_retry_after_s(headers, value, received_at),
    )


# ---------------------------------------------------------------- the kind


def _kind(
    status_code: int, headers: Mapping[str, str], body: bytes, value: Mapping[str, Any] | None
) -> ProblemKind:
    if status_code == 429 or status_code == 400:
        if error_code(value) in _PAYMENT_CODES:
            return ProblemKind.PAYMENT
        if "unverified accounts can submit at most" in _text(body, value).lower():
            return ProblemKind.VOLUME
    if status_code in _BY_STATUS:
        return _BY_STATUS[status_code]
    if status_code in (301, 308):
        return ProblemKind.INVALID_REQUEST
    if not 400 <= status_code < 500 or status_code in _WAIT_STATUSES or is_page(headers, body):
        return ProblemKind.SERVER_TROUBLE
    return _kind_of_refusal(status_code, _text(body, value), error_code(value))


def _kind_of_refusal(status_code: int, text: str, code: str | None) -> ProblemKind:
    if status_code == 400 and re.search(r"File contains \d+ requests, which exceeds", text):
        return ProblemKind.TOO_LARGE
    if status_code in (403, 404) and ("model" in text.lower() or code == "model_not_found"):
        return ProblemKind.INVALID_REQUEST  # 403 `Model 'x' has not been configured or is not available`
    if status_code == 403:
        return ProblemKind.AUTHENTICATION
    if status_code in (404, 410):
        return ProblemKind.NOT_FOUND
    return ProblemKind.INVALID_REQUEST


def is_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body is an HTML or XML page: never the API's own word."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type in ("text/html", "application/xhtml+xml") or body.lstrip(
        b"\xef\xbb\xbf \t\r\n"
    ).startswith(b"<")


# ---------------------------------------------------------------- the text


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """The body as a JSON object, or None."""
    try:
        value = decode_json(body)
    except JsonError:
        return None
    return value if isinstance(value, dict) else None


def error_code(value: Mapping[str, Any] | None) -> str | None:
    """The server's own word for the error: `error.code`, else `error.type`, else `error` itself."""
    error = (value or {}).get("error")
    if isinstance(error, dict):
        words = (error.get("code"), error.get("type"))
        return next((word for word in words if isinstance(word, str) and word), None)
    return error if isinstance(error, str) and error else None


def _text(body: bytes, value: Mapping[str, Any] | None) -> str:
    """The sentence in a body: a JSON message where there is one, else the body itself."""
    if value is None:
        return body[: 16 * 1024].decode("utf-8", errors="replace")
    error = value.get("error")
    inner = error if isinstance(error, dict) else value
    for word in ("message", "detail", "error"):
        found = inner.get(word)
        if isinstance(found, str) and found.strip():
            return found
    return shown_json(value)


def _message(
    status_code: int, headers: Mapping[str, str], body: bytes, value: Mapping[str, Any] | None
) -> str:
    label = f"{status_code} {_phrase(status_code)}".strip()
    if 300 <= status_code < 400:
        host = _host(headers.get("location", ""))
        text = (
            "a redirect" + (f" to {host}" if host else "") + "; redirects are not followed, check `base_url`"
        )
    elif is_page(headers, body):
        title = re.search(rb"<title[^>]*>(.{0,200}?)</title>", body[: 64 * 1024], re.IGNORECASE | re.DOTALL)
        shown = html.unescape(title[1].decode("utf-8", errors="replace")) if title else ""
        text = (
            f"a web page instead of an answer ({shown.strip()})"
            if shown.strip()
            else "a web page instead of an answer"
        )
    else:
        text = _text(body, value)
    text = readable(text)
    return f"{label}: {text}" if text else label


def _host(location: str) -> str:
    try:
        return urlsplit(location).hostname or ""
    except ValueError:
        return ""


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return ""


def readable(text: str) -> str:
    """One line that is safe on a terminal: nothing but printable characters, cut to length."""
    characters = (
        character if character.isprintable() else " " for character in text[: 4 * MAX_MESSAGE_CHARACTERS]
    )
    line = " ".join("".join(characters).split())
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else f"{line[: MAX_MESSAGE_CHARACTERS - 1]}…"


# ---------------------------------------------------------------- Retry-After


def _retry_after_s(
    headers: Mapping[str, str], value: Mapping[str, Any] | None, received_at: datetime
) -> float | None:
    """Header and body can disagree (60 s and 30 s on Doubleword): the larger counts, capped."""
    error = (value or {}).get("error")
    stated = [_header_wait_s(headers, received_at), _body_wait_s(value)]
    if isinstance(error, dict):
        stated.append(_body_wait_s(error))
    waits = [wait for wait in stated if wait is not None]
    return min(max(waits), MAX_RETRY_AFTER_S) if waits else None


def _header_wait_s(headers: Mapping[str, str], received_at: datetime) -> float | None:
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
        return float(text)
    until = http_date(text)
    if until is None:
        return None
    # The reply's own Date, so that a wrong clock on this machine changes nothing.
    now = http_date(headers.get("date", "")) or received_at
    return max(0.0, (until - now).total_seconds())


def _body_wait_s(value: Mapping[str, Any] | None) -> float | None:
    for word in ("retry_after_seconds", "retry_after"):
        number = (value or {}).get(word)
        if isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number):
            return float(number) if number >= 0 else None
    return None


def http_date(text: str) -> datetime | None:
    """An HTTP date as aware UTC, or None for anything else."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
