"""Acts on the faults of replies: swallowed, put in another's place, told otherwise, cut or slow.

The outline, once through::

    after                       no reply, or an error in its place
    object, listing, content    the whole reply is held, rewritten, and sent as one piece
    wire                        what is sent is rewritten once more, cut, or sent slowly

Replies other than 2xx are only ever swallowed, cut or slowed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from runner.core.wire import JsonError, decode_json, encode_json
from runner.localserver.faults import KINDS, Fault, Point
from runner.localserver.faults.connections import Message
from runner.localserver.faults.contents import Reading
from runner.localserver.faults.refusing import error
from runner.localserver.parameters import DEFAULT_LIMIT, clamped
from runner.localserver.replies import Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """A listing or a result file that will be told otherwise.

    `ignores` were kept from the application; of `asked`, the query as it came, skip and limit are obeyed
    here, for lines as they are told. `reading` is None for listings.
    """

    fault: Fault
    ignores: tuple[str, ...]
    asked: Mapping[str, str]
    reading: Reading | None


class FaultySend:
    """The `send` of one request."""

    def __init__(
        self,
        take: Callable[[Point], Awaitable[Fault | None]],
        drop: Drop,
        scope: Scope,
        receive: Receive,
        send: Send,
        rewriting: Rewriting | None,
    ) -> None:
        self._take = take
        self._drop = drop
        self._scope = scope
        self._receive = receive
        self._send = send
        self._rewriting = rewriting
        self._is_over = False
        self._object: Fault | None = None
        self._wire: Fault | None = None
        self._held: Message | None = None
        self._sent_bytes = 0

    async def __call__(self, message: AsgiMessage) -> None:
        """ASGI send."""
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._held is None:
            await self._send_body(body, more)
            return
        self._held = replace(self._held, body=self._held.body + body)
        if not more:
            await self._send_whole(self._rewritten(self._held))

    # ------------------------------------------------------------ the start

    async def _start(self, message: AsgiMessage) -> None:
        after = await self._take(Point.AFTER)
        if after is not None:
            self._is_over = True
            if after.kind == "lost-reply":
                self._drop(self._scope)
            else:
                await error(int(after.params["status"])).response()(self._scope, self._receive, self._send)
            return
        is_well = 200 <= message["status"] < 300
        if not is_well:
            self._rewriting = None
        elif self._rewriting is None:
            self._object = await self._take(Point.OBJECT)
        self._wire = await self._take(Point.WIRE)
        is_whole = self._wire is not None and KINDS[self._wire.kind].act is not None
        if self._rewriting is None and self._object is None and not is_whole:
            await self._send(message)
            return
        headers = tuple((bytes(name), bytes(value)) for name, value in message["headers"])
        whole = Message(status=message["status"], headers=headers, body=b"")
        self._held = whole.without(b"content-length")

    # ------------------------------------------------------------ rewriting

    def _rewritten(self, message: Message) -> Message:
        rewriting, fault = self._rewriting, self._object
        if rewriting is not None and rewriting.reading is not None:
            message = replace(message, body=_content(message.body, rewriting, rewriting.reading))
        elif rewriting is not None:
            message = replace(message, body=_value(message.body, rewriting.fault))
        elif fault is not None:
            message = replace(message, body=_value(message.body, fault))
        act = KINDS[self._wire.kind].act if self._wire is not None else None
        return message if act is None or self._wire is None else act(message, self._wire.params)

    async def _send_whole(self, message: Message) -> None:
        length = (b"content-length", b"%d" % len(message.body))
        start = {
            "type": "http.response.start",
            "status": message.status,
            "headers": [*message.headers, length],
        }
        await self._send(start)
        await self._send_body(message.body, False)

    # ------------------------------------------------------------ the wire

    async def _send_body(self, body: bytes, more: bool) -> None:
        params = self._wire.params if self._wire is not None else {}
        if "after_bytes" in params:
            await self._cut(body, more, int(params["after_bytes"]) - self._sent_bytes)
        elif "pause_s" in params:
            await self._drip(body, more, int(params["bytes"]), float(params["pause_s"]))
        else:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _cut(self, body: bytes, more: bool, left: int) -> None:
        self._sent_bytes += len(body)
        if len(body) < left and more:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            return
        self._is_over = True
        await self._send({"type": "http.response.body", "body": body[: max(left, 0)], "more_body": True})
        await asyncio.sleep(0.05)  # lets the bytes leave before the connection is cut
        self._drop(self._scope)

    async def _drip(self, body: bytes, more: bool, step: int, pause_s: float) -> None:
        for start in range(0, len(body), max(step, 1)):
            piece = body[start : start + max(step, 1)]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(pause_s)
        if not more:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _value(body: bytes, fault: Fault) -> bytes:
    """A JSON object told otherwise; what is none is left as it is."""
    act: Callable[[dict[str, Any], Mapping[str, Any]], Any] | None = KINDS[fault.kind].act
    try:
        value = decode_json(body)
    except JsonError:
        return body
    return body if act is None or not isinstance(value, dict) else encode_json(act(value, fault.params))


def _content(body: bytes, rewriting: Rewriting, reading: Reading) -> bytes:
    """Result lines told otherwise, from `skip` on, `limit` of them."""
    act: Callable[[list[bytes], Reading], list[bytes]] | None = KINDS[rewriting.fault.kind].act
    lines = [line + b"\n" for line in body.split(b"\n") if line]
    told = b"".join(lines if act is None else act(lines, reading))
    pieces = _pieces(told)
    skip, limit = _number(rewriting.asked.get("skip")) or 0, _number(rewriting.asked.get("limit"))
    return b"".join(pieces[skip:] if limit is None else pieces[skip : skip + clamped(limit, DEFAULT_LIMIT)])


def _pieces(told: bytes) -> list[bytes]:
    """Lines with their newline, split at 0x0A and nowhere else; the last may lack it."""
    *lines, rest = told.split(b"\n")
    return [line + b"\n" for line in lines] + ([rest] if rest else [])


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else None
