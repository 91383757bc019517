"""Asking a real OpenAI-compatible server instead of answering: a few threads, plain HTTP, bounded retries.

Retried, as the hosted service does: status 500 and above, 429, 408, 404, 499, network errors, timeouts,
with a back-off of 1 s doubled up to 10 s, no longer than the batch's deadline and `max_attempts` allow.
A stop abandons calls under way: their requests are not recorded and run again at the next start.
It must not know the database: results go out through `finished`.
"""

from __future__ import annotations

import http.client
import os
import queue
import ssl
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

from runner.localserver.result_lines import is_retriable
from runner.localserver.settings import ServerSettings

MAX_REPLY_BYTES = 64 * 1024 * 1024


class UpstreamUrlError(ValueError):
    """The upstream's address can't be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamResult:
    """What came of one request: status and body, or `error` (type and details of an error line)."""

    token: int
    status: int = 0
    body: bytes = b""
    error: tuple[str, dict[str, Any] | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    token: int
    url: str
    body: bytes
    deadline_us: int


class Upstream:
    """A handful of threads that send requests upstream."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[UpstreamResult] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"upstream-{number}", daemon=True)
            for number in range(max(settings.upstream_concurrency, 1))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, token: int, url: str, body: bytes, deadline_us: int) -> None:
        """Queue one request; `url` is the line's (`/v1/...`), `token` comes back with the result."""
        self._tasks.put(_Task(token=token, url=url, body=body, deadline_us=deadline_us))

    def finished(self) -> list[UpstreamResult]:
        """What has finished since the last call."""
        found: list[UpstreamResult] = []
        while True:
            try:
                found.append(self._results.get_nowait())
            except queue.Empty:
                return found

    def stop(self) -> None:
        """Ask the threads to end; does not wait for calls under way."""
        self._stopping.set()
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None and not self._stopping.is_set():
            result = self._with_retries(task)
            if not self._stopping.is_set():
                self._results.put(result)

    def _with_retries(self, task: _Task) -> UpstreamResult:
        settings = self._settings
        for attempt in range(max(settings.max_attempts, 1)):
            result = send_once(settings, task.url, task.body)
            is_final = result.error is None and not is_retriable(result.status)
            pause_s = min(settings.backoff_base_s * 2**attempt, settings.backoff_cap_s)
            is_late = time.time() + pause_s > task.deadline_us / 1_000_000
            if is_final or is_late or attempt + 1 >= settings.max_attempts or self._stopping.wait(pause_s):
                break
        return replace(result, token=task.token)


def send_once(settings: ServerSettings, url: str, body: bytes) -> UpstreamResult:
    """One request upstream, one reply; network trouble and timeouts come back as `error`."""
    try:
        status, data = _exchange(settings, url, body)
    except TimeoutError as error:
        return UpstreamResult(token=0, error=("Timeout", {"error": _words(error)}))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return UpstreamResult(token=0, error=("NetworkError", {"error": _words(error)}))
    return UpstreamResult(token=0, status=status, body=data)


def _exchange(settings: ServerSettings, url: str, body: bytes) -> tuple[int, bytes]:
    base = parsed_upstream(settings.upstream or "")
    headers = {"Content-Type": "application/json"}
    name = settings.upstream_api_key_env
    if name and os.environ.get(name):
        headers["Authorization"] = f"Bearer {os.environ[name]}"
    with closing(_connect(base, settings.upstream_timeout_s)) as connection:
        connection.request("POST", base.path.rstrip("/") + url.removeprefix("/v1"), body, headers)
        reply = connection.getresponse()
        data = reply.read(MAX_REPLY_BYTES + 1)
    if len(data) > MAX_REPLY_BYTES:
        raise ValueError(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
    return reply.status, data


def parsed_upstream(url: str) -> SplitResult:
    """The parts of an upstream's base URL. Raises UpstreamUrlError."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        is_usable = False
    if not is_usable:
        raise UpstreamUrlError(f"upstream must be an http or https URL, got {url!r}")
    return parts


def _connect(base: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    host = base.hostname or ""
    if base.scheme == "https":
        return http.client.HTTPSConnection(
            host, base.port, timeout=timeout_s, context=ssl.create_default_context()
        )
    return http.client.HTTPConnection(host, base.port, timeout=timeout_s)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
