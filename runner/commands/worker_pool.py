"""Worker processes that do ranges of some work, and the pieces they make, in order.

Theory
------
- A worker is a fresh interpreter, started as a program and not forked: this process has threads and an open
  DuckDB, which no fork survives. It takes 0.3 s of processor time, but nobody waits for it: until a worker
  is ready, this process does the ranges whose turn it is itself, and so where none can be started. Where
  it has little else to do it helps: instead of waiting for a piece it does a range ahead, so that one process
  less has to be started.
- One thread for each worker hands out ranges, two at a time so that a worker never waits, and takes pieces.
  Only so many ranges are begun ahead of the one whose turn it is, and only so many bytes of pieces are kept:
  memory is bounded, however the pieces differ.
- A worker that ended, whatever ended it, is told of, and a new one does the rest of its range. Where the
  same range ends three of them, it is named in an error.
- Workers write nothing and hold nothing, so closing kills them. If this process is killed, their sockets
  close and they end by themselves.

Rejected: `ProcessPoolExecutor` (one killed worker breaks the pool; results wait unbounded in memory; its
workers run the caller's `__main__` again), threads (the work is Python), forkserver (as spawn, and one
process more).
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile
from types import TracebackType
from typing import Any, Generic, Self

from runner.commands.work import Doing, GoneError, Kind, Order, P, Work, receive, unpacked
from runner.commands.worker_process import WorkerProcess
from runner.errors import RunnerError

MAX_WORKERS = 8
"""What is made of the pieces stays with this process; more workers than that would wait for it."""
_RANGES_AHEAD = 2
_MAX_KEPT_BYTES = 24_000_000
_MAX_DEATHS = 3
_MAX_STARTS = 3
_LOOK_S = 0.2


def processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        return os.cpu_count() or 1


@dataclass(slots=True, eq=False)
class _Range:
    """What is to be done by whoever takes it, [next, stop) of its order, and what came of it so far: pieces
    with the bytes that each takes."""

    next: int
    stop: int
    about: str
    is_taken: bool = False
    is_done: bool = False
    deaths: int = 0
    pieces: deque[tuple[int, Any]] = field(default_factory=deque)
    error: Exception | None = None

    def rest(self) -> Order:
        """What is left of it."""
        return Order(self.next, self.stop, self.about)


class WorkerPool(Generic[P]):
    """A context manager. `orders` are all that there is to do, in order; one thread reads `pieces`, once.
    `here`: how this process does a range, which it then does ahead where it would have to wait."""

    def __init__(
        self, work: Work[P], orders: Iterable[Order], workers: int, *, here: Doing[P] | None = None
    ) -> None:
        self._work = work
        self._orders = iter(orders)
        self._ranges: deque[_Range] = deque()
        self._helps = here is not None
        self._own: tuple[_Range, Iterator[P]] | None = None
        self._do = here
        self._most_ranges = _RANGES_AHEAD * (workers + self._helps) + 1
        self._changed = threading.Condition()
        self._kept_bytes = 0
        self._are_all_begun = False
        self._is_closed = False
        self._notes: deque[str] = deque()
        self._why_none = ""
        self._workers: list[WorkerProcess] = []
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

    def pieces(self, check_stop: Callable[[], None], tell: Callable[[str], None]) -> Iterator[P]:
        """All of them, in order. `check_stop` raises where a person interrupted; `tell` is told of workers
        that ended. Both are called by the reader's own thread.

        Errors: RunnerError where a range ends every process that does it.
        """
        may_rest = not self._helps
        while (one := self._front()) is not None:
            while not self._is_read(one):
                if self._take(one):
                    for piece in self._done_here(one):
                        check_stop()
                        yield piece
                    one.is_done, may_rest = True, not self._helps
                elif may_rest:
                    may_rest = False
                    self._work.rest()  # workers are ready: they do it from here on
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
        order = next(self._orders, None)
        if order is None:
            self._are_all_begun = True
            return None
        self._ranges.append(_Range(*order))
        return self._ranges[-1]

    def _take(self, one: _Range) -> bool:
        """Whether it is the caller's now to do. What was made of it by others is read before."""
        with self._changed:
            is_free = not one.is_taken and not one.pieces
            one.is_taken = one.is_taken or is_free
            return is_free

    def _next_piece(self, one: _Range, check_stop: Callable[[], None]) -> P | None:
        """Wait for it; None where there is none to come: the range is done, or left to this process."""
        while True:
            check_stop()
            with self._changed:
                if one.pieces:
                    size_bytes, piece = one.pieces.popleft()
                    self._kept_bytes -= size_bytes
                    self._changed.notify_all()
                    found: P = piece
                    return found
                if one.is_done or not one.is_taken:
                    return None
                own = self._ahead(one)
                if own is None:
                    self._changed.wait(_LOOK_S)
            if own is not None:
                self._go_on(*own)

    def _ahead(self, awaited: _Range) -> tuple[_Range, Iterator[P]] | None:
        """What the reader can do while it waits; None where there is nothing. The lock is held."""
        if self._own is not None and self._own[0] is awaited:
            return self._own
        if not self._helps or self._kept_bytes >= _MAX_KEPT_BYTES:
            return None
        if self._own is None and (free := self._free()) is not None:
            self._own = free, self._done_here(free)
        return self._own

    def _go_on(self, one: _Range, pieces: Iterator[P]) -> None:
        """One piece of a range that the reader is at."""
        piece = next(pieces, None)
        with self._changed:
            if piece is None:
                one.is_done, self._own = True, None
                return
            size_bytes = len(self._work.pack(piece)[1])
            one.pieces.append((size_bytes, piece))
            self._kept_bytes += size_bytes

    def _done_here(self, one: _Range) -> Iterator[P]:
        """The pieces of a range, made by this process."""
        self._do = self._do or self._work.begin()
        yield from self._do(one.rest())

    def _tell(self, tell: Callable[[str], None]) -> None:
        """What became of workers, from the reader's own thread."""
        with self._changed:
            notes = list(self._notes)
            self._notes.clear()
        for note in notes:
            tell(note)

    # ------------------------------------------------------------ the workers' side

    def _serve(self) -> None:
        """One worker after the other, as long as there is something to do."""
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

    def _start(self) -> WorkerProcess | None:
        """A worker that is ready; None where it did not get so far."""
        worker = None
        try:
            with self._changed:
                worker = WorkerProcess()
                self._workers.append(worker)
                if self._is_closed:
                    worker.kill()
            worker.introduce(self._work)
        except (GoneError, OSError, subprocess.SubprocessError) as error:
            self._why_none = str(error) if worker is None else f"it {worker.ending()}"
            if worker is not None:
                worker.close()
            return None
        return worker

    def _drive(self, worker: WorkerProcess, held: deque[_Range]) -> bool:
        """Until all is done (False), or the worker ended and another one must go on (True)."""
        try:
            for one in held:
                worker.order(one.rest())
            while True:
                while len(held) < _RANGES_AHEAD and (one_more := self._next_range(held)):
                    held.append(one_more)
                    worker.order(one_more.rest())
                if not held:
                    return False
                self._collect(worker, held[0])
                held.popleft()
        except (GoneError, OSError):
            return bool(held) and self._survives(held, worker.ending())

    def _next_range(self, held: Sequence[_Range]) -> _Range | None:
        """A range for a worker that holds these; None where there is none, or none now. It is one behind
        them: who waits for a later range to be read must have none that is to be read before."""
        with self._changed:
            while not self._is_closed:
                free = self._free(behind=held[-1] if held else None)
                is_last = self._are_all_begun and len(self._ranges) < self._most_ranges
                if free is not None or is_last or held:
                    return free
                self._changed.wait()
            return None

    def _free(self, behind: _Range | None = None) -> _Range | None:
        """A range that nobody was at, now taken; None where there is none, or none yet. The lock is held."""
        ranges = iter(self._ranges)
        if behind is not None:
            ranges = dropwhile(lambda one: one is not behind, ranges)
        free = next((one for one in ranges if not one.is_taken), None)
        if free is None and len(self._ranges) < self._most_ranges:
            free = self._begin()
        if free is not None:
            free.is_taken = True
        return free

    def _collect(self, worker: WorkerProcess, one: _Range) -> None:
        """Take the pieces of a range. Raises GoneError, OSError."""
        while True:
            message = receive(worker.channel)
            piece = unpacked(self._work, message) if message.kind is Kind.PIECE else None
            with self._changed:
                while self._is_full(one) and not self._is_closed:
                    self._changed.wait()
                if piece is not None:
                    one.pieces.append((message.size_bytes, piece))
                    self._kept_bytes += message.size_bytes
                    one.next = message.end
                elif message.kind is Kind.FAULT:
                    does = self._work.words.does
                    one.error = RuntimeError(f"a process that {does} failed:\n{message.text}")
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
        words = self._work.words
        with self._changed:
            if self._is_closed:
                return False
            one = held[0]
            one.deaths += 1
            things = f"{words.things} {one.next + 1:,} to {one.stop:,}"
            if one.deaths < _MAX_DEATHS:
                self._notes.append(f"a process that {words.does} {ending}; {things} are {words.done} again")
            else:
                who = f"the process that {words.does} them {ending}, {one.deaths} times"
                one.error = RunnerError(f"{things} can't be {words.done}: {who}", next_step=words.next_step)
                one.is_done = True
                held.popleft()
            self._changed.notify_all()
            return True

    def _give_back(self, held: deque[_Range]) -> None:
        """No worker can be started: what was to be done there is left to this process."""
        with self._changed:
            for one in held:
                one.is_taken = False
            does = self._work.words.does
            self._notes.append(f"a process that {does} could not be started: {self._why_none}")
            self._changed.notify_all()
