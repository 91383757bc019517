"""Request lines to shards: each input file stays under the provider's limits.

Greedy and in order: a line goes into the current shard if it fits, else into the next one. So shards are
a pure function of the lines and the limits, and equal lines make equal files.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.core.model import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a line goes: shards count from the splitter's first one, lines from 0."""

    shard: int
    line: int


class Splitter:
    """Gives every request line its place.

    Units:  bytes of the encoded line, newline included.
    Source: the server's limits on file bytes and requests per file (Doubleword API, section 3.2).
    """

    def __init__(self, limits: Limits, first_shard: int = 0) -> None:
        self._limits = limits
        self._first = first_shard
        self._shard = first_shard - 1
        self._lines = 0
        self._bytes = 0

    def place(self, size_bytes: int) -> Place | None:
        """The line's place, or None where it alone is larger than a file may be."""
        if size_bytes > self._limits.max_file_bytes:
            return None
        full = (
            self._shard < self._first
            or self._lines >= self._limits.max_requests_per_file
            or self._bytes + size_bytes > self._limits.max_file_bytes
        )
        if full:
            self._shard += 1
            self._lines = 0
            self._bytes = 0
        place = Place(shard=self._shard, line=self._lines)
        self._lines += 1
        self._bytes += size_bytes
        return place
