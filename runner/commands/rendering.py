"""Rows of a snapshot to request lines, a piece at a time, in order; in worker processes where that pays.

A piece does not depend on who rendered it, on how many do, or on where it was cut: whoever renders has the
same snapshot and the same template texts, and no row knows of another. So a range whose worker died is
rendered again, and the requests of many processes are those of one, byte for byte.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from runner.core.identity import FINGERPRINT_BYTES, RequestShape, key_part
from runner.core.model import Cause, Fingerprint, Message, Provider
from runner.dataset import Row, read_rows
from runner.prompt import Prompt, PromptSource

MAX_PIECE_BYTES = 2_000_000
MAX_PIECE_S = 0.25
"""A piece is handed out before it is larger, and before a person who pressed Ctrl-C would wait longer."""
NO_FINGERPRINT = bytes(FINGERPRINT_BYTES)
"""Stands for that of a row without a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSource:
    """All that a worker needs to render a range; small, picklable, and without a secret."""

    snapshot: str
    prompt: PromptSource
    provider: Provider
    endpoint: str
    model: str
    parameters: dict[str, Any]
    schema: dict[str, Any] | None

    def shape(self) -> RequestShape:
        """What all requests have in common."""
        return RequestShape(
            provider_identity=self.provider.identity,
            endpoint=self.endpoint,
            model=self.model,
            parameters=self.parameters,
            schema=self.schema,
        )


class Rendered(NamedTuple):
    """One row, rendered: either a body with its fingerprint, or the cause why there is none. `name` is the
    readable half of its custom_id."""

    position: int
    key: str
    name: str
    body: bytes
    fingerprint: Fingerprint | None
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows one after another, rendered, as they travel between processes.

    `lines` are the request lines of all rows that have one, as they stand in an input file whose rows nobody
    asked before; `line_bytes` are their sizes, 0 where a row has none, and `fingerprints` 16 bytes for every
    row. By place in the piece: `names` where the readable half of a custom_id is not the key, `causes`.
    """

    start: int
    keys: list[str]
    lines: bytes
    line_bytes: array[int]
    fingerprints: bytes
    names: Mapping[int, str]
    causes: Mapping[int, Cause]

    def places_made(self) -> Sequence[int]:
        """The rows that have a request."""
        if not self.causes:
            return range(len(self.keys))
        return [place for place, size in enumerate(self.line_bytes) if size]

    def fingerprints_made(self) -> list[Fingerprint]:
        """Of the rows that have a request."""
        starts = (place * FINGERPRINT_BYTES for place in self.places_made())
        return [Fingerprint(self.fingerprints[start : start + FINGERPRINT_BYTES]) for start in starts]

    def name(self, place: int) -> str:
        """The readable half of a row's custom_id."""
        return self.names.get(place, self.keys[place])

    def lines_at(self, places: Sequence[int]) -> tuple[bytes, Sequence[int]]:
        """The lines of some of the rows that have one, in their order, and the size of each."""
        sizes = [self.line_bytes[place] for place in places]
        if sum(sizes) == len(self.lines):
            return self.lines, sizes
        ends = list(accumulate(self.line_bytes))
        whole = memoryview(self.lines)
        parts = [whole[ends[place] - self.line_bytes[place] : ends[place]] for place in places]
        return b"".join(parts), sizes

    def rows(self, shape: RequestShape, places: Sequence[int] | None = None) -> Iterator[Rendered]:
        """One by one, all or some of them; `shape` is that of their requests."""
        ends = list(accumulate(self.line_bytes))
        lines = memoryview(self.lines)
        for place in range(len(self.keys)) if places is None else places:
            key, size, position = self.keys[place], self.line_bytes[place], self.start + place
            if not size:
                yield Rendered(position, key, "", b"", None, self.causes[place])
                continue
            name = self.name(place)
            body = shape.body_of(lines[ends[place] - size : ends[place]], name)
            first = place * FINGERPRINT_BYTES
            fingerprint = Fingerprint(self.fingerprints[first : first + FINGERPRINT_BYTES])
            yield Rendered(position, key, name, body, fingerprint, None)


