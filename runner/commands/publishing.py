"""Rows joined with answers, into the results table.

For every current row of the manifest the ledger knows its request, and of the request the place of its
answer: raw file, offset, length. The dataset's columns come from the snapshot that the rows were rendered
from, never from the input files, which may have changed since. `_position` and `_key` of both sides are
compared by the writer, row for row.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner.commands.lineage import LineageMaker, LineageSource
from runner.commands.moments import Publishing, Reporter
from runner.commands.raw_answers import RawAnswers
from runner.commands.workplace import Workplace
from runner.core.model import Status
from runner.core.planning import cost_of
from runner.ledger import Ledger, Place, StoredRows, without_collector
from runner.results import Lines, Published, publish

_CHUNK_ROWS = 2_000
_TOLD_ROWS = 50_000
_GROWS_BYTES = 1 << 16


@dataclass(slots=True)
class Totals:
    """What the published table holds: rows by status. Tokens and cost count each request once, because
    rows that share one share its price. `raw_paths` are the raw files that its answers stand in,
    `refresh_failed` rows that keep an earlier answer because asking again failed, `oldest_s` when the
    oldest of its answers was given (0 where one doesn't say; None without answers).
    """

    by_status: Counter[Status] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    rows: int = 0
    refresh_failed: int = 0
    oldest_s: float | None = None
    raw_paths: set[str] = field(default_factory=set)


_REQUEST, _FAILED_SHARD = Place.REQUEST, Place.FAILED_SHARD
_INPUT, _OUTPUT = Place.INPUT_TOKENS, Place.OUTPUT_TOKENS


@dataclass(slots=True)
class Tokens:
    """Tokens of the answers (and failures) that rows hold, each request counted once, and how many rows keep
    an earlier answer because asking again failed. Memory: a bit for each request of the ledger."""

    input: int = 0
    output: int = 0
    failed_since: int = 0
    _counted: bytearray = field(default_factory=bytearray)

    def count(self, stored: StoredRows) -> None:
        """More rows, which may share requests with each other and with those before."""
        counted = self._counted
        for values in stored.rows:
            request_id = values[_REQUEST]
            if request_id is None:
                continue
            if values[_FAILED_SHARD] is not None:
                self.failed_since += 1
            place, bit = request_id >> 3, 1 << (request_id & 7)
            if place >= len(counted):
                counted.extend(bytes(place + _GROWS_BYTES - len(counted)))
            if counted[place] & bit:
                continue
            counted[place] |= bit
            self.input += values[_INPUT] or 0
            self.output += values[_OUTPUT] or 0


def write_results(
    workplace: Workplace,
    ledger: Ledger,
    *,
    manifest_id: int,
    snapshot: Path,
    rows: int,
    history: Path | None,
    check_answer: Callable[[str], str | None],
    reporter: Reporter,
) -> tuple[Published, Totals]:
    """Join and write every output path, and `history` where the run's table needs a place of its own.

    Returns what was written and the totals by status.
    """
    output, model = workplace.manifest.output, workplace.manifest.model
    source = LineageSource(
        folder=workplace.place.folder,
        schema=output.schema,
        prefix=output.prefix,
        prices=model.prices,
        repeats=workplace.manifest.repeats,
        embeddings=model.endpoint == "/v1/embeddings",
    )
    with RawAnswers(workplace.place.folder) as raw, without_collector():
        maker = LineageMaker(source, raw, check_answer)
        tokens = Tokens()
        published = publish(
            str(snapshot),
            _told(_lines(ledger, manifest_id, rows * source.repeats, maker, tokens, raw), rows, reporter),
            source.columns(),
            [Path(path) for path in output.paths] + ([history] if history is not None else []),
            scratch=workplace.place.folder / "scratch",
            csv_safe=output.csv_safe,
        )
    totals = Totals(
        by_status=maker.seen.by_status,
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cost=None if model.prices is None else cost_of(tokens.input, tokens.output, model.prices),
        rows=maker.seen.by_status.total(),
        refresh_failed=tokens.failed_since,
        oldest_s=maker.seen.oldest_s,
        raw_paths=raw.paths,
    )
    return published, totals


def _lines(
    ledger: Ledger, manifest_id: int, rows: int, maker: LineageMaker, tokens: Tokens, raw: RawAnswers
) -> Iterator[Lines]:
    """All of a table's lines, a few thousand rows at a time. What the answers turn out to be goes into the
    ledger as they are seen."""
    step = max(1, _CHUNK_ROWS // maker.repeats) * maker.repeats
    for start in range(0, rows, step):
        stored = ledger.stored_rows(manifest_id, start, start + step)
        tokens.count(stored)
        yield from maker.groups(stored)
        ledger.judge_again(maker.seen.verdicts)
        maker.seen.verdicts.clear()
        if maker.leaves_cycles:
            gc.collect(1)  # what is left of these rows
    raw.forget()  # joining needs the memory


def _told(groups: Iterator[Lines], total: int, reporter: Reporter) -> Iterator[Lines]:
    told = 0
    for group in groups:
        yield group
        rows = group.start + group.positions
        if rows // _TOLD_ROWS > told:
            told = rows // _TOLD_ROWS
            reporter.tell(Publishing(rows=told * _TOLD_ROWS, total=total))
