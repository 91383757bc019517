"""A batch server of a few lines, as fast as this machine's loopback: files on disk, answers made on demand.

    python -m benchmarks.standin FOLDER       prints {"event": "listening", "port": ...}; ends with its stdin

Uploads are streamed to disk, batches stay `in_progress` until `POST /answer`, which makes the result files
of all batches there are: one answer to each request, in an order of its own, with an error in the error file
for every hundredth. Downloads are sent by the kernel. So the clock of a measured program runs against real
HTTP and real files, but against no work of the server's. It checks nothing and forgives everything.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.measure import tell

ERRORS_EVERY = 100
_PIECE_BYTES = 1 << 20
_CUSTOM_ID = re.compile(rb'"custom_id": ?"([^"]+)"')
_TEXT = (
    "The customer wants the invoice of last month again, with the address of the new office, and asks "
    "whether the price stays as it was when the contract was signed in spring; number "
)
_CREATED_S = 1_780_000_000


@dataclass(slots=True)
class Batch:
    """One batch: its input file, and once answered its result files."""

    id: str
    input_file_id: str
    endpoint: str
    window: str
    metadata: dict[str, str]
    requests: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        is_done = self.output_file_id is not None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "completion_window": self.window,
            "input_file_id": self.input_file_id,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "status": "completed" if is_done else "in_progress",
            "created_at": _CREATED_S,
            "request_counts": {
                "total": self.requests,
                "completed": self.requests - self.failed,
                "failed": self.failed,
            },
            "metadata": self.metadata,
        }


class Site:
    """Files and batches; one lock for the few words about them, none for their bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: dict[str, Batch] = {}
        self.lock = threading.Lock()
        self._count = 0

    def new_id(self, kind: str) -> str:
        with self.lock:
            self._count += 1
            return f"{kind}-{self._count:06d}"

    def answer(self) -> int:
        """Make the result files of every batch that has none; how many requests that were."""
        with self.lock:
            waiting = [batch for batch in self.batches.values() if batch.output_file_id is None]
        return sum(self._answer(batch) for batch in waiting)

    def _answer(self, batch: Batch) -> int:
        output_file_id, error_file_id = self.new_id("file"), self.new_id("file")
        outputs, errors = self.folder / output_file_id, self.folder / error_file_id
        counts = write_answers(self.folder / batch.input_file_id, outputs, errors, seed=batch.id)
        batch.requests, batch.failed = counts
        batch.error_file_id, batch.output_file_id = error_file_id, output_file_id
        return batch.requests


def write_answers(inputs: Path, outputs: Path, errors: Path, *, seed: str) -> tuple[int, int]:
    """The result files of an input file: an answer to each request in another order, every hundredth an
    error. Gives how many requests, and how many of them failed."""
    ids = _custom_ids(inputs)
    draw = random.Random(seed)
    draw.shuffle(ids)
    with outputs.open("wb") as answered, errors.open("wb") as failed:
        for number, custom_id in enumerate(ids):
            response_id = str(UUID(int=draw.getrandbits(128)))
            if number % ERRORS_EVERY == 0:
                failed.write(_error_line(custom_id, response_id))
            else:
                answered.write(_output_line(custom_id, response_id, number))
    return len(ids), -(-len(ids) // ERRORS_EVERY)


def _custom_ids(path: Path) -> list[str]:
    found = []
    with path.open("rb") as lines:
        for line in lines:
            match = _CUSTOM_ID.search(line[:4096]) or _CUSTOM_ID.search(line)
            if match is not None:
                found.append(match[1].decode())
    return found


def _output_line(custom_id: str, response_id: str, number: int) -> bytes:
    """About 660 bytes, as the hosted service writes them."""
    return (
        f'{{"id":"batch_req_{response_id}","custom_id":"{custom_id}","response":{{"status_code":200,'
        f'"request_id":null,"body":{{"choices":[{{"finish_reason":"stop","index":0,"logprobs":null,'
        f'"message":{{"content":"{_TEXT}{number}.","refusal":null,"role":"assistant"}}}}],'
        f'"created":{_CREATED_S},"id":"chatcmpl-{response_id}","model":"benchmark-model",'
        f'"object":"chat.completion","usage":{{"completion_tokens":41,"prompt_tokens":{90 + number % 7},'
        f'"total_tokens":{131 + number % 7}}}}}}},"error":null}}\n'
    ).encode()


def _error_line(custom_id: str, response_id: str) -> bytes:
    """A refusal for good: asking again would make another batch, which is not what is measured."""
    cause = {"type": "NonRetriableHttpStatus", "details": {"status": 400, "body": "the prompt is refused"}}
    error = {"code": None, "message": json.dumps(cause)}
    line = {"id": f"batch_req_{response_id}", "custom_id": custom_id, "response": None, "error": error}
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


class Handler(BaseHTTPRequestHandler):
    """The four routes that a batch needs, and `POST /answer`."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_POST(self) -> None:
        """Upload, create, or make the answers."""
        if self.path.endswith("/files"):
            self._upload()
        elif self.path.endswith("/batches"):
            self._create()
        else:
            self.rfile.read(self._length())
            self._reply({"answered": self.site.answer()})

    def do_GET(self) -> None:
        """A batch, the list of them, or a file's content."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[-1] == "content":
            self._content(parts[-2])
        elif parts[-1] in self.site.batches:
            self._reply(self.site.batches[parts[-1]].as_json())
        elif parts[-1] == "batches":
            listed = [batch.as_json() for batch in self.site.batches.values()]
            self._reply({"object": "list", "data": listed, "has_more": False})
        else:
            self._reply({"error": {"message": "not here"}}, status=404)

    def _length(self) -> int:
        return int(self.headers.get("content-length") or 0)

    def _upload(self) -> None:
        boundary = b"--" + self.headers["content-type"].partition("boundary=")[2].strip('"').encode()
        file_id = self.site.new_id("file")
        path = self.site.folder / file_id
        left = self._length()
        with path.open("wb") as file:
            while left:
                piece = self.rfile.read(min(left, _PIECE_BYTES))
                left -= len(piece)
                file.write(piece)
        size_bytes = path.stat().st_size - len(boundary)
        reply = {"id": file_id, "object": "file", "bytes": size_bytes, "filename": "input.jsonl"}
        self._reply({**reply, "purpose": "batch", "created_at": _CREATED_S, "status": "processed"})

    def _create(self) -> None:
        asked = json.loads(self.rfile.read(self._length()))
        batch = Batch(
            id=self.site.new_id("batch"),
            input_file_id=asked["input_file_id"],
            endpoint=asked["endpoint"],
            window=asked["completion_window"],
            metadata=asked.get("metadata") or {},
        )
        self.site.batches[batch.id] = batch
        self._reply(batch.as_json())

    def _content(self, file_id: str) -> None:
        with (self.site.folder / file_id).open("rb") as file:
            self._head(200, "application/octet-stream", Path(file.name).stat().st_size)
            self.wfile.flush()
            self.connection.sendfile(file)

    def _reply(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self._head(status, "application/json", len(body))
        self.wfile.write(body)

    def _head(self, status: int, content_type: str, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: a line for each request would be work of the server's."""


def main() -> None:
    """Serve until stdin closes, so that no server outlives what started it."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    handler = type("SiteHandler", (Handler,), {"site": Site(folder)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tell("listening", port=server.server_address[1], at=time.time())
    sys.stdin.read()


if __name__ == "__main__":
    main()
