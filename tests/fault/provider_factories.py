"""A scripted HTTP server on loopback that can do everything a server should not.

    def script(request, connection): connection.sendall(reply(500, b"no"))
    with ScriptedServer(script) as server:
        server.base_url, server.requests (what arrived, in order)

Every connection gets its own thread. By default the whole request is read before the script runs; with
`reads="head"` only its head, with `reads="nothing"` nothing. `silence()` waits for the end of the test.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from runner.core.model import Provider
from runner.provider import ApiKey, Client, Patience, Timeouts
from runner.provider.profiles import DOUBLEWORD, GENERIC, OPENAI

KEY = "sk-canary-4f1d9c0b7e/ABC+def"
BATCH_ID = "6c0b2c9e-0000-4000-8000-5f7f3a1d9c0b"
PROFILES: Mapping[str, Provider] = {"doubleword": DOUBLEWORD, "openai": OPENAI, "custom": GENERIC}


@dataclass(frozen=True, kw_only=True)
class SeenRequest:
    """One request as it arrived; `raw_head` is everything up to the blank line.

    With `reads="head"`, `body` is what came along with the head.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    raw_head: bytes
    port: int


Script = Callable[[SeenRequest, socket.socket], None]


@dataclass
class ScriptedServer:
    """Serves `script` until the block ends."""

    script: Script
    reads: str = "all"
    requests: list[SeenRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def silence(self, seconds: float = 60) -> bool:
        """Wait for the end of the test; whether it came."""
        return self._over.wait(seconds)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = self._read(connection)
            if request is not None:
                self.requests.append(request)
                self.script(request, connection)

    def _read(self, connection: socket.socket) -> SeenRequest | None:
        head, body = b"", b""
        if self.reads != "nothing":
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return None
                head += piece
            head, _, body = head.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = (f"{lines[0]}  ").split(" ", 2)
        headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines[1:])}
        length = int(headers.get("content-length", "0")) if self.reads == "all" else 0
        while len(body) < length:
            piece = connection.recv(65536)
            if not piece:
                return None
            body += piece
        return SeenRequest(
            method=method,
            target=target,
            headers=headers,
            body=body,
            raw_head=head,
            port=connection.getpeername()[1],
        )


def reply(
    status: int, body: bytes = b"", *, media_type: str = "text/plain; charset=utf-8", **headers: str
) -> bytes:
    """A whole HTTP/1.1 reply with Content-Length; `retry_after="60"` becomes `retry-after: 60`."""
    lines = [f"HTTP/1.1 {status} Word", f"content-type: {media_type}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def json_reply(status: int, body: bytes, **headers: str) -> bytes:
    return reply(status, body, media_type="application/json", **headers)


def always(answer: bytes) -> Script:
    return lambda request, connection: connection.sendall(answer)


def one_after_another(*answers: bytes) -> Script:
    """The first answer to the first request, and so on; the last one for good."""
    left = list(answers)
    return lambda request, connection: connection.sendall(left.pop(0) if len(left) > 1 else left[0])


def reset(connection: socket.socket) -> None:
    """Close with a TCP reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def chunked(*pieces: bytes, ended: bool = True, **headers: str) -> bytes:
    """A 200 with chunks, with or without the last one."""
    lines = ["HTTP/1.1 200 OK", "content-type: application/x-ndjson", "transfer-encoding: chunked"]
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join([*lines, "", ""]).encode() + body + (b"0\r\n\r\n" if ended else b"")


def provider_at(base_url: str, profile: str = "doubleword") -> Provider:
    return replace(PROFILES[profile], base_url=base_url, identity=base_url, api_key_env="SOME_API_KEY")


def client_for(
    server: ScriptedServer | str,
    *,
    profile: str = "doubleword",
    timeouts: Timeouts | None = None,
    patience: Patience | None = None,
    sleeps: list[float] | None = None,
) -> Client:
    """A client that doesn't sleep between tries but writes down how long it would have."""
    base_url = server if isinstance(server, str) else server.base_url
    return Client(
        provider_at(base_url, profile),
        api_key=ApiKey(KEY, name="SOME_API_KEY"),
        timeouts=timeouts,
        patience=patience,
        sleep=(sleeps if sleeps is not None else []).append,
    )
