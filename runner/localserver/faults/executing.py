"""Kinds that act where requests are executed: at the points `start`, `answer` and `record`.

`start`     a batch is about to begin
`answer`    a request was executed and its result line is made; act gives the line of the error file
`record`    results are about to be recorded
They change the server's state: counts, files and witness say what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.localserver.faults.kind import FaultKind, Point
from runner.localserver.result_lines import error_line, http_error_line, plain_error_line

Act = Callable[[str, str, Mapping[str, Any]], bytes]


def _http(line_id: str, custom_id: str, params: Mapping[str, Any]) -> bytes:
    return http_error_line(line_id, custom_id, params["status"], params["body"])


def _typed(kind: str, *, has_details: bool) -> Act:
    def act(line_id: str, custom_id: str, params: Mapping[str, Any]) -> bytes:
        return error_line(line_id, custom_id, kind, {"error": params["error"]} if has_details else None)

    return act


def _plain(line_id: str, custom_id: str, params: Mapping[str, Any]) -> bytes:
    return plain_error_line(line_id, custom_id, params["error"])


def _fails(summary: str, act: Act, **params: Any) -> FaultKind:
    return FaultKind(point=Point.ANSWER, summary=f"a request fails: {summary}", params=params, act=act)


KINDS: Mapping[str, FaultKind] = {
    "fails-at-start": FaultKind(point=Point.START, summary="the batch fails before any of its requests runs"),
    "row-retriable-status": _fails("RetriableHttpStatus", _http, status=500, body="it broke"),
    "row-final-status": _fails(
        "NonRetriableHttpStatus",
        _http,
        status=400,
        body='{"error":{"message":"the request is said to be wrong","code":"invalid_request"}}',
    ),
    "row-network-error": _fails(
        "NetworkError", _typed("NetworkError", has_details=True), error="connection refused"
    ),
    "row-timeout": _fails("Timeout", _typed("Timeout", has_details=True), error="no answer in 600 s"),
    "row-task-terminated": _fails("TaskTerminated", _typed("TaskTerminated", has_details=False)),
    "row-request-builder": _fails(
        "RequestBuilderError", _typed("RequestBuilderError", has_details=True), error="invalid header"
    ),
    "row-batch-terminated": _fails("BatchTerminated", _typed("BatchTerminated", has_details=False)),
    "row-plain-text": _fails("plain text in place of a cause", _plain, error="Unknown error"),
    "late-row": FaultKind(
        point=Point.RECORD,
        summary="one result is committed after later ones, and sorts before them",
        params={"delay_s": 0.5},
    ),
}
