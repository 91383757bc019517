"""All lines of a results table, made in worker processes where that pays, in order.

Theory
------
- A range of the ledger's rows is cut into portions: rows whose raw lines take two megabytes at most. Where
  the cuts are depends on the rows alone, and a range that goes on where a killed worker had come to goes on
  at a cut. So the lines, and how they come together, are the same whoever makes them, however many do.
- A portion comes with all that was seen in its rows. What a maker has told once (when answers of one second
  were given, that a raw file is there) it does not tell again: every portion of it is read, or it has ended
  and another maker begins anew.
- Makers only look. The ledger is written by the process that reads the portions, in their order; what it
  writes (a verdict on an answer) leaves the lines of other rows that share the answer as they are, because
  an answer is judged anew by whoever makes a line of it, as long as nobody has it asked again meanwhile.
- Each slice of rows is a read of its own, as it is without workers: what another manifest's process brings
  meanwhile is seen by the slices that are read later.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from runner.commands.lineage import LineageMaker, LineageSource, Seen
from runner.commands.raw_answers import WHOLE_BYTES, RawAnswers
from runner.commands.request_tokens import RequestTokens, request_tokens
from runner.commands.work import Doing, Order, Words, Work
from runner.commands.worker_pool import WorkerPool, processors
from runner.core.model import Cause, Status
from runner.errors import EXIT_STILL_RUNNING, LedgerError, RunnerError, StillRunningError
from runner.ledger import Ledger, LedgerPlace, Place, StoredRows, Verdict, without_collector
from runner.results import Lines

WORTH_ROWS = 100_000
"""So many rows take a second to make, and are worth worker processes: each takes half a second to start."""
_MAX_PROCESSES = 4
"""With more of them, all together would take more memory than a run may."""
_WHOLE_BYTES_OF_ALL = 96 << 20
_SLICE_ROWS = 2_000
_RANGE_ROWS = 6_000
_PORTION_BYTES = 2 << 20


class Portion(NamedTuple):
    """The lines of some stored rows, those before `stop`, and what was seen in them. `raw_paths`: raw files
    that were there. `trouble`: none were made, and why."""

    stop: int
    lines: tuple[Lines, ...]
    seen: Seen
    tokens: RequestTokens
    raw_paths: frozenset[str]
    trouble: Trouble | None = None


class Trouble(NamedTuple):
    """A known error of a process that makes lines, as it travels."""

    what: str
    next_step: str
    exit_code: int
    is_of_ledger: bool

    @classmethod
    def of(cls, error: RunnerError) -> Trouble:
        """What an error says."""
        return cls(error.what, error.next_step, error.exit_code, isinstance(error, LedgerError))

    def error(self) -> RunnerError:
        """The error, for who can tell people."""
        kind = LedgerError if self.is_of_ledger else RunnerError
        kind = StillRunningError if self.exit_code == EXIT_STILL_RUNNING else kind
        return kind(self.what, next_step=self.next_step)


class PortionMaker:
    """Makes portions of a manifest's rows. One thread at a time."""

    def __init__(
        self,
        ledger: Ledger,
        manifest_id: int,
        source: LineageSource,
        raw: RawAnswers,
        check_answer: Callable[[str], str | None],
    ) -> None:
        self._ledger = ledger
        self._manifest_id = manifest_id
        self._raw = raw
        self._repeats = source.repeats
        self._maker = LineageMaker(source, raw, check_answer)

    def make(self, order: Order) -> Iterator[Portion]:
        """The rows of a range. Errors: LedgerError."""
        step = whole_rows(_SLICE_ROWS, self._repeats)
        start = order.start
        while start < order.stop:
            stop = min(order.stop, (start // step + 1) * step)
            stored = self._ledger.stored_rows(self._manifest_id, start, stop)
            with without_collector():
                for rows in cut(stored, self._repeats):
                    yield self._portion(rows)
            if self._maker.leaves_cycles:
                gc.collect(1)  # what is left of these rows
            start = stop

    def make_or_say(self, order: Order) -> Iterator[Portion]:
        """The same; the last portion says what is wrong, to who can tell people."""
        at = order.start
        try:
            for portion in self.make(order):
                yield portion
                at = portion.stop
        except RunnerError as error:
            nothing = RequestTokens((), (), (), 0)
            yield Portion(at, (), Seen(), nothing, frozenset(), Trouble.of(error))

    def _portion(self, rows: StoredRows) -> Portion:
        lines = tuple(self._maker.groups(rows))
        seen, self._maker.seen = self._maker.seen, Seen()
        paths, self._raw.paths = self._raw.paths, set()
        stop = rows.rows[-1][Place.POSITION] + 1
        return Portion(stop, lines, seen, request_tokens(rows), frozenset(paths))


def cut(stored: StoredRows, repeats: int) -> Iterator[StoredRows]:
    """The rows, so many at a time that their raw lines are not too much for the memory. A row of the dataset
    stays whole. Cut again from one of the cuts on, the rest falls into the same parts."""
    start = size = 0
    for place, values in enumerate(stored.rows):
        length = values[Place.LENGTH] or 0
        size += length
        if size > _PORTION_BYTES and place > start and values[Place.POSITION] % repeats == 0:
            yield StoredRows(stored.rows[start:place], stored.shards, stored.paths)
            start, size = place, length
    if start < len(stored.rows):
        yield StoredRows(stored.rows[start:], stored.shards, stored.paths)


def whole_rows(about: int, repeats: int) -> int:
    """About so many stored rows, of whole rows of the dataset."""
    return max(1, about // repeats) * repeats


@dataclass(frozen=True, slots=True)
class LineageWork(Work[Portion]):
    """Makes the lines of a manifest's table. `whole_bytes`: so much of raw files each process may keep."""

    place: LedgerPlace
    manifest_id: int
    source: LineageSource
    whole_bytes: int
    words: ClassVar[Words] = Words(
        does="makes results",
        things="results",
        done="made",
        next_step=(
            "every answer is kept; free some memory, or look into the system's log for what ended the "
            "process, then run the same command again"
        ),
    )

    def begin(self) -> Doing[Portion]:
        """Open the ledger to look. Errors: LedgerError."""
        ledger = Ledger.open_reading(self.place)
        if ledger is None:
            raise LedgerError("the ledger is gone")
        raw = RawAnswers(self.source.folder, self.whole_bytes)
        check_answer = _answer_checker(self.source.schema)
        return PortionMaker(ledger, self.manifest_id, self.source, raw, check_answer).make_or_say

    def end_of(self, piece: Portion) -> int:
        """The row after its last one."""
        return piece.stop

    def pack(self, piece: Portion) -> tuple[Any, bytes]:
        """Its lines are the many bytes."""
        lines = [(*one[:2], len(one.text), *one[3:]) for one in piece.lines]
        verdicts = {key: _packed(verdict) for key, verdict in piece.seen.verdicts.items()}
        by_status = {status.value: rows for status, rows in piece.seen.by_status.items()}
        seen = by_status, piece.seen.oldest_s, verdicts
        trouble = None if piece.trouble is None else tuple(piece.trouble)
        values = piece.stop, lines, seen, tuple(piece.tokens), list(piece.raw_paths), trouble
        return values, b"".join(one.text for one in piece.lines)

    def unpack(self, values: Any, many: bytes) -> Portion:
        """The same portion."""
        stop, packed, (by_status, oldest_s, verdicts), tokens, raw_paths, trouble = values
        lines, at = [], 0
        for start, positions, size, *rest in packed:
            lines.append(Lines(start, positions, many[at : at + size], *rest))
            at += size
        seen = Seen(
            by_status=Counter({Status(word): rows for word, rows in by_status.items()}),
            oldest_s=oldest_s,
            verdicts={key: _unpacked(*verdict) for key, verdict in verdicts.items()},
        )
        said = None if trouble is None else Trouble(*trouble)
        return Portion(stop, tuple(lines), seen, RequestTokens(*tokens), frozenset(raw_paths), said)


def lineage_pool(work: LineageWork, here: PortionMaker, rows: int, workers: int) -> WorkerPool[Portion]:
    """So many workers, and this process's own maker, for so many stored rows: in ranges small enough that
    nobody waits long for the last one."""
    step = whole_rows(_RANGE_ROWS, work.source.repeats)
    orders = [Order(start, min(start + step, rows)) for start in range(0, rows, step)]
    return WorkerPool(work, orders, workers, here=here.make)


def lineage_workers(ledger: Ledger, rows: int, workers: int | None) -> int:
    """How many processes make so many rows' lines, beside this one: none where a ledger is no file, for its
    URL may hold a password. `workers`: as many as may be at it (None: one for each processor)."""
    count = min(processors() if workers is None else workers, _MAX_PROCESSES)
    return count - 1 if count > 1 and ledger.is_file and rows >= WORTH_ROWS else 0


def share_of_whole_bytes(workers: int) -> int:
    """How much of raw files each process may keep."""
    return min(WHOLE_BYTES, _WHOLE_BYTES_OF_ALL // (workers + 1))


def _answer_checker(schema: Mapping[str, Any] | None) -> Callable[[str], str | None]:
    """Without a schema a worker is spared what it takes to import jsonschema."""
    if schema is None:
        return lambda _: None
    from runner.manifest import answer_checker

    return answer_checker(schema)


def _packed(verdict: Verdict) -> tuple[Any, ...]:
    cause = verdict.cause
    why = None if cause is None else (cause.error_class, cause.message, cause.code)
    return verdict.shard_id, verdict.status.value, why


def _unpacked(shard_id: int, word: str, why: tuple[str, str, str | None] | None) -> Verdict:
    cause = None if why is None else Cause(error_class=why[0], message=why[1], code=why[2])
    return Verdict(shard_id, Status(word), cause)
