"""A result file read in pieces: usual answers told as the ledger takes them, and where the other lines stand.

Lines are split on 0x0A and nothing else: U+2028 and its like stand inside answers. What is told of a usual
answer is what `judge` says of its line (see `core.usual`); nothing is told of any other line but its place,
and whoever collects reads and judges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from runner.core.usual import usual_answer
from runner.core.wire import JsonError, decode_json
from runner.ledger import AnswerValues, pack_model, pack_response_id

_PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
"""A longer line is no answer: it is counted and left where it is, and memory stays bounded."""
_LOOKS = 4
"""Where so many lines at the beginning of a piece are not usual, its others will not be either."""


AnswerRow = tuple[str, int, int, bytes | None, str | None, int, int]
"""A usual answer as it is found: custom_id, input and output tokens, the response's id (packed), offset and
length of its line."""


class OtherLine(NamedTuple):
    """A line that is not a usual answer: its place, or `length` None for one that is too long to be one."""

    offset: int
    length: int | None


class Run(NamedTuple):
    """Usual answers of one model, one after another in the file, and the other line behind them."""

    model: str
    rows: list[AnswerRow]
    then: OtherLine | None


class JudgedPiece(NamedTuple):
    """Lines one after another, as runs; `end` is where the next piece begins."""

    end: int
    runs: list[Run]


def judged_pieces(file: BinaryIO) -> Iterator[JudgedPiece]:
    """All lines of a result file, in order. Memory: that of a piece, or of the longest line."""
    for start, data, end in _pieces(file):
        runs = [Run("", [], OtherLine(start, None))] if data is None else judged(start, data)
        yield JudgedPiece(end, runs)


def judged(start: int, data: bytes) -> list[Run]:
    """The lines in `data`, which stands at `start` in its file. Blank ones are none."""
    runs: list[Run] = []
    rows: list[AnswerRow] = []
    model, offset, misses = "", start, 0
    has_returns = b"\r" in data
    for line in data.split(b"\n"):
        length = len(line) - 1 if has_returns and line.endswith(b"\r") else len(line)
        usual = _usual(line) if misses < _LOOKS else None
        if usual is not None:
            misses = -len(data)
            custom_id, input_tokens, output_tokens, said, line_id = usual
            if said != model:
                if rows:
                    runs.append(Run(model, rows, None))
                model, rows = said, []
            rows.append((custom_id, input_tokens, output_tokens, *pack_response_id(line_id), offset, length))
        elif line.strip():
            misses += 1
            runs.append(Run(model, rows, OtherLine(offset, length)))
            rows = []
        offset += len(line) + 1
    if rows:
        runs.append(Run(model, rows, None))
    return runs


def answer_values(
    model: str, rows: Sequence[AnswerRow], places: Sequence[tuple[int, int]], usual_model: str
) -> list[AnswerValues]:
    """Usual answers of one model as they are stored, given line and request of each."""
    packed = pack_model(model, usual_model)
    return [
        (input_tokens, output_tokens, packed, uuid, response_id, offset, length, line, request_id)
        for (_, input_tokens, output_tokens, uuid, response_id, offset, length), (line, request_id) in zip(
            rows, places, strict=True
        )
    ]


def _usual(line: bytes) -> tuple[str, int, int, str, str] | None:
    try:
        return usual_answer(decode_json(line))
    except JsonError:
        return None


def _pieces(file: BinaryIO) -> Iterator[tuple[int, bytes | None, int]]:
    """Start, bytes and end of whole lines one after another; a line that is too long has None for bytes."""
    start, rest = 0, b""
    while data := rest + (more := file.read(_PIECE_BYTES)):
        if len(data) >= MAX_LINE_BYTES and b"\n" not in data[:MAX_LINE_BYTES]:
            rest, end = _behind(file, data, start)
            yield start, None, end
            start = end
            continue
        cut = data.rfind(b"\n") + 1 if more else len(data)
        if cut:
            yield start, data[:cut], start + cut
        start, rest = start + cut, data[cut:]


def _behind(file: BinaryIO, data: bytes, offset: int) -> tuple[bytes, int]:
    """What was read behind the end of a line that begins with `data` at `offset`, and where that stands."""
    while data:
        cut = data.find(b"\n") + 1
        if cut:
            return data[cut:], offset + cut
        offset += len(data)
        data = file.read(_PIECE_BYTES)
    return b"", offset
