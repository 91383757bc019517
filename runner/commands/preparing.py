"""A downloaded file read, judged and matched before its turn, so that the engine has only to store it.

Whoever prepares writes nothing. It sees the ledger as it was when the file had come: nobody touches a shard
between a download of its results and the taking in, so what is open then is open when it is stored.

The rule: only what is as good as sure. A file is prepared where each usual answer in it is to a request
that has no outcome, each to another one, and no other line is about the same request. Then the order of the
lines does not matter. Any other file is left to be read line by line, from its beginning.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

from runner.commands.judging import OtherLine, Run, answer_values, judged_pieces
from runner.commands.work import Doing, Order, Words, Work
from runner.core.model import Status
from runner.core.wire import ResultLine, read_result_line
from runner.ledger import AnswerValues, Awaited, Expected, Ledger, LedgerPlace, without_collector

_MOST_OTHERS = 20_000
"""With more lines of other kinds in it a file is none that preparing helps."""


class Prepared(NamedTuple):
    """`values`: the usual answers, in the order of the shard's lines; `others`: the other lines, in that of
    the file; `awaited`: the requests without those that have an answer here."""

    values: list[AnswerValues]
    others: list[OtherLine]
    awaited: Awaited


def prepare(ledger: Ledger, shard_id: int, path: Path) -> Prepared | None:
    """What is to be stored of a file; None where it must be read line by line."""
    awaited = ledger.awaited(shard_id)
    before = awaited.open.copy()
    values: list[AnswerValues] = []
    others: list[OtherLine] = []
    with without_collector(), path.open("rb") as file:
        for piece in judged_pieces(file):
            for run in piece.runs:
                if not _match(run, awaited, values):
                    return None
                others += () if run.then is None else (run.then,)
            if len(others) > _MOST_OTHERS:
                return None
        if any(name in before and name not in awaited.open for name in _names(file, others)):
            return None
    values.sort(key=_LINE)
    return Prepared(values, others, awaited)


_LINE = itemgetter(7)


def _match(run: Run, awaited: Awaited, values: list[AnswerValues]) -> bool:
    """Take the requests of these answers; False where one of them is not open."""
    take = awaited.open.pop
    places = [take(row[0], None) for row in run.rows]
    if None in places:
        return False
    values += answer_values(run.model, run.rows, places, awaited.model)  # type: ignore[arg-type]
    return True


def _names(file: BinaryIO, others: Iterable[OtherLine]) -> Iterator[str]:
    """The custom_ids of other lines."""
    for offset, length in others:
        result = None if length is None else read_result_line(os.pread(file.fileno(), length, offset))
        if isinstance(result, ResultLine) and result.custom_id is not None:
            yield result.custom_id


@dataclass(frozen=True, slots=True)
class PrepareWork(Work[Prepared]):
    """Prepares files: an order is about a shard and a path, and one piece comes of it, or none."""

    place: LedgerPlace
    words: ClassVar[Words] = Words(
        does="reads result files",
        things="bytes",
        done="read",
        next_step="run the same command again: it goes on from here and pays for nothing twice",
    )

    def begin(self) -> Doing[Prepared]:
        """Open the ledger to look. Errors: LedgerError."""
        ledger = Ledger.open_reading(self.place)

        def do(order: Order) -> Iterator[Prepared]:
            shard_id, _, path = order.about.partition(" ")
            prepared = None if ledger is None else prepare(ledger, int(shard_id), Path(path))
            if prepared is not None:
                yield prepared

        return do

    def end_of(self, piece: Prepared) -> int:
        """Nothing is left of a file that was prepared."""
        return 0

    def pack(self, piece: Prepared) -> tuple[Any, bytes]:
        """As plain tuples."""
        held = {
            name: (one.line, one.request_id, one.status and one.status.value, *one[3:])
            for name, one in piece.awaited.held.items()
        }
        others = [tuple(place) for place in piece.others]
        return (piece.values, others, piece.awaited.open, held, piece.awaited.model), b""

    def unpack(self, values: Any, many: bytes) -> Prepared:
        """The same file."""
        answers, others, still_open, held, model = values
        expected = {
            name: Expected(line, request_id, None if word is None else Status(word), *place)
            for name, (line, request_id, word, *place) in held.items()
        }
        awaited = Awaited(open=still_open, held=expected, model=model)
        return Prepared(answers, [OtherLine(*place) for place in others], awaited)
