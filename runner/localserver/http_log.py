"""Every HTTP request that reached a server process, in an append-only file: a line at its start and its end.

A line is one write to a file opened for appending, so it survives a kill of the process and several
processes may share the folder (each has its own file). A request without a status line got no reply.
It never holds a key: only method, path, query and status.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from runner.core.wire import decode_json, encode_json
from runner.localserver.database import now_us


class HttpLog:
    """The log of one process."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        path = state_dir / f"http-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def arrived(self, method: str, path: str, query: str) -> str:
        """Note a request; the id under which its status is noted later."""
        request_id = uuid.uuid4().hex
        self._write({"id": request_id, "at_us": now_us(), "method": method, "path": path, "query": query})
        return request_id

    def replied(self, request_id: str, status: int) -> None:
        """Note that a whole reply was handed to the connection."""
        self._write({"id": request_id, "status": status})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, value: dict[str, Any]) -> None:
        os.write(self._file, encode_json(value) + b"\n")


def read_http_log(state_dir: Path) -> list[dict[str, Any]]:
    """Every request noted by any process of this state folder, by time of arrival."""
    found: dict[str, dict[str, Any]] = {}
    for path in state_dir.glob("http-*.jsonl"):
        for line in path.read_bytes().split(b"\n"):
            if line:
                value = decode_json(line)
                found.setdefault(value["id"], {"status": None}).update(value)
    return sorted(found.values(), key=lambda value: int(value["at_us"]))
