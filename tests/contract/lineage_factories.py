"""Ledgers full of rows of every kind, and the lines that a table is made of, by however many processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.commands.lineage import LineageSource
from runner.commands.lineage_pool import LineageWork, Portion, PortionMaker, lineage_pool
from runner.commands.moments import Moment
from runner.commands.publishing import _lines, _Sums
from runner.commands.raw_answers import WHOLE_BYTES, RawAnswers
from runner.commands.totals import Totals
from runner.commands.worker_pool import WorkerPool
from runner.core.model import Outcome, Prices, Status
from runner.core.states import Submission
from runner.ledger import StagedRow
from runner.manifest import answer_checker
from runner.results import Lines
from tests.contract.ledger_factories import Project, failed, succeeded, to_send, unsendable, waiting
from tests.localserver_process import eventually

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}
PRICES = Prices(input_per_million=0.3, output_per_million=2.5)


@dataclass
class Heard:
    """A reporter that remembers."""

    moments: list[Moment] = field(default_factory=list)

    def tell(self, moment: Moment) -> None:
        self.moments.append(moment)

    def confirm(self, question: str) -> bool:
        raise AssertionError(question)

    @property
    def troubles(self) -> list[str]:
        return [moment.as_json()["what"] for moment in self.moments if moment.event == "trouble"]


@dataclass(frozen=True)
class Made:
    """A table's lines, with all that was found on the way."""

    lines: list[Lines]
    totals: Totals
    statuses: list[Status]

    @property
    def text(self) -> bytes:
        return b"".join(group.text for group in self.lines)


@dataclass
class Table:
    """A project with the rows of a manifest, and what their lines depend on."""

    project: Project
    source: LineageSource
    rows: int
    heard: Heard = field(default_factory=Heard)

    def pool(self, raw: RawAnswers, workers: int) -> WorkerPool[Portion]:
        ledger, manifest_id = self.project.ledger, self.project.manifest_id
        here = PortionMaker(ledger, manifest_id, self.source, raw, answer_checker(self.source.schema))
        work = LineageWork(ledger.place, manifest_id, self.source, WHOLE_BYTES)
        return lineage_pool(work, here, self.rows, workers)

    def made(self, workers: int) -> Made:
        """By so many workers, each of them at it before the first line is read."""
        with RawAnswers(self.source.folder) as raw:
            pool = self.pool(raw, workers)
            pieces, sums = pool.pieces, _Sums()

            def later(check_stop: Callable[[], None], tell: Callable[[str], None]) -> Iterator[Portion]:
                eventually(lambda: is_begun(pool, workers), what="workers that make lines")
                return pieces(check_stop, tell)

            pool.pieces = later  # type: ignore[method-assign]
            with closing(_lines(pool, raw, self.project.ledger, sums, self.heard)) as lines:
                found = list(lines)
        return Made(found, sums.totals(self.source.prices), self.project.statuses())


def is_begun(pool: WorkerPool[Portion], workers: int) -> bool:
    """Whether each of the workers is ready and has its first range."""
    return sum(one.is_taken for one in list(pool._ranges)) >= workers


def make_table(
    folder: Path,
    rows: int,
    *,
    schema: dict[str, Any] | None = None,
    repeats: int = 1,
    embeddings: bool = False,
    prices: Prices | None = PRICES,
) -> Table:
    """So many rows of a dataset. A third of them shares a request with one far before. There are failures,
    rows without a request, and answers that break the schema, whose file is gone, whose place holds another.
    """
    folder.mkdir()
    project = Project.open(folder)
    project.ledger.place.prepare()
    asked = rows * 2 // 3
    staged: list[StagedRow] = []
    for position in range(rows * repeats):
        row, repeat = divmod(position, repeats)
        key = f"k{row}" if repeat == 0 else f"k{row} #{repeat + 1}"
        request = f"r{row % asked}.{repeat}"
        if row % 13 == 12:
            staged.append(unsendable(position, key))
        elif row >= asked and (row - asked) % 13 != 12:
            staged.append(waiting(position, key, request=request))
        else:
            staged.append(to_send(position, key, line=len(staged), request=request))
    submission = project.send(project.commit(staged)[0])
    _answer(project, submission, embeddings=embeddings)
    source = LineageSource(
        folder=project.ledger.place.folder,
        schema=schema,
        prefix="",
        prices=prices,
        repeats=repeats,
        embeddings=embeddings,
    )
    return Table(project, source, rows * repeats)


def _answer(project: Project, submission: Submission, *, embeddings: bool) -> None:
    """Outcomes of every kind; every fifth answer stands in a second file."""
    files: dict[str, list[tuple[int, int, Outcome, bytes]]] = {"first": [], "second": [], "gone": []}
    expected = sorted(project.ledger.expected(submission.shard_id).items(), key=lambda named: named[1].line)
    for number, (custom_id, one) in enumerate(expected):
        kind = number % 11
        outcome = failed(message=f"no. {number}") if kind == 3 else succeeded(input_tokens=number)
        name = "gone" if kind == 5 else "second" if number % 5 == 0 else "first"
        text = "broken" if kind == 7 else json.dumps({"label": f"ü{number}"})
        line = raw_line("somebody-else" if kind == 9 else custom_id, text, embeddings=embeddings)
        files[name].append((one.line, one.request_id, outcome, line))
    for name, lines in files.items():
        store(project, submission, name, lines)
    (project.ledger.place.folder / raw_path(project, submission, "gone")).unlink()


def raw_line(custom_id: str, text: str, *, embeddings: bool = False) -> bytes:
    """A result line."""
    message = {"finish_reason": "stop", "message": {"content": text, "refusal": None}}
    body: dict[str, Any] = {"choices": [message]}
    if embeddings:
        body = {"data": [{"embedding": [0.5, len(custom_id), -1e-9]}]}
    response = {"status_code": 200, "body": body}
    return json.dumps({"id": "r", "custom_id": custom_id, "response": response, "error": None}).encode()


def raw_path(project: Project, submission: Submission, name: str) -> str:
    """Where a result file of a shard is, relative to the `.runner` folder."""
    return project.ledger.raw_file(submission.shard_id, "output", name).path


def store(
    project: Project,
    submission: Submission,
    name: str,
    lines: Sequence[tuple[int, int, Outcome, bytes]],
) -> None:
    """Outcomes with their lines, the last one first in the file: (line, request id, outcome, result line)."""
    raw = project.ledger.raw_file(submission.shard_id, "output", name)
    items = []
    with (project.ledger.place.folder / raw.path).open("wb") as file:
        for line, request_id, outcome, data in reversed(lines):
            items.append((line, request_id, outcome, file.tell(), len(data)))
            file.write(data + b"\n")
    project.ledger.store_outcomes(submission.shard_id, raw, items)
