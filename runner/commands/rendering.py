"""Rows of a snapshot to request bodies, in worker processes, chunk by chunk, order kept.

A worker compiles the template for itself and streams its own ranges of the snapshot, so no row crosses a
process border; what comes back is bodies, fingerprints and causes. A chunk's result does not depend on
who rendered it, so a chunk whose worker died is rendered again.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

from runner.core.identity import RequestShape, key_part
from runner.core.model import Cause, Fingerprint, Message, Provider
from runner.dataset import read_rows
from runner.prompt import Prompt, PromptSource

CHUNK_ROWS = 5_000
ROWS_WORTH_WORKERS = 10_000
"""Below so many rows, starting worker processes costs more than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSource:
    """All that a worker needs to render a range; small and picklable."""

    snapshot: str
    prompt: PromptSource
    provider: Provider
    endpoint: str
    model: str
    parameters: dict[str, Any]
    schema: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row, rendered: either a body with its fingerprint, or the cause why there is none."""

    position: int
    key: str
    name: str
    body: bytes
    fingerprint: Fingerprint | None
    cause: Cause | None


def render_all(source: RenderSource, rows: int, *, workers: int | None = None) -> Iterator[list[Rendered]]:
    """Every row in dataset order, a chunk at a time. Memory: a few chunks per worker."""
    ranges = [(start, min(start + CHUNK_ROWS, rows)) for start in range(0, rows, CHUNK_ROWS)]
    count = workers if workers is not None else min(len(os.sched_getaffinity(0)), 8)
    if rows < ROWS_WORTH_WORKERS or count < 2:
        renderer = _Renderer(source)
        for start, stop in ranges:
            yield renderer.render(start, stop)
        return
    yield from _in_workers(source, ranges, count)


def _in_workers(
    source: RenderSource, ranges: Sequence[tuple[int, int]], count: int
) -> Iterator[list[Rendered]]:
    """Keep a bounded number of chunks under way and hand them out in order."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(source,))
    todo = iter(ranges)
    under_way: deque[tuple[tuple[int, int], Future[list[Rendered]]]] = deque()
    fallback: _Renderer | None = None
    try:
        for chunk in islice(todo, count * 2):
            under_way.append((chunk, pool.submit(_render_chunk, *chunk)))
        while under_way:
            chunk, future = under_way.popleft()
            try:
                rendered = future.result()
            except BrokenProcessPool:
                # A worker was killed (out of memory, a signal). Its chunk is rendered here instead.
                fallback = fallback or _Renderer(source)
                rendered = fallback.render(*chunk)
            for next_chunk in islice(todo, 1):
                under_way.append((next_chunk, _submit(pool, next_chunk)))
            yield rendered
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, chunk: tuple[int, int]) -> Future[list[Rendered]]:
    try:
        return pool.submit(_render_chunk, *chunk)
    except BrokenProcessPool as error:
        broken: Future[list[Rendered]] = Future()
        broken.set_exception(error)
        return broken


class _Renderer:
    """Renders ranges of one snapshot with one compiled prompt."""

    def __init__(self, source: RenderSource) -> None:
        self._source = source
        self._prompt: Prompt = source.prompt.compile()
        self._shape = RequestShape(
            provider_identity=source.provider.identity,
            endpoint=source.endpoint,
            model=source.model,
            parameters=source.parameters,
            schema=source.schema,
        )
        self._max_body_bytes = source.provider.limits.max_body_bytes

    def render(self, start: int, stop: int) -> list[Rendered]:
        rendered = []
        for batch in read_rows(self._source.snapshot, start, stop, batch_rows=CHUNK_ROWS):
            for position, key, row in batch:
                rendered.append(self._render_row(position, key, row))
        return rendered

    def _render_row(self, position: int, key: str, row: dict[str, Any]) -> Rendered:
        outcome = self._prompt.render(row)
        body = outcome if isinstance(outcome, Cause) else self._body(outcome)
        if isinstance(body, Cause):
            return Rendered(position, key, "", b"", None, body)
        return Rendered(position, key, key_part(key), body, self._shape.fingerprint(body), None)

    def _body(self, messages: tuple[Message, ...]) -> bytes | Cause:
        try:
            body = self._shape.body(messages)
        except TypeError as error:
            return Cause(error_class="template_error", message=f"the prompt is not valid text: {error}")
        if len(body) > self._max_body_bytes:
            message = f"the request body is {len(body):,} bytes; the provider takes {self._max_body_bytes:,}"
            return Cause(error_class="body_too_large", message=message)
        return body


_worker: list[_Renderer] = []


def _start_worker(source: RenderSource) -> None:
    # Ctrl-C reaches the whole process group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A spawned worker ends by tearing down the interpreter, of which duckdb's bindings complain on stderr.
    # Nothing of a worker is worth tearing down.
    atexit.register(os._exit, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker[:] = [_Renderer(source)]


def _die_with_parent() -> None:
    """A worker whose parent was killed must not wait for chunks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _render_chunk(start: int, stop: int) -> list[Rendered]:
    return _worker[0].render(start, stop)
