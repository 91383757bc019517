"""The HTTP side of `run schedule serve`: health, metrics, the provider's webhooks; in a thread.

    GET  /healthz    200, or 503 where the last tick could do nothing; JSON
    GET  /metrics    for Prometheus
    POST /webhook    only with a secret: 204 taken (also a repeated one), 4xx refused

Beside localserver the second home of Starlette and uvicorn: both are doors that this program opens, and the
loop behind this one is the schedule's. It decides nothing: a webhook that is believed becomes a wake-up, the
loop looks at the batch. Bodies are bounded in size and time, and an error tells a stranger nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from runner.localserver.sockets import listening_socket
from runner.schedule.health import Health
from runner.schedule.metrics import CONTENT_TYPE, Metrics
from runner.schedule.webhooks import MAX_BODY_BYTES, BatchEvent, RefusedWebhookError, Secrets, Seen, receive

_BODY_S: Final = 10.0
_LIFETIME_S: Final = 30.0
"""Of any connection: nothing here takes longer, and whoever sends nothing holds no place for long."""
_MOST_CONNECTIONS: Final = 64
_END_S: Final = 2.0


class Door:
    """What the routes need. `wake` is called with each new event, from the door's thread."""

    def __init__(
        self,
        health: Health,
        metrics: Metrics,
        *,
        secrets: Secrets | None,
        wake: Callable[[BatchEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._secrets = secrets
        self._wake = wake
        self._clock = clock
        self._seen = Seen()

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/healthz", self._healthz, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
        ]
        if self._secrets is not None:
            routes.append(Route("/webhook", self._webhook, methods=["POST"]))
        return Starlette(routes=routes, exception_handlers={500: _broken})

    async def _healthz(self, _request: Request) -> Response:
        state = self._health.as_json()
        return JSONResponse(state, status_code=200 if self._health.is_well else 503)

    async def _show_metrics(self, _request: Request) -> Response:
        return Response(self._metrics.as_text(), headers={"Content-Type": CONTENT_TYPE})

    async def _webhook(self, request: Request) -> Response:
        assert self._secrets is not None  # noqa: S101 - the route is there only with secrets
        try:
            body = await _body(request)
            headers = {name.lower(): text for name, text in request.headers.items()}
            event = receive(headers, body, self._secrets, now_s=self._clock())
        except RefusedWebhookError as refusal:
            self._metrics.count_webhook("refused")
            return PlainTextResponse(f"{refusal}\n", status_code=refusal.status)
        if event is None:
            self._metrics.count_webhook("ignored")
        elif not self._seen.is_new(event.event_id):
            self._metrics.count_webhook("duplicate")
        else:
            self._metrics.count_webhook("accepted")
            self._wake(event)
        return Response(status_code=204)


async def _broken(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("Internal server error\n", status_code=500)


async def _body(request: Request) -> bytes:
    """The body. Raises RefusedWebhookError for one that is too long, too slow, or cut."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RefusedWebhookError(413, "the body is too long")
    except TimeoutError as error:
        raise RefusedWebhookError(408, "the body did not come in time") from error
    except ClientDisconnect as error:
        raise RefusedWebhookError(400, "the body was cut") from error
    return bytes(body)


@contextmanager
def listening(door: Door, host: str, port: int, *, lifetime_s: float = _LIFETIME_S) -> Iterator[str]:
    """Serve the door in a thread while the block runs; gives its address. Port 0 takes a free one.

    `lifetime_s`: a connection is cut then. Raises localserver's AddressError where the address can't be had.
    """

    class Protocol(H11Protocol):
        """HTTP/1.1 on a connection that ends."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            asyncio.get_running_loop().call_later(lifetime_s, transport.abort)
            super().connection_made(transport)

    with listening_socket(host, port) as listener:
        config = uvicorn.Config(
            door.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http=Protocol,
            loop="asyncio",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="door", daemon=True)
        thread.start()
        shown = f"[{host}]" if ":" in host else host
        try:
            yield f"http://{shown}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_END_S)
