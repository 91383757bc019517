"""Rows joined with answers, into the results table.

For every current row of the manifest the ledger knows its request, and of the request the place of its
answer: raw file, offset, length. The dataset's columns come from the snapshot that the rows were rendered
from, never from the input files, which may have changed since. `_position` and `_key` of both sides are
compared by the writer, row for row.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.commands.moments import Publishing, Reporter
from runner.commands.workplace import Workplace
from runner.core.model import Cause, Status
from runner.core.planning import ANSWERS, cost_of
from runner.core.settling import Answer, read_answer
from runner.core.wire import ResultLine, read_result_line
from runner.ledger import Ledger, LedgerRow, without_collector
from runner.results import Published, field_reader, lineage_columns, publish

_CHUNK_ROWS = 2_000
_OPEN_FILES = 64
_JUDGED = (Status.SUCCEEDED, Status.INVALID, Status.UNACCOUNTED)
"""What a look at the answer itself decides, where there is one."""
_WORDS = {status: status.value for status in Status}


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


class RawAnswers:
    """Reads result lines at their places. Keeps a bounded number of raw files open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}
        self._closing = ExitStack()
        self.paths: set[str] = set()

    def __enter__(self) -> RawAnswers:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def read(self, row: LedgerRow) -> ResultLine | None:
        """The line that holds the row's answer, or None where there is none (or its file is gone)."""
        path, offset, length = row.raw_path, row.offset, row.length
        if path is None or offset is None or length is None:
            return None
        descriptor = self._files.get(path) or self._descriptor(path)
        if descriptor is None:
            return None
        line = read_result_line(os.pread(descriptor, length, offset))
        if not isinstance(line, ResultLine) or line.custom_id != row.custom_id:
            return None
        return line

    def _descriptor(self, path: str) -> int | None:
        if path not in self._files:
            if len(self._files) >= _OPEN_FILES:
                self._closing.close()
                self._files.clear()
            try:
                descriptor = os.open(self._folder / path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            self._closing.callback(os.close, descriptor)
            self._files[path] = descriptor
            self.paths.add(path)
        return self._files[path]


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
    output = workplace.manifest.output
    embeddings = workplace.manifest.model.endpoint == "/v1/embeddings"
    totals = Totals()
    with RawAnswers(workplace.place.folder) as raw, without_collector():
        lineage = _Lineage(workplace, ledger, manifest_id, raw, check_answer, totals)
        published = publish(
            str(snapshot),
            _told(lineage.records(rows), rows, reporter),
            lineage_columns(output.schema, output.prefix, embeddings=embeddings),
            [Path(path) for path in output.paths] + ([history] if history is not None else []),
            scratch=workplace.place.folder / "scratch",
            csv_safe=output.csv_safe,
        )
        totals.raw_paths = raw.paths
    totals.input_tokens, totals.output_tokens = ledger.spent(manifest_id)
    totals.refresh_failed = ledger.failed_since(manifest_id)
    prices = workplace.manifest.model.prices
    if prices is not None:
        totals.cost = cost_of(totals.input_tokens, totals.output_tokens, prices)
    return published, totals


def _told(records: Iterator[dict[str, Any]], total: int, reporter: Reporter) -> Iterator[dict[str, Any]]:
    for count, record in enumerate(records, 1):
        if count % 50_000 == 0:
            reporter.tell(Publishing(rows=count, total=total))
        yield record


class _Lineage:
    """Ledger rows to lineage records, in position order."""

    def __init__(
        self,
        workplace: Workplace,
        ledger: Ledger,
        manifest_id: int,
        raw: RawAnswers,
        check_answer: Callable[[str], str | None],
        totals: Totals,
    ) -> None:
        self._schema = workplace.manifest.output.schema
        self._fields = (
            field_reader(self._schema, prefix=workplace.manifest.output.prefix) if self._schema else None
        )
        self._prices = workplace.manifest.model.prices
        self._repeats = workplace.manifest.repeats
        self._ledger = ledger
        self._manifest_id = manifest_id
        self._raw = raw
        self._check_answer = check_answer
        self._totals = totals
        self._verdicts: dict[bytes, tuple[Status, Cause | None]] = {}

    def records(self, rows: int) -> Iterator[dict[str, Any]]:
        for start in range(0, rows * self._repeats, _CHUNK_ROWS):
            for row in self._ledger.rows(self._manifest_id, start, start + _CHUNK_ROWS):
                yield self._record(row)
            self._ledger.judge_again(self._verdicts)
            self._verdicts.clear()
            gc.collect(1)  # what is left of these rows; a schema's errors hold each other

    def _record(self, row: LedgerRow) -> dict[str, Any]:
        line = self._raw.read(row)
        answer = None if line is None else read_answer(line.body)
        status, problem = self._status(row, answer)
        if status is not row.status and row.fingerprint is not None:
            cause = None if problem is None else Cause(error_class=problem[0], message=problem[1])
            self._verdicts[row.fingerprint] = status, cause
        self._count(row, status)
        error_class, error_message = problem or (
            (None, None) if status is Status.SUCCEEDED else (row.error_class, row.error_message)
        )
        position, repeat = divmod(row.position, self._repeats)
        record: dict[str, Any] = {
            "_position": position,
            "_key": row.key if repeat == 0 else row.key.removesuffix(f" #{repeat + 1}"),  # its repeat's name
            "_status": _WORDS[status],
            "_answer": None if answer is None else answer.text,
            "_finish_reason": row.finish_reason,
            "_error_class": error_class,
            "_error_code": row.error_code,
            "_error_message": error_message,
            "_input_tokens": row.input_tokens,
            "_output_tokens": row.output_tokens,
            "_cost": None if self._prices is None else self._cost(row),
            "_model": row.model,
            "_custom_id": row.custom_id,
            "_batch_id": row.batch_id,
            "_response_id": row.response_id,
            "_attempts": row.attempts,
            "_repeat": repeat + 1,
            "_answered_at": row.answered_at_s,
            "_fingerprint": None if row.fingerprint is None else row.fingerprint.hex(),
        }
        if answer is not None and answer.embedding is not None:
            record["_embedding"] = answer.embedding
        if self._fields is not None and status is Status.SUCCEEDED and answer is not None:
            fields = self._fields(answer.text or "")
            record |= fields if not isinstance(fields, str) else {}
        return record

    def _count(self, row: LedgerRow, status: Status) -> None:
        totals = self._totals
        totals.rows += 1
        totals.by_status[status] += 1
        if row.status in ANSWERS:
            given_s = row.answered_at_s or 0
            if totals.oldest_s is None or given_s < totals.oldest_s:
                totals.oldest_s = given_s

    def _status(self, row: LedgerRow, answer: Answer | None) -> tuple[Status, tuple[str, str] | None]:
        """The row's status; an answer that breaks the schema, or whose bytes are gone, is said so.

        What an earlier table said of that is judged anew: the bytes may be back.
        """
        if row.raw_path is None or row.status not in _JUDGED:
            return row.status, None
        if answer is None:
            return Status.UNACCOUNTED, ("raw_missing", f"the raw line of this answer is gone: {row.raw_path}")
        broken = self._check_answer(answer.text) if answer.text is not None else None
        return (Status.SUCCEEDED, None) if broken is None else (Status.INVALID, ("schema", broken))

    def _cost(self, row: LedgerRow) -> float | None:
        if self._prices is None or row.input_tokens is None:
            return None
        return cost_of(row.input_tokens, row.output_tokens or 0, self._prices)
