"""An end for every call: when time is up, the connection is shut down under it.

Theory. A read timeout starts anew with every byte, so a server that sends one byte a minute is never
timed out, not even inside the reply's headers. The only thing that ends any blocking call from outside
is closing its socket. httpx names each new connection to a `trace` callback; a timer thread shuts that
socket down, and the call returns as if the server had hung up. Rejected: checks between chunks (blind
while headers drip), a custom network backend (httpx has no public seam for one), signals (main thread
only). It needs one connection per call, which `exchange` keeps to.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

_NEW_CONNECTION = ("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")


class Deadline:
    """A context manager around one call. After `limit_s` seconds its connection is shut down."""

    def __init__(self, limit_s: float) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_over = False
        self._timer = self._new_timer(limit_s)

    @property
    def is_over(self) -> bool:
        """Whether time ran out before the call ended."""
        return self._is_over

    def extend(self, limit_s: float) -> None:
        """Start anew with another limit, for the next part of the call."""
        self._timer.cancel()
        self._timer = self._new_timer(limit_s)
        self._timer.start()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpx's `trace` extension: remember the newest connection of this call."""
        if event.endswith(_NEW_CONNECTION):
            with self._lock:
                self._socket = info["return_value"].get_extra_info("socket")
                if self._is_over:
                    self._shut_down()

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    def _new_timer(self, limit_s: float) -> threading.Timer:
        timer = threading.Timer(limit_s, self._end)
        timer.daemon = True
        return timer

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # the call ended, and its socket with it, a moment ago
                # Not `self._socket.shutdown`: for TLS that drops the session under the reading thread.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
