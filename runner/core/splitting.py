"""Request lines to shards: each input file stays under the provider's limits.

Greedy and in order: a line goes into the current shard of its lane if it fits, else into the next one. So
shards are a pure function of the lines and the limits, and equal lines make equal files. Lanes keep apart
what may go at once and what must wait: a repeated request holds up no new one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from runner.core.model import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a line goes: shards count from the splitter's first one, lines from 0."""

    shard: int
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Lines that go into one shard one after another: the place of the first, their number and bytes."""

    shard: int
    line: int
    lines: int
    size_bytes: int


@dataclass(slots=True)
class _Open:
    """The shard that a lane fills."""

    shard: int
    lines: int = 0
    size_bytes: int = 0


class Splitter:
    """Gives every request line its place.

    Units:  bytes of the encoded line, newline included.
    Source: the server's limits on file bytes and requests per file (Doubleword API, section 3.2).
    """

    def __init__(self, limits: Limits, first_shard: int = 0) -> None:
        self._limits = limits
        self._next = first_shard
        self._open: dict[int, _Open] = {}

    def place(self, size_bytes: int, lane: int = 0) -> Place | None:
        """The line's place, or None where it alone is larger than a file may be."""
        if size_bytes > self._limits.max_file_bytes:
            return None
        here = self._open.get(lane)
        if (
            here is None
            or here.lines >= self._limits.max_requests_per_file
            or here.size_bytes + size_bytes > self._limits.max_file_bytes
        ):
            here = self._open[lane] = _Open(self._next)
            self._next += 1
        place = Place(shard=here.shard, line=here.lines)
        here.lines += 1
        here.size_bytes += size_bytes
        return place

    def place_run(self, sizes: Sequence[int], lane: int = 0) -> list[Run]:
        """The places of many lines at once: the same that `place` gives them one by one.

        Errors: ValueError where a line alone is larger than a file may be; nothing is placed then.
        """
        if sizes and max(sizes) > self._limits.max_file_bytes:
            raise ValueError("a line is larger than a file may be")
        ends = list(accumulate(sizes))
        runs: list[Run] = []
        start, before = 0, 0
        while start < len(ends):
            here = self._open.get(lane)
            stop = start
            if here is not None:
                fitting = bisect_right(ends, before + self._limits.max_file_bytes - here.size_bytes, lo=start)
                stop = min(fitting, start + self._limits.max_requests_per_file - here.lines)
            if here is None or stop <= start:
                here = self._open[lane] = _Open(self._next)
                self._next += 1
                fitting = bisect_right(ends, before + self._limits.max_file_bytes, lo=start)
                stop = min(fitting, start + max(self._limits.max_requests_per_file, 1))
            size = ends[stop - 1] - before
            runs.append(Run(shard=here.shard, line=here.lines, lines=stop - start, size_bytes=size))
            here.lines += stop - start
            here.size_bytes += size
            start, before = stop, ends[stop - 1]
        return runs


def halves(sizes: Iterable[int]) -> int:
    """How many of the first of these lines (two or more) make one of two parts whose sizes are as equal as
    the order allows. Each part has a line at least, so cutting again and again comes to an end."""
    lines = list(sizes)
    total, before, best = sum(lines), 0, (sum(lines) + 1, 1)
    for count, size in enumerate(lines[:-1], 1):
        before += size
        best = min(best, (abs(total - 2 * before), count))
    return best[1]
