"""JSON replies and list pages: bytes as the hosted service sends them, compact, absent fields left out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runner.core.wire import JsonError, decode_json, encode_json
from runner.localserver import refusals

MAX_JSON_BYTES = 2 * 1024 * 1024
Drop = Callable[[Scope], bool]
"""Closes the connection of a request without another byte; False where that is not possible."""


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON reply."""
    return Response(encode_json(value), status, dict(headers or {}), "application/json")


class AbortedReply(Response):
    """A 200 whose body never comes: headers go out, then the connection is closed."""

    def __init__(self, request: Request, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, 200, dict(headers), media_type)
        self._drop = request.app.state.drop
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await asyncio.sleep(0.05)  # lets the headers leave before the connection is cut
        self._drop(scope)


def list_object(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page; `first_id` and `last_id` are left out on an empty one."""
    ids = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, **ids, "has_more": has_more}


async def json_body(request: Request, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The decoded body, an object. Refusal 415, 413, 400 or 422 with words like the hosted framework's."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise refusals.text(415, "Expected request with `Content-Type: application/json`")
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise refusals.text(413, "Failed to buffer the request body: length limit exceeded")
    try:
        value = decode_json(data)
    except JsonError as error:
        words = f"{error.msg.split(': line ')[0]} at line {error.lineno} column {error.colno}"
        raise refusals.text(400, f"Failed to parse the request body as JSON: {words}") from error
    if not isinstance(value, dict):
        raise unfit("invalid type, expected a map", data)
    return value


def unfit(words: str, data: bytes = b"") -> refusals.Refusal:
    """422: the JSON does not have the shape that the route wants."""
    place = f" at line 1 column {len(data)}" if data else ""
    return refusals.text(422, f"Failed to deserialize the JSON body into the target type: {words}{place}")
