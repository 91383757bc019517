"""Listen, announce, serve, stop: the local server as a process or a thread.

The announcement comes only once the socket listens. A stop is graceful and bounded: open replies get a
moment, then the process ends; nothing acknowledged is ever only in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from runner.localserver.app import build
from runner.localserver.settings import ServerSettings
from runner.localserver.sockets import listening_socket

GRACE_S = 5
HURRY_S = 0.5


class _Server(uvicorn.Server):
    """uvicorn, but a signal means a clean exit: it is not raised again after the shutdown.

    `started` is called when requests are taken and signals are caught: nobody hears of it before.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, then tell."""
        await super().startup(sockets=sockets)
        if self.started:
            self._tell_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM ask for a stop, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class StopHandle:
    """Stops a server that runs in another thread. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._server: uvicorn.Server | None = None
        self._is_stopped = threading.Event()

    def attach(self, server: uvicorn.Server) -> None:
        """Tie the handle to its server."""
        self._server = server
        if self._is_stopped.is_set():
            server.should_exit = True

    def stop(self, *, hurry_s: float = HURRY_S) -> None:
        """Ask for a stop; replies still open after `hurry_s` are cut."""
        self._is_stopped.set()
        server = self._server
        if server is None:
            return
        server.should_exit = True
        timer = threading.Timer(hurry_s, lambda: setattr(server, "force_exit", True))
        timer.daemon = True
        timer.start()


def serve(
    settings: ServerSettings,
    state_dir: Path,
    host: str,
    port: int,
    announce: Callable[[str], None],
    *,
    stop: StopHandle | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or `stop`; blocks. Port 0 takes a free one.

    announce    called once with the base URL (`http://127.0.0.1:PORT/v1`) when requests are taken
    Errors: AddressError when the address can't be had, OSError when the folder can't be used; FaultError
            and UpstreamUrlError for the settings.
    """
    connections: dict[Any, asyncio.Transport] = {}

    class Protocol(H11Protocol):
        """HTTP/1.1 that remembers its connections, so that a fault can close one without a reply."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            connections[transport.get_extra_info("peername")] = transport
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.pop(self.client, None)
            super().connection_lost(exc)

    def drop(scope: Scope) -> bool:
        transport = connections.get(tuple(scope.get("client") or ()))
        if transport is None:
            return False
        transport.abort()
        return True

    with listening_socket(host, port) as listener:
        app = build(state_dir, settings, drop=drop)
        config = uvicorn.Config(
            app,
            http=Protocol,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            loop="asyncio",
            timeout_graceful_shutdown=GRACE_S,
        )
        shown = f"[{host}]" if ":" in host else host
        base_url = f"http://{shown}:{listener.getsockname()[1]}/v1"
        server = _Server(config, lambda: announce(base_url))
        if stop is not None:
            stop.attach(server)
        server.run(sockets=[listener])
