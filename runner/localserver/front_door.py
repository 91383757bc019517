"""What every HTTP request passes before a route sees it: the log, the faults, the key. Plain ASGI.

Order matters: the log sees everything, also what a fault swallows; a fault may answer in the server's
place; then the key is checked and becomes an owner. Routes outside /v1 (witness, faults, health) need no
key but a loopback peer.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.localserver import refusals
from runner.localserver.faults import Fault, FaultPlan, Point
from runner.localserver.http_log import HttpLog
from runner.localserver.refusals import Refusal
from runner.localserver.settings import ServerSettings

Drop = Callable[[Scope], bool]
"""Closes the connection of a request without another byte; False where that is not possible."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "testclient"})
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]", "testserver")


class LogGate:
    """Notes each request at arrival and the status of each reply that was sent whole."""

    def __init__(self, app: ASGIApp, log: HttpLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._log.arrived(
            scope["method"], scope["path"], scope["query_string"].decode("latin-1")
        )
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._log.replied(request_id, status)

        await self._app(scope, receive, noted)


_CAPACITY = (
    "Insufficient capacity for {window} completion window. The following models are currently at capacity: "
    "{models}. Try again later or use a longer completion window."
)
_VOLUME = "Unverified accounts can submit at most 1000 requests per hour of completion window."
_GATEWAY = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "</body>\r\n</html>\r\n"
)


def _html(status: int, title: str) -> Refusal:
    return Refusal(status, _GATEWAY.format(f"{status} {title}").encode(), "text/html")


_REPLIES: Mapping[str, Callable[[Mapping[str, Any]], Refusal]] = {
    "capacity-429": lambda params: refusals.busy(_CAPACITY.format(**params)),
    "volume-429": lambda _: refusals.busy(_VOLUME),
    "upload-queue-429": lambda _: refusals.busy("Too many file uploads in progress. Please retry later."),
    "balance-402": lambda _: refusals.text(402, "Account balance too low. Please add credits to continue."),
    "unauthorized-401": lambda _: refusals.unauthorized(),
    "internal-500": lambda _: refusals.text(500, "Internal server error"),
    "unavailable-503": lambda _: refusals.unavailable("Service temporarily unavailable. Please retry later."),
    "gateway-502": lambda _: _html(502, "Bad Gateway"),
    "gateway-504": lambda _: _html(504, "Gateway Time-out"),
}
_ERRORS_AFTER: Mapping[int, str] = {
    500: "internal-500",
    502: "gateway-502",
    503: "unavailable-503",
    504: "gateway-504",
}


class FaultGate:
    """Acts on the faults of the points before, after and body."""

    def __init__(self, app: ASGIApp, faults: FaultPlan, drop: Drop) -> None:
        self._app = app
        self._faults = faults
        self._drop = drop
        self._later: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        fault = await self._take(Point.BEFORE, scope)
        if fault is not None and fault.kind == "slow-request":
            await asyncio.sleep(float(fault.params["seconds"]))
        elif fault is not None and fault.kind == "reset":
            self._drop(scope)
            return
        elif fault is not None and fault.kind == "late-effect":
            await self._put_off(scope, receive, float(fault.params["seconds"]))
            return
        elif fault is not None:
            await _REPLIES[fault.kind](fault.params).response()(scope, receive, send)
            return
        await self._app(scope, receive, _FaultySend(self._take, self._drop, scope, receive, send))

    async def _put_off(self, scope: Scope, receive: Receive, seconds: float) -> None:
        """Take the whole request and leave the client alone; the application sees it later."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        task = asyncio.create_task(self._act_later(scope, body, seconds))
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        self._drop(scope)

    async def _act_later(self, scope: Scope, body: bytes, seconds: float) -> None:
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def unheard(_message: Message) -> None:
            pass

        await asyncio.sleep(seconds)
        await self._app(scope, replayed, unheard)

    async def _take(self, point: Point, scope: Scope) -> Fault | None:
        route = f"{scope['method']} {scope['path']}"
        query = scope["query_string"].decode("latin-1")
        text = f"{scope['path']}?{query} {scope.get('state', {}).get('fault_text', '')}"
        return await asyncio.to_thread(self._faults.take, point, route, text)


_FOREIGN_LINE = b'{"id":"x","custom_id":"stranger","response":{"status_code":200,"body":{}},"error":null}\n'


class _FaultySend:
    """The `send` of one request: may swallow the reply, put another in its place, or cut its body."""

    def __init__(
        self,
        take: Callable[[Point, Scope], Awaitable[Fault | None]],
        drop: Drop,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._take = take
        self._drop = drop
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_silent = False
        self._bytes_left: int | None = None

    async def __call__(self, message: Message) -> None:
        """ASGI send."""
        if self._is_silent:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._bytes_left is not None:
            await self._cut(message, self._bytes_left)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        after = await self._take(Point.AFTER, self._scope)
        if after is not None:
            self._is_silent = True
            if after.kind == "lost-reply":
                self._drop(self._scope)
                return
            kind = _ERRORS_AFTER.get(int(after.params["status"]), "internal-500")
            await _REPLIES[kind](after.params).response()(self._scope, self._receive, self._send)
            return
        body = await self._take(Point.BODY, self._scope)
        if body is not None and body.kind == "foreign-ids":
            await self._send(message)
            await self._send({"type": "http.response.body", "body": _FOREIGN_LINE, "more_body": True})
            return
        self._bytes_left = int(body.params["after_bytes"]) if body is not None else None
        await self._send(message)

    async def _cut(self, message: Message, left: int) -> None:
        body = message.get("body", b"")
        if len(body) < left and message.get("more_body", False):
            self._bytes_left = left - len(body)
            await self._send(message)
            return
        self._is_silent = True
        await self._send({"type": "http.response.body", "body": body[:left], "more_body": True})
        await asyncio.sleep(0.05)  # lets the bytes leave before the connection is cut
        self._drop(self._scope)


class KeyGate:
    """Turns the bearer key into an owner (a hash), or answers 401; keeps the rest to loopback peers."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refusal = None
        if scope["path"].startswith("/v1/"):
            owner = self._owner(headers.get(b"authorization", b""))
            refusal = refusals.unauthorized() if owner is None else None
            scope.setdefault("state", {})["owner"] = owner
        elif not _is_local(scope, headers.get(b"host", b"")):
            refusal = refusals.text(403, "Only from this machine")
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _owner(self, header: bytes) -> str | None:
        key = header.removeprefix(b"Bearer ")
        if key == header or not key.strip():
            return None
        accepted = self._settings.api_keys
        if accepted is not None and key.decode("latin-1") not in accepted:
            return None
        return hashlib.sha256(b"owner:" + key).hexdigest()[:16]


def _is_local(scope: Scope, host: bytes) -> bool:
    client = scope.get("client")
    name = host.decode("latin-1").rsplit(":", 1)[0] if not host.endswith(b"]") else host.decode("latin-1")
    return client is not None and client[0] in _LOOPBACK and name in _LOOPBACK_HOSTS
