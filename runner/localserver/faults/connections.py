"""Kinds that act on the connection, on the moment of an effect, or in another person's name.

`deed`      act is the calls that somebody else makes first; `{id}` is the id in the request's path, other
            names are fields of that batch
`late`      the client is left alone or told an error at once; the effect comes `seconds` later
`arrive`    the request's body is being read
`after`     the effect is committed, the reply is about to go
`wire`      act takes a whole `Message` and gives the one to send; kinds without act are the gate's own
`read`      reads see the state of `seconds` ago
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.localserver.faults.kind import BATCH, BATCHES, CONTENT, UPLOAD, FaultKind, Point
from runner.localserver.faults.refusing import page

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A whole reply. `headers` without Content-Length, which the gate adds."""

    status: int
    headers: Headers
    body: bytes

    def without(self, *names: bytes) -> Message:
        """The same without some headers."""
        kept = tuple((name, value) for name, value in self.headers if name.lower() not in names)
        return replace(self, headers=kept)


def _cut_json(message: Message, _params: Mapping[str, Any]) -> Message:
    return replace(message, body=message.body[: len(message.body) // 2])


def _web_page(message: Message, _params: Mapping[str, Any]) -> Message:
    found = page(200)
    headers = ((b"content-type", found.media_type.encode()),)
    return replace(message, status=200, headers=headers, body=found.body.replace(b"200 OK", b"Please log in"))


def _empty(message: Message, _params: Mapping[str, Any]) -> Message:
    return replace(message, body=b"")


def _duplicate_headers(message: Message, _params: Mapping[str, Any]) -> Message:
    return replace(message, headers=message.headers + message.headers)


def _odd_headers(message: Message, _params: Mapping[str, Any]) -> Message:
    odd = (
        (b"x-last-line", b"many"),
        (b"x-incomplete", b"perhaps"),
        (b"retry-after", b"yesterday"),
        (b"date", b"the day before"),
        (b"content-type", b";;;"),
    )
    bare = message.without(*(name for name, _ in odd))
    return replace(bare, headers=bare.headers + odd)


def _deed(summary: str, *calls: str, route: str = BATCH, arms: str | None = None) -> FaultKind:
    acts = calls if arms is None else (*calls, f"ARM {arms}")
    return FaultKind(point=Point.DEED, summary=summary, route=route, act=lambda: acts)


def _wire(
    summary: str,
    act: Callable[[Message, Mapping[str, Any]], Message] | None,
    route: str = "GET /v1/*",
    **params: Any,
) -> FaultKind:
    return FaultKind(point=Point.WIRE, summary=summary, route=route, params=params, act=act)


def _lag(summary: str, route: str) -> FaultKind:
    return FaultKind(point=Point.READ, summary=summary, route=route, params={"seconds": 1.0})


KINDS: Mapping[str, FaultKind] = {
    "batch-deleted": _deed("somebody else deletes the batch", "DELETE /v1/batches/{id}"),
    "batch-cancelled": _deed("somebody else cancels the batch", "POST /v1/batches/{id}/cancel"),
    "batch-expired": _deed(
        "the batch ends where it is and says `expired` from then on",
        "POST /v1/batches/{id}/cancel",
        arms="says-expired",
    ),
    "batch-retried": _deed(
        "somebody else lets the failed requests of the batch run again", "POST /v1/batches/{id}/retry"
    ),
    "batch-reopened": _deed(
        "somebody else cancels the batch and takes that back, which opens it again",
        "POST /v1/batches/{id}/cancel",
        "POST /v1/batches/{id}/retry",
    ),
    "input-deleted": _deed("somebody else deletes the input file", "DELETE /v1/files/{input_file_id}"),
    "output-deleted": _deed(
        "somebody else deletes the file before it is read", "DELETE /v1/files/{id}", route=CONTENT
    ),
    "late-effect": FaultKind(
        point=Point.LATE,
        route="POST /v1/*",
        summary="the client gets a closed connection (or an error status), the effect comes seconds later",
        params={"seconds": 1.0, "status": 0},
    ),
    "reset-upload": FaultKind(
        point=Point.ARRIVE,
        route=UPLOAD,
        summary="the connection closes in the middle of the request's body",
        params={"after_bytes": 300},
    ),
    "slow-upload": FaultKind(
        point=Point.ARRIVE,
        route=UPLOAD,
        summary="the server stops reading the request's body for a while",
        params={"after_bytes": 300, "seconds": 1.0},
    ),
    "lost-reply": FaultKind(
        point=Point.AFTER,
        route="POST /v1/*",
        summary="the effect happens, the connection closes without a reply",
    ),
    "error-after-effect": FaultKind(
        point=Point.AFTER,
        route="POST /v1/*",
        summary="the effect happens, the reply is an error (500, 502, 503 or 504)",
        params={"status": 500},
    ),
    "abort-download": _wire(
        "the connection closes in the middle of the body", None, CONTENT, after_bytes=300
    ),
    "cut-reply": _wire(
        "the effect happens, the connection closes in the middle of the reply",
        None,
        "POST /v1/*",
        after_bytes=20,
    ),
    "drip": _wire("the body comes a few bytes at a time", None, bytes=40, pause_s=0.01),
    "cut-json": _wire("the body is whole for HTTP, and half of what it should be", _cut_json),
    "html-200": _wire("200 with a web page: a proxy that wants a login", _web_page),
    "empty-200": _wire("200 with an empty body", _empty),
    "duplicate-headers": _wire("every header comes twice", _duplicate_headers),
    "odd-headers": _wire("headers hold words where numbers and dates belong", _odd_headers),
    "replica-lag": _lag("reads of files and batches see the state of some seconds ago", "GET /v1/*"),
    "stale-state": _lag("a batch is told as it was some seconds ago", BATCH),
    "stale-list": _lag("lists show what was there some seconds ago", BATCHES),
}
