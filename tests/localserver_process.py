"""Start a real local server in a subprocess, talk to it, and read its witness.

    def test_something(tmp_path):
        with running_server(tmp_path / "server") as server:
            server.base_url        # http://127.0.0.1:PORT/v1
            server.post("/files", ...)            # (status, headers, body), standard library only
            server.witness.executions()           # what it executed, straight from its database

The process dies with the test process (its standard input closes) and is stopped at the end of the block.
Settings: any field of `runner.localserver.settings.ServerSettings`, as keyword arguments (JSON values).
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.warm_program import WarmPopen

WAIT_S = 30.0
KEY = "test-key"
T = TypeVar("T")


def eventually(question: Callable[[], T | None], *, wait_s: float = WAIT_S, what: str = "condition") -> T:
    """Ask until the answer is true; fail after `wait_s`."""
    deadline = time.monotonic() + wait_s
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            message = f"{what} did not come within {wait_s} s"
            raise AssertionError(message)
        time.sleep(0.01)


@dataclass(frozen=True)
class Witness:
    """What a server wrote down, read from its database file (also while it runs, or after it died)."""

    state_dir: Path

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row of `witness_upload`, `_create`, `_change` or `_execution`, in order."""
        with closing(sqlite3.connect(self.state_dir / "server.db", timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY seq")]

    def uploads(self) -> list[dict[str, Any]]:
        """Accepted uploads: file_id, filename, size_bytes, requests, sha256, owner, at_us."""
        return self.rows("witness_upload")

    def creates(self) -> list[dict[str, Any]]:
        """Accepted creates, also those whose reply was lost: batch_id, input_file_id, total, metadata."""
        return self.rows("witness_create")

    def changes(self) -> list[dict[str, Any]]:
        """Deletes, cancels and retries: action, id."""
        return self.rows("witness_change")

    def executions(self) -> list[dict[str, Any]]:
        """Executed requests: batch_id, custom_id, body_sha256, result (completed or failed)."""
        return self.rows("witness_execution")

    def http(self) -> list[dict[str, Any]]:
        """Every HTTP request in order of arrival: method, path, query, status (None: no reply was sent)."""
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.state_dir.glob("http*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                if line:
                    value = json.loads(line)
                    found.setdefault(value["id"], {"status": None}).update(value)
        return sorted(found.values(), key=lambda value: value["at_us"])


@dataclass
class ServerProcess:
    """A running server subprocess."""

    state_dir: Path
    process: subprocess.Popen[bytes]
    base_url: str
    witness: Witness = field(init=False)

    def __post_init__(self) -> None:
        self.witness = Witness(self.state_dir)

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = KEY,
    ) -> tuple[int, dict[str, str], bytes]:
        """One HTTP request with the standard library; `path` below /v1, or absolute with a leading `//`."""
        parts = urlsplit(self.base_url)
        target = path[1:] if path.startswith("//") else parts.path + path
        sent = dict(headers or {})
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {key}")
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_S)
        with closing(connection):
            connection.request(method, target, body=body, headers=sent)
            reply = connection.getresponse()
            return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()

    def get(self, path: str, **kwargs: Any) -> Any:
        """GET that must be 200; decoded JSON."""
        status, _, data = self.call("GET", path, **kwargs)
        assert status == 200, (status, data)
        return json.loads(data)

    def send_json(self, path: str, value: object, **kwargs: Any) -> Any:
        """POST of a JSON body that must be 2xx; decoded JSON."""
        data = json.dumps(value).encode()
        status, _, reply = self.call(
            "POST", path, body=data, headers={"Content-Type": "application/json"}, **kwargs
        )
        assert status // 100 == 2, (status, reply)
        return json.loads(reply)

    def upload(self, data: bytes, *, filename: str = "input.jsonl", **kwargs: Any) -> tuple[int, bytes]:
        """POST /files; (status, body)."""
        body, content_type = multipart(data, filename=filename)
        status, _, reply = self.call(
            "POST", "/files", body=body, headers={"Content-Type": content_type}, **kwargs
        )
        return status, reply

    def start_batch(self, data: bytes, *, window: str = "24h", **metadata: str) -> dict[str, Any]:
        """Upload `data` and create a batch over it; the batch object."""
        status, reply = self.upload(data)
        assert status == 201, reply
        return dict(
            self.send_json(
                "/batches",
                {
                    "input_file_id": json.loads(reply)["id"],
                    "endpoint": "/v1/chat/completions",
                    "completion_window": window,
                    "metadata": metadata,
                },
            )
        )

    def finished(self, batch_id: str, *, wait_s: float = WAIT_S) -> dict[str, Any]:
        """Wait until a batch has a final status; the batch object."""

        def final() -> dict[str, Any] | None:
            batch: dict[str, Any] = self.get(f"/batches/{batch_id}")
            return batch if batch["status"] in ("completed", "failed", "cancelled") else None

        return eventually(final, wait_s=wait_s, what=f"the end of batch {batch_id}")

    def content(self, file_id: str, query: str = "") -> list[dict[str, Any]]:
        """The decoded lines of a file's content."""
        status, _, data = self.call("GET", f"/files/{file_id}/content{query}")
        assert status == 200, (status, data)
        return [json.loads(line) for line in data.split(b"\n") if line]

    def arm(self, kind: str, **fault: Any) -> None:
        """Arm a fault: see runner/localserver/faults.py."""
        self.send_json("//faults", {"kind": kind, **fault})

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self) -> int:
        """SIGTERM, and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(WAIT_S)
        finally:
            if self.process.stdin is not None:
                self.process.stdin.close()


def start_server(state_dir: Path, **settings: Any) -> ServerProcess:
    """Start `python -m runner.localserver` and wait until it listens. The caller stops it."""
    state_dir.mkdir(parents=True, exist_ok=True)
    stamp = f"{os.getpid()}-{time.monotonic_ns()}"
    announce = state_dir / f"announce-{stamp}.json"
    command = [sys.executable, "-m", "runner.localserver", "--state", str(state_dir)]
    command += ["--announce", str(announce), "--exit-with-stdin"]
    if settings:
        path = state_dir / f"settings-{stamp}.json"
        path.write_text(json.dumps(settings))
        command += ["--settings", str(path)]
    process = WarmPopen(command, stdin=subprocess.PIPE)

    def announced() -> str | None:
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        return str(json.loads(announce.read_bytes())["base_url"]) if announce.exists() else None

    try:
        base_url = eventually(announced, what="the announcement of the local server")
    except BaseException:
        process.kill()
        process.wait(WAIT_S)
        raise
    return ServerProcess(state_dir=state_dir, process=process, base_url=base_url)


@contextmanager
def running_server(state_dir: Path, **settings: Any) -> Iterator[ServerProcess]:
    """A server for the length of a block; stopped in any case."""
    server = start_server(state_dir, **settings)
    try:
        yield server
    finally:
        server.stop()


def chat_line(custom_id: str, text: str = "hello", **body: Any) -> bytes:
    """One request line for /v1/chat/completions, newline included."""
    value = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "local", "messages": [{"role": "user", "content": text}]} | body,
    }
    return json.dumps(value).encode() + b"\n"


def multipart(
    data: bytes, *, filename: str = "input.jsonl", purpose: str | None = "batch"
) -> tuple[bytes, str]:
    """A multipart/form-data body with one file, and its content type."""
    edge = b"--------------------------7f3a"
    fields = b""
    if purpose is not None:
        fields = b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n%b\r\n' % (
            edge,
            purpose.encode(),
        )
    head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\n'
    body = fields + head % (edge, filename.encode()) + data + b"\r\n--%b--\r\n" % edge
    return body, f"multipart/form-data; boundary={edge.decode()}"
