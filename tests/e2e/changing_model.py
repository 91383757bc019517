"""A model behind the local server that says what the test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ChangingModel:
    """`word` is its answer and `status` its HTTP status, but for the next replies: `statuses` first."""

    address: str = ""
    status: int = 200
    word: str = ""
    finish_reason: str = "stop"
    is_slow: bool = False
    statuses: list[int] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """While it is slow, or the test is over."""
        while self.is_slow and not self.is_over.wait(0.02):
            pass

    def next_status(self) -> int:
        """The status of one reply."""
        return self.statuses.pop(0) if self.statuses else self.status

    def reply(self) -> bytes:
        """The body of one answer."""
        message = {"role": "assistant", "content": self.word}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return json.dumps({"id": "x", "model": "m", "choices": [choice]}).encode()


@contextmanager
def changing_model() -> Iterator[ChangingModel]:
    """On a loopback port, as long as the block lasts."""
    model = ChangingModel()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            model.wait()
            status = model.next_status()
            body = model.reply() if status == 200 else b"no"
            if model.is_over.is_set():
                return  # nobody waits any more
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        model.address = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield model
        finally:
            model.is_over.set()
            server.shutdown()
            thread.join()
