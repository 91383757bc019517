"""The lines of output and error files, byte for byte as the hosted service writes them.

An output line holds a body of status below 400. An error line has `response` null and the status and body
inside `error.message`: JSON encoded as a string. `code` and `request_id` are always null.
"""

from __future__ import annotations

from typing import Any

from runner.core.wire import JsonError, decode_json, encode_json

RETRIABLE_STATUSES = frozenset({404, 408, 429, 499})


def is_retriable(status: int) -> bool:
    """Does the service try again after this upstream status?"""
    return status >= 500 or status in RETRIABLE_STATUSES


def output_line(request_id: str, custom_id: str, status: int, body: object) -> bytes:
    """A line of the output file; `body` is a JSON value, a string if upstream sent no JSON."""
    return (
        b'{"id":"batch_req_%b","custom_id":%b,"response":{"status_code":%d,"request_id":null,"body":%b},"error":null}\n'
        % (request_id.encode(), encode_json(custom_id), status, encode_json(body, sort_keys=True))
    )


def error_line(request_id: str, custom_id: str, kind: str, details: dict[str, Any] | None) -> bytes:
    """A line of the error file. kind, details: section 5.2; details None leaves the key out."""
    cause: dict[str, Any] = {"type": kind} | ({} if details is None else {"details": details})
    return plain_error_line(request_id, custom_id, encode_json(cause).decode())


def plain_error_line(request_id: str, custom_id: str, message: str) -> bytes:
    """A line of the error file whose message is any text; older rows of the hosted service have such."""
    return b'{"id":"batch_req_%b","custom_id":%b,"response":null,"error":{"code":null,"message":%b}}\n' % (
        request_id.encode(),
        encode_json(custom_id),
        encode_json(message),
    )


def http_error_line(request_id: str, custom_id: str, status: int, body: str) -> bytes:
    """The error line for an upstream status of 400 and above."""
    kind = "RetriableHttpStatus" if is_retriable(status) else "NonRetriableHttpStatus"
    return error_line(request_id, custom_id, kind, {"status": status, "body": body})


def decoded_body(data: bytes) -> Any:
    """An upstream body as the service stores it: JSON, else the text as a string, else null."""
    try:
        return decode_json(data)
    except JsonError:
        return data.decode("utf-8", errors="replace") if data else None


def usage_of(body: object) -> tuple[int, int]:
    """(input tokens, output tokens) that a response body reports, in any of the known spellings; else 0."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    return _count(usage, "prompt_tokens", "input_tokens"), _count(usage, "completion_tokens", "output_tokens")


def _count(usage: dict[str, Any], *names: str) -> int:
    for name in names:
        found = usage.get(name)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
    return 0
