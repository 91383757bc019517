"""A batch server on loopback that says and sends what a test tells it to: no rule of the real one holds.

    with HostileServer(lambda batch, look: Look(output=shuffled(batch))) as server:
        project = server.project(tmp_path / "p", 4)

A script is asked at each retrieve: `batch` is what was bought (its requests, which number it has), `look`
counts the retrieves from 1. What it returns stands in the batch object and in the two files until the next.
`created` replaces the reply to a create, `listed` the listing of batches.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fault.run_factories import project_of
from tests.project_factory import Project

_FILE = re.compile(rb'name="file".*?\r\n\r\n(.*?)\r\n--', re.DOTALL)


@dataclass
class Batch:
    """What was bought. `number` counts the batches of the server from 1."""

    id: str
    number: int
    input_file_id: str
    metadata: Mapping[str, str]
    requests: list[dict[str, Any]]
    looks: int = 0

    @property
    def ids(self) -> list[str]:
        return [request["custom_id"] for request in self.requests]


@dataclass
class Look:
    """What a retrieve shows. `fields` replace those of a batch that is well and done; None removes one."""

    output: bytes | None = None
    error: bytes | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    reply: tuple[int, bytes] | None = None


Script = Callable[[Batch, int], Look]
Reply = tuple[int, bytes]


class Cut(bytes):
    """A body of which the rest never comes."""


def text_of(request: Mapping[str, Any]) -> str:
    """The prompt of a request."""
    return str(request["body"]["messages"][-1]["content"])


def answer(request: Mapping[str, Any], text: str | None = None, **body: Any) -> dict[str, Any]:
    """A good result line, as a value."""
    message = {"role": "assistant", "content": f"answer to {text_of(request)}" if text is None else text}
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    return {
        "id": f"line-{request['custom_id']}",
        "custom_id": request["custom_id"],
        "response": {"status_code": 200, "request_id": "r", "body": {**value, **body}},
        "error": None,
    }


def failure(request: Mapping[str, Any], **error: Any) -> dict[str, Any]:
    """An error line, as a value."""
    found = error or {"code": "server_error", "message": "it broke"}
    return {
        "id": f"line-{request['custom_id']}",
        "custom_id": request["custom_id"],
        "response": None,
        "error": found,
    }


def lines(*values: object) -> bytes:
    """JSON lines; bytes stay as they are."""
    return b"".join(
        value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode() + b"\n"
        for value in values
    )


def good(batch: Batch) -> bytes:
    """Every request answered, in order."""
    return lines(*map(answer, batch.requests))


def well(batch: Batch, _look: int) -> Look:
    """A server that does its work."""
    return Look(output=good(batch))


def gone_half_way(batch: Batch, look: int) -> Look:
    """The first batch answers two of four requests, and then nobody knows it any more."""
    if batch.number > 1:
        return Look(output=good(batch))
    if look > 1:
        return Look(reply=(404, b'{"error":{"message":"no such batch"}}'))
    counts = {"total": 4, "completed": 2, "failed": 0}
    return Look(output=lines(*map(answer, batch.requests[:2])), fields={"request_counts": counts})


class HostileServer:
    """Listens until the block ends. `batches` are those bought, `seen` every request line."""

    def __init__(
        self,
        script: Script = well,
        *,
        created: Callable[[Batch], Reply | None] = lambda batch: None,
        listed: Callable[[list[dict[str, Any]], str], Any] | None = None,
        uploaded: Callable[[int], Reply | None] = lambda number: None,
    ) -> None:
        self.script = script
        self.created = created
        self.listed = listed
        self.uploaded = uploaded
        self.batches: list[Batch] = []
        self.seen: list[str] = []
        self.uploads = 0
        self._lock = threading.Lock()
        self._inputs: dict[str, bytes] = {}
        self._contents: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("transfer-encoding") == "chunked":
                    body = _read_chunks(self.rfile)
                status, data = server.answer(self.command, self.path, body)
                self.send_response(status)
                is_json = data[:1] in (b"{", b"[") and "/content" not in self.path
                self.send_header("Content-Type", "application/json" if is_json else "text/plain")
                self.send_header("Content-Length", str(len(data) + isinstance(data, Cut)))
                self.close_connection |= isinstance(data, Cut)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - the names of http.server

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def project(self, folder: Path, rows: int = 4, **sections: Any) -> Project:
        """A project whose manifest names this server."""
        provider = {"base_url": self.base_url, "poll_interval_s": 0.05, "settle_s": 0.3}
        model = {"provider": provider, "name": "m", "parameters": {"temperature": 0}}
        retry = {"backoff": {"initial": 0}}
        return project_of(folder, rows, **{"model": model, "retry": retry, **sections})

    # ------------------------------------------------------------ the API

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        """One request, one reply."""
        path, _, query = target.partition("?")
        with self._lock:
            self.seen.append(f"{method} {path}")
            match method, path.removeprefix("/v1").strip("/").split("/"):
                case "POST", ["files"]:
                    return self._upload(body)
                case "POST", ["batches"]:
                    return self._create(json.loads(body))
                case "GET", ["batches"]:
                    return self._list(query)
                case "GET", ["batches", batch_id]:
                    return self._retrieve(batch_id)
                case "GET", ["files", file_id, "content"]:
                    found = self._contents.get(file_id)
                    return (404, b'{"error":{"message":"no such file"}}') if found is None else (200, found)
                case _:
                    return 404, b'{"error":{"message":"no such thing"}}'

    def _upload(self, body: bytes) -> Reply:
        self.uploads += 1
        replaced = self.uploaded(self.uploads)
        if replaced is not None:
            return replaced
        found = _FILE.search(body)
        assert found is not None, body
        file_id = f"file-{self.uploads}"
        self._inputs[file_id] = found[1]
        return 200, json.dumps({"id": file_id, "object": "file", "status": "processed"}).encode()

    def _create(self, wish: dict[str, Any]) -> Reply:
        data = self._inputs[wish["input_file_id"]]
        requests = [json.loads(line) for line in data.split(b"\n") if line]
        number = len(self.batches) + 1
        batch = Batch(f"batch-{number}", number, wish["input_file_id"], wish.get("metadata") or {}, requests)
        replaced = self.created(batch)
        if replaced is None or replaced[0] < 400 or replaced[0] >= 500:
            self.batches.append(batch)
        return replaced or (200, json.dumps(self._object(batch, {"status": "validating"})).encode())

    def _object(self, batch: Batch, fields: Mapping[str, Any]) -> dict[str, Any]:
        total = len(batch.requests)
        value = {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "status": "completed",
            "input_file_id": batch.input_file_id,
            "output_file_id": None,
            "error_file_id": None,
            "created_at": 1_800_000_000,
            "metadata": dict(batch.metadata),
            "request_counts": {"total": total, "completed": total, "failed": 0},
        }
        return {**value, **fields}

    def _list(self, query: str) -> Reply:
        found = [self._object(batch, {"status": "in_progress"}) for batch in reversed(self.batches)]
        value: Any = {"object": "list", "data": found, "has_more": False}
        if self.listed is not None:
            value = self.listed(found, query)
        return 200, json.dumps(value).encode()

    def _retrieve(self, batch_id: str) -> Reply:
        batch = next((one for one in self.batches if one.id == batch_id), None)
        if batch is None:
            return 404, b'{"error":{"message":"no such batch"}}'
        batch.looks += 1
        look = self.script(batch, batch.looks)
        fields = dict(look.fields)
        for kind, content in (("output", look.output), ("error", look.error)):
            if content is not None:
                file_id = f"{kind}-{batch.number}"
                self._contents[file_id] = content
                fields.setdefault(f"{kind}_file_id", file_id)
        return look.reply or (200, json.dumps(self._object(batch, fields)).encode())


def _read_chunks(stream: Any) -> bytes:
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body
