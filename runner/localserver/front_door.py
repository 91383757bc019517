"""What every HTTP request passes before a route sees it: the log, the faults, the key. Plain ASGI.

Order matters: the log sees everything, also what a fault swallows; a fault may answer in the server's
place (`fault_gate`); then the key is checked and becomes an owner. Routes outside /v1 (witness, faults,
health) need no key but a loopback peer.
"""

from __future__ import annotations

import hashlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.localserver import refusals
from runner.localserver.http_log import HttpLog
from runner.localserver.settings import ServerSettings

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
