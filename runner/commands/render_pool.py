"""Worker processes that render ranges of a snapshot, and the pieces they make, in order.

Theory
------
- A worker is a fresh interpreter, started as a program and not forked: this process has threads and an open
  DuckDB, which no fork survives. It takes 0.3 s of processor time, but nobody waits for it: until a worker
  is ready, this process renders the ranges whose turn it is itself, and so where none can be started.
- One thread for each worker hands out ranges, two at a time so that a worker never waits, and takes pieces.
  Only so many ranges are begun ahead of the one whose turn it is, and only so many bytes of pieces are kept:
  memory is bounded, however the rows differ.
- A worker that ended, whatever ended it, is told of, and a new one renders the rest of its range. Where the
  same range ends three of them, the rows are named in an error.
- Workers write nothing and hold nothing, so closing kills them. If this process is killed, their sockets
  close and they end by themselves.

Rejected: `ProcessPoolExecutor` (one killed worker breaks the pool; results wait unbounded in memory; its
workers run the caller's `__main__` again), threads (rendering is Python), forkserver (as spawn, and one
process more).
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from runner.commands.render_process import RenderProcess
from runner.commands.render_worker import GoneError, Kind, receive
from runner.commands.rendering import Piece, Renderer, RenderSource
from runner.dataset import close_snapshots, range_rows
from runner.errors import RunnerError

WORTH_WORKERS_S = 1.0
"""Rendering that would take this process longer than that is worth worker processes: they take 0.3 s of a
processor each to start (measured), and most of a second where everything else is busy too."""
MAX_WORKERS = 8
"""Comparing and recording stay with this process; more renderers than that would wait for it."""
_RANGES_AHEAD = 2
_MAX_KEPT_BYTES = 24_000_000
_MAX_DEATHS = 3
_MAX_STARTS = 3
_LOOK_S = 0.2


def render_all(
    source: RenderSource,
    rows: int,
    *,
    workers: int | None = None,
    check_stop: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Generator[Piece, None, None]:
    """Every row in dataset order, piece by piece. Memory: a few pieces for each worker.

    `workers`: so many processes, from the first row on; None: as many as there are processors, as soon as the
    first rows have shown that the rest is worth it.
    `check_stop` raises where a person interrupted; `tell` is told of workers that ended. Both are called by
    the caller's own thread. Close the iterator: workers end with it.
    Errors: RunnerError where rows end every process that renders them.
    """
    count = workers if workers is not None else min(processors(), MAX_WORKERS)
    done = 0
    if count < 2 or workers is None:
        spent_s, began_s = 0.0, time.monotonic()
        for piece in _rendered_here(source, rows):
            spent_s += time.monotonic() - began_s
            check_stop()
            yield piece
            done = piece.start + len(piece.keys)
            if count > 1 and spent_s / done * (rows - done) > WORTH_WORKERS_S:
                break
            began_s = time.monotonic()
        else:
            return
    with RenderPool(source, rows, count, first_row=done) as pool:
        yield from pool.pieces(check_stop, tell)


def _rendered_here(source: RenderSource, rows: int) -> Iterator[Piece]:
    renderer = Renderer(source)
    step = range_rows(source.snapshot, rows)
    for start in range(0, rows, step):
        yield from renderer.render(start, min(start + step, rows))


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        return os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Range:
    """Rows [next_row, stop) that are to be rendered by whoever takes them, and what came of it so far."""

    next_row: int
    stop: int
    is_taken: bool = False
    is_done: bool = False
    deaths: int = 0
    pieces: deque[Piece] = field(default_factory=deque)
    error: Exception | None = None


class RenderPool:
    """A context manager. One thread reads `pieces`, once."""

    def __init__(self, source: RenderSource, rows: int, workers: int, *, first_row: int = 0) -> None:
        self._source = source
        self._rows = rows
        self._range_rows = range_rows(source.snapshot, rows)
        self._begun_rows = first_row
        self._ranges: deque[_Range] = deque()
        self._most_ranges = _RANGES_AHEAD * workers + 1
        self._changed = threading.Condition()
        self._kept_bytes = 0
        self._is_closed = False
        self._notes: deque[str] = deque()
        self._why_none = ""
        self._workers: list[RenderProcess] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            for worker in self._workers:
                worker.kill()
        for thread in self._threads:
            thread.join()

    # ------------------------------------------------------------ the reader's side

    def pieces(self, check_stop: Callable[[], None], tell: Callable[[str], None]) -> Iterator[Piece]:
        """All of them, in order."""
        renderer: Renderer | None = None
        may_read = True
        while (one := self._front()) is not None:
            while not self._is_read(one):
                if self._take(one):
                    renderer = renderer or Renderer(self._source)
                    for piece in renderer.render(one.next_row, one.stop):
                        check_stop()
                        yield piece
                    one.is_done = may_read = True
                elif may_read:
                    may_read = False
                    close_snapshots()  # workers are ready: they read from here on
                while (piece_or_none := self._next_piece(one, check_stop)) is not None:
                    yield piece_or_none
                self._tell(tell)
                if one.error is not None:
                    raise one.error
            with self._changed:
                self._ranges.popleft()
                self._changed.notify_all()
        self._tell(tell)

    def _is_read(self, one: _Range) -> bool:
        """Whether all of a range was handed out. A worker may be done with it long before."""
        with self._changed:
            return one.is_done and not one.pieces and one.error is None

    def _front(self) -> _Range | None:
        """The range whose turn it is; None after the last."""
        with self._changed:
            return self._ranges[0] if self._ranges else self._begin()

    def _begin(self) -> _Range | None:
        """The next range that nobody has begun. The lock is held."""
        if self._begun_rows >= self._rows:
            return None
        start = self._begun_rows
        self._begun_rows = min((start // self._range_rows + 1) * self._range_rows, self._rows)
        self._ranges.append(_Range(start, self._begun_rows))
        return self._ranges[-1]

    def _take(self, one: _Range) -> bool:
        """Whether it is the caller's now to render."""
        with self._changed:
            is_free, one.is_taken = not one.is_taken, True
            return is_free

    def _next_piece(self, one: _Range, check_stop: Callable[[], None]) -> Piece | None:
        """Wait for it; None where there is none to come: the range is done, or left to this process."""
        while True:
            check_stop()
            with self._changed:
                if one.pieces:
                    piece = one.pieces.popleft()
                    self._kept_bytes -= len(piece.lines)
                    self._changed.notify_all()
                    return piece
                if one.is_done or not one.is_taken:
                    return None
                self._changed.wait(_LOOK_S)

    def _tell(self, tell: Callable[[str], None]) -> None:
        """What became of workers, from the reader's own thread."""
        with self._changed:
            notes = list(self._notes)
            self._notes.clear()
        for note in notes:
            tell(note)

    # ------------------------------------------------------------ the workers' side

    def _serve(self) -> None:
        """One worker after the other, as long as there is something to render."""
        held: deque[_Range] = deque()
        starts = 0
        while starts < _MAX_STARTS and not self._is_closed:
            starts += 1
            if (worker := self._start()) is None:
                continue
            starts = 0
            try:
                if not self._drive(worker, held):
                    return
            finally:
                worker.close()
        self._give_back(held)

    def _start(self) -> RenderProcess | None:
        """A worker that is ready; None where it did not get so far."""
        worker = None
        try:
            with self._changed:
                worker = RenderProcess()
                self._workers.append(worker)
                if self._is_closed:
                    worker.kill()
            worker.introduce(self._source)
        except (GoneError, OSError, subprocess.SubprocessError) as error:
            self._why_none = str(error) if worker is None else f"it {worker.ending()}"
            if worker is not None:
                worker.close()
            return None
        return worker

    def _drive(self, worker: RenderProcess, held: deque[_Range]) -> bool:
        """Until all is rendered (False), or the worker ended and another one must go on (True)."""
        try:
            for one in held:
                worker.order(one.next_row, one.stop)
            while True:
                while len(held) < _RANGES_AHEAD and (one_more := self._next_range(waits=not held)):
                    held.append(one_more)
                    worker.order(one_more.next_row, one_more.stop)
                if not held:
                    return False
                self._collect(worker, held[0])
                held.popleft()
        except (GoneError, OSError):
            return bool(held) and self._survives(held, worker.ending())

    def _next_range(self, *, waits: bool) -> _Range | None:
        """A range for a worker; None where there is none, or none now."""
        with self._changed:
            while not self._is_closed:
                free = next((one for one in self._ranges if not one.is_taken), None)
                if free is None and len(self._ranges) < self._most_ranges:
                    free = self._begin()
                    if free is None:
                        return None
                if free is not None:
                    free.is_taken = True
                    return free
                if not waits:
                    return None
                self._changed.wait()
            return None

    def _collect(self, worker: RenderProcess, one: _Range) -> None:
        """Take the pieces of a range. Raises GoneError, OSError."""
        while True:
            kind, piece, text = receive(worker.channel)
            with self._changed:
                while self._is_full(one) and not self._is_closed:
                    self._changed.wait()
                if piece is not None:
                    one.pieces.append(piece)
                    self._kept_bytes += len(piece.lines)
                    one.next_row = piece.start + len(piece.keys)
                elif kind is Kind.FAULT:
                    one.error = RuntimeError(f"a render worker failed:\n{text.decode(errors='replace')}")
                one.is_done = piece is None
                self._changed.notify_all()
            if one.is_done:
                return

    def _is_full(self, one: _Range) -> bool:
        """Whether a piece of this range must wait for its turn. The lock is held."""
        is_awaited = one is self._ranges[0] and not one.pieces
        return self._kept_bytes >= _MAX_KEPT_BYTES and not is_awaited

    def _survives(self, held: deque[_Range], ending: str) -> bool:
        """A worker has ended over its first range: whether another one may try."""
        with self._changed:
            if self._is_closed:
                return False
            one = held[0]
            one.deaths += 1
            rows = f"rows {one.next_row + 1:,} to {one.stop:,}"
            if one.deaths < _MAX_DEATHS:
                self._notes.append(f"a process that renders {ending}; {rows} are rendered again")
            else:
                what = f"{rows} can't be rendered: the process that renders them {ending}, {one.deaths} times"
                one.error = RunnerError(what, next_step=_NEXT_STEP)
                one.is_done = True
                held.popleft()
            self._changed.notify_all()
            return True

    def _give_back(self, held: deque[_Range]) -> None:
        """No worker can be started: what was to be rendered there is left to this process."""
        with self._changed:
            for one in held:
                one.is_taken = False
            self._notes.append(f"a process that renders could not be started: {self._why_none}")
            self._changed.notify_all()


_NEXT_STEP = "nothing was sent; free some memory, or look into the system's log for what ended the process"
