"""A whole snapshot rendered, in worker processes where that pays, in order."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from runner.commands.rendering import Piece, Renderer, RenderSource
from runner.commands.work import Doing, Order, Words, Work
from runner.commands.worker_pool import MAX_WORKERS, WorkerPool, processors
from runner.core.model import Cause
from runner.dataset import close_snapshots, range_rows

WORTH_WORKERS_S = 1.0
"""Rendering that would take this process longer than that is worth worker processes: they take 0.3 s of a
processor each to start (measured), and most of a second where everything else is busy too."""


@dataclass(frozen=True, slots=True)
class RenderWork(Work[Piece]):
    """Renders the rows of a snapshot."""

    source: RenderSource
    words: ClassVar[Words] = Words(
        does="renders",
        things="rows",
        done="rendered",
        next_step=(
            "nothing was sent; free some memory, or look into the system's log for what ended the process"
        ),
    )

    def begin(self) -> Doing[Piece]:
        """Compile the prompt."""
        renderer = Renderer(self.source)
        return lambda order: renderer.render(order.start, order.stop)

    def rest(self) -> None:
        """Close the snapshot."""
        close_snapshots()

    def end_of(self, piece: Piece) -> int:
        """The row after its last one."""
        return piece.start + len(piece.keys)

    def pack(self, piece: Piece) -> tuple[Any, bytes]:
        """Its lines are the many bytes."""
        causes = {place: (why.error_class, why.message, why.code) for place, why in piece.causes.items()}
        names = dict(piece.names)
        values = (piece.start, piece.keys, piece.line_bytes.tobytes(), piece.fingerprints, names, causes)
        return values, piece.lines

    def unpack(self, values: Any, many: bytes) -> Piece:
        """The same piece."""
        start, keys, sizes, fingerprints, names, causes = values
        return Piece(
            start=start,
            keys=keys,
            lines=many,
            line_bytes=array("Q", sizes),
            fingerprints=fingerprints,
            names=names,
            causes={
                place: Cause(error_class=error_class, message=message, code=code)
                for place, (error_class, message, code) in causes.items()
            },
        )


def render_pool(source: RenderSource, rows: int, workers: int, *, first_row: int = 0) -> WorkerPool[Piece]:
    """Workers that render the rows from `first_row` on."""
    return WorkerPool(RenderWork(source), _ranges(source, rows, first_row), workers)


def _ranges(source: RenderSource, rows: int, first_row: int) -> list[Order]:
    """Borders stand where they would if the first row were row 0."""
    step = range_rows(source.snapshot, rows)
    borders = [first_row, *range((first_row // step + 1) * step, rows, step), rows]
    return [Order(start, stop) for start, stop in pairwise(borders) if start < stop]


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
    with render_pool(source, rows, count, first_row=done) as pool:
        yield from pool.pieces(check_stop, tell)


def _rendered_here(source: RenderSource, rows: int) -> Iterator[Piece]:
    renderer = Renderer(source)
    for order in _ranges(source, rows, 0):
        yield from renderer.render(order.start, order.stop)