@dataclass(slots=True)
class GrowingPiece:
    """A piece while rows are added to it, one after another."""

    start: int
    keys: list[str] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    line_bytes: list[int] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    causes: dict[int, Cause] = field(default_factory=dict)

    def add(self, key: str, name: str, fingerprint: Fingerprint, line: bytes) -> None:
        """A row with its request line; `name` is the readable half of the custom_id in it."""
        if name != key:
            self.names[len(self.keys)] = name
        self.keys.append(key)
        self.lines.append(line)
        self.line_bytes.append(len(line))
        self.fingerprints.append(fingerprint)

    def add_cause(self, key: str, cause: Cause) -> None:
        """A row that has no request."""
        self.causes[len(self.keys)] = cause
        self.keys.append(key)
        self.line_bytes.append(0)
        self.fingerprints.append(NO_FINGERPRINT)

    def whole(self) -> Piece:
        """The piece as it is now."""
        return Piece(
            start=self.start,
            keys=self.keys,
            lines=b"".join(self.lines),
            line_bytes=array("Q", self.line_bytes),
            fingerprints=b"".join(self.fingerprints),
            names=self.names,
            causes=self.causes,
        )


class Renderer:
    """Renders ranges of one snapshot with one compiled prompt. One thread at a time."""

    def __init__(self, source: RenderSource) -> None:
        self._snapshot = source.snapshot
        self._prompt: Prompt = source.prompt.compile()
        self._columns = self._prompt.columns()
        self._shape = source.shape()
        self._max_body_bytes = source.provider.limits.max_body_bytes

    def render(self, start: int, stop: int) -> Iterator[Piece]:
        """The rows with positions [start, stop), in order, in pieces of bounded size."""
        growing = GrowingPiece(start)
        size, until_s = 0, time.monotonic() + MAX_PIECE_S
        for batch in read_rows(self._snapshot, start, stop, columns=self._columns):
            for _, key, row in batch:
                size += self._add(growing, key, row)
                if size >= MAX_PIECE_BYTES or time.monotonic() >= until_s:
                    yield growing.whole()
                    growing = GrowingPiece(growing.start + len(growing.keys))
                    size, until_s = 0, time.monotonic() + MAX_PIECE_S
        if growing.keys:
            yield growing.whole()

    def render_only(self, start: int, stop: int, positions: Sequence[int]) -> Iterator[Rendered]:
        """The rows with these positions, all in [start, stop), in order."""
        for batch in read_rows(self._snapshot, start, stop, columns=self._columns, only=positions):
            yield from map(self._rendered, batch)

    def render_copied(self, path: str, rows: int) -> Iterator[Rendered]:
        """The rows that another file holds of this snapshot, which has so many, in order."""
        for batch in read_rows(path, 0, rows, columns=self._columns):
            yield from map(self._rendered, batch)

    def _rendered(self, found: Row) -> Rendered:
        position, key, row = found
        outcome = self._prompt.render(row)
        body = outcome if isinstance(outcome, Cause) else self._body(outcome)
        if isinstance(body, Cause):
            return Rendered(position, key, "", b"", None, body)
        return Rendered(position, key, key_part(key), body, self._shape.fingerprint(body), None)

    def _add(self, growing: GrowingPiece, key: str, row: dict[str, Any]) -> int:
        """Render a row; gives the bytes that the piece has grown by."""
        outcome = self._prompt.render(row)
        body = outcome if isinstance(outcome, Cause) else self._body(outcome)
        if isinstance(body, Cause):
            growing.add_cause(key, body)
            return len(body.message)
        name = key_part(key)
        fingerprint = self._shape.fingerprint(body)
        line = self._shape.named_line(name, fingerprint, body)
        growing.add(key, name, fingerprint, line)
        return len(line)

    def _body(self, messages: Sequence[Message]) -> bytes | Cause:
        try:
            body = self._shape.body(messages)
        except TypeError as error:
            return Cause(error_class="template_error", message=f"the prompt is not valid text: {error}")
        if len(body) > self._max_body_bytes:
            message = f"the request body is {len(body):,} bytes; the provider takes {self._max_body_bytes:,}"
            return Cause(error_class="body_too_large", message=message)
        return body
