"""Rows joined with answers, into the results table.

For every current row of the manifest the ledger knows its request, and of the request the place of its
answer: raw file, offset, length. The dataset's columns come from the snapshot that the rows were rendered
from, never from the input files, which may have changed since. `_position` and `_key` of both sides are
compared by the writer, row for row.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from runner.commands.lineage import LineageSource, Seen
from runner.commands.lineage_pool import (
    LineageWork,
    Portion,
    PortionMaker,
    lineage_pool,
    lineage_workers,
    share_of_whole_bytes,
)
from runner.commands.moments import Publishing, Reporter, Trouble
from runner.commands.raw_answers import RawAnswers
from runner.commands.request_tokens import Tokens
from runner.commands.totals import Totals
from runner.commands.worker_pool import WorkerPool
from runner.commands.workplace import Workplace
from runner.core.model import Prices
from runner.core.planning import cost_of
from runner.ledger import Ledger, without_collector
from runner.results import Lines, Published, publish

_TOLD_ROWS = 50_000


def write_results(
    workplace: Workplace,
    ledger: Ledger,
    *,
    manifest_id: int,
    snapshot: Path,
    rows: int,
    history: Path | None,
    check_answer: Callable[[str], str | None],
    workers: int | None,
    reporter: Reporter,
) -> tuple[Published, Totals]:
    """Join and write every output path, and `history` where the run's table needs a place of its own.

    Returns what was written and the totals by status. `workers`: processes that make lines, where there are
    enough rows (None: one for each processor).
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
    stored_rows = rows * source.repeats
    count = lineage_workers(ledger, stored_rows, workers)
    share = share_of_whole_bytes(count)
    sums = _Sums()
    with RawAnswers(source.folder, share) as raw, without_collector():
        here = PortionMaker(ledger, manifest_id, source, raw, check_answer)
        work = LineageWork(ledger.place, manifest_id, source, share)
        pool = lineage_pool(work, here, stored_rows, count)
        with closing(_lines(pool, raw, ledger, sums, reporter)) as lines:
            published = publish(
                str(snapshot),
                _told(lines, rows, reporter),
                source.columns(),
                [Path(path) for path in output.paths] + ([history] if history is not None else []),
                scratch=workplace.place.folder / "scratch",
                csv_safe=output.csv_safe,
            )
    return published, sums.totals(model.prices)


@dataclass(slots=True)
class _Sums:
    """What all portions so far have together."""

    seen: Seen = field(default_factory=Seen)
    tokens: Tokens = field(default_factory=Tokens)
    raw_paths: set[str] = field(default_factory=set)

    def add(self, portion: Portion) -> None:
        self.seen.add(portion.seen)
        self.tokens.count(portion.tokens)
        self.raw_paths |= portion.raw_paths

    def totals(self, prices: Prices | None) -> Totals:
        tokens = self.tokens
        return Totals(
            by_status=self.seen.by_status,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cost=None if prices is None else cost_of(tokens.input, tokens.output, prices),
            rows=self.seen.by_status.total(),
            refresh_failed=tokens.failed_since,
            oldest_s=self.seen.oldest_s,
            raw_paths=self.raw_paths,
        )


def _lines(
    pool: WorkerPool[Portion], raw: RawAnswers, ledger: Ledger, sums: _Sums, reporter: Reporter
) -> Generator[Lines, None, None]:
    """All of a table's lines. What the answers turn out to be goes into the ledger as they are seen. With the
    last line the workers end: joining needs the memory."""
    with pool:
        for portion in pool.pieces(lambda: None, lambda what: reporter.tell(Trouble(what=what))):
            if portion.trouble is not None:
                raise portion.trouble.error()
            sums.add(portion)
            yield from portion.lines
            ledger.judge_again(sums.seen.verdicts)
            sums.seen.verdicts.clear()
    raw.forget()


def _told(groups: Iterator[Lines], total: int, reporter: Reporter) -> Iterator[Lines]:
    told = 0
    for group in groups:
        yield group
        rows = group.start + group.positions
        if rows // _TOLD_ROWS > told:
            told = rows // _TOLD_ROWS
            reporter.tell(Publishing(rows=told * _TOLD_ROWS, total=total))
