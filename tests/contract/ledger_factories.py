"""Ledgers in a temporary folder, plans and answers with good defaults."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from runner.core.model import Cause, Fingerprint, Outcome, Status
from runner.core.planning import Standing
from runner.core.states import (
    Submission,
    create_accepted,
    create_intended,
    reconciled,
    upload_accepted,
    upload_intended,
)
from runner.ledger import Ledger, LedgerPlace, PlannedShard, RunStart, StagedRow, Staging, locate

START_S = 1_767_323_045.678
UUID_ID = "batch_req_0f4c1c0e-6a4e-4c2f-9a55-0123456789ab"


@dataclass
class Clock:
    """A clock that stands until it is moved."""

    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


def place_in(folder: Path) -> LedgerPlace:
    """The place of `folder/job.yaml`'s ledger, whatever lies above."""
    (folder / ".runner").mkdir(mode=0o700, exist_ok=True)
    return locate(str(folder / "job.yaml"), {})


def fingerprint(name: object) -> Fingerprint:
    """16 bytes that differ for every name."""
    return Fingerprint(hashlib.sha256(str(name).encode()).digest()[:16])


def to_send(position: int, key: str, *, line: int, slot: int = 0, request: object = None) -> StagedRow:
    """A row whose request is placed in a shard. `request` names it; the key if None."""
    name = key if request is None else request
    return StagedRow(position, key, fingerprint(name), Standing.TO_SEND, slot, line, None)


def waiting(
    position: int, key: str, *, standing: str = Standing.TO_SEND, request: object = None
) -> StagedRow:
    """A row whose request is not placed by this plan."""
    name = key if request is None else request
    return StagedRow(position, key, fingerprint(name), standing, None, None, None)


def unsendable(position: int, key: str, message: str = "no value for `body`") -> StagedRow:
    """A row that has a cause and no request."""
    cause = Cause(error_class="missing_variable", message=message)
    return StagedRow(position, key, None, Standing.UNSENDABLE, None, None, cause)


def shard_file(slot: int = 0, *, requests: int = 1, model: str = "qwen") -> PlannedShard:
    """A written shard."""
    return PlannedShard(
        server="https://llm.example.com/v1",
        slot=slot,
        sha=hashlib.sha256(b"shard %d" % slot).hexdigest(),
        path=f"shards/{slot}.jsonl",
        size_bytes=1000,
        requests=requests,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        model=model,
    )


_opened: list[Ledger] = []


def let_go_of_ledgers() -> None:
    """Close the connections of all that projects opened; nothing else of closing is done, for the folder
    may be gone. Python 3.13 complains of connections that nobody closes."""
    while _opened:
        ledger = _opened.pop()
        for engine in (ledger._reader, ledger._writer):
            if engine is not None:
                engine.dispose()


@dataclass
class Project:
    """One open ledger with one manifest; every plan is a run of its own."""

    ledger: Ledger
    manifest_id: int
    name: str = "job"
    run_ids: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, *, name: str = "job", clock: Clock | None = None) -> Project:
        ledger = Ledger.open(place_in(folder), clock=clock or Clock())
        _opened.append(ledger)
        return cls(ledger, ledger.ensure_manifest(str(folder / f"{name}.yaml"), name), name)

    def beside(self, name: str) -> Project:
        """Another manifest of the same ledger."""
        return Project(self.ledger, self.ledger.ensure_manifest(f"{name}.yaml", name), name)

    def start_run(self) -> int:
        run_id = self.ledger.start_run(run_start(uuid4().hex, self.manifest_id))
        self.run_ids.append(run_id)
        return run_id

    def planned(self, rows: Sequence[StagedRow]) -> list[StagedRow]:
        """These rows as a plan stages them that is made now: with how the requests stand that it places."""
        held = self.ledger.held([row.fingerprint for row in rows if row.fingerprint is not None])
        return [
            row._replace(attempts=known.attempts, status=known.status)
            if row.slot is not None and (known := held.get(row.fingerprint or b"")) is not None
            else row
            for row in rows
        ]

    def commit(self, rows: Sequence[StagedRow]) -> list[Submission]:
        """Plan these rows, with the shards they are placed in."""
        return self.commit_planned(self.planned(rows))

    def commit_planned(self, rows: Sequence[StagedRow]) -> list[Submission]:
        """A plan that was made before (see `planned`) becomes a fact."""
        slots = sorted({row.slot for row in rows if row.slot is not None})
        shards = [shard_file(slot, requests=sum(row.slot == slot for row in rows)) for slot in slots]
        with Staging.create(self.ledger.place.folder / "scratch") as staging:
            staging.add_rows(rows)
            return self.ledger.commit_plan(
                run_id=self.start_run(),
                manifest_id=self.manifest_id,
                staging=staging,
                shards=shards,
            )

    def send(self, submission: Submission) -> Submission:
        """All the way to a batch."""
        for step in (
            upload_intended(submission),
            upload_accepted(upload_intended(submission), f"file-{submission.shard_id}"),
        ):
            self.ledger.save(step, what=step.state)
            submission = step
        submission = create_intended(submission, START_S)
        self.ledger.save(submission, what="creating")
        submission = create_accepted(submission, f"batch-{submission.shard_id}", START_S)
        self.ledger.save(submission, what="submitted")
        return submission

    def answer(
        self, submission: Submission, outcomes: Iterable[tuple[int, Outcome]], file_id: str = "out"
    ) -> None:
        """Store outcomes by line, 100 bytes each, in the order given."""
        by_line = {entry.line: entry for entry in self.ledger.expected(submission.shard_id).values()}
        raw = self.ledger.raw_file(submission.shard_id, "output", f"{file_id}-{submission.shard_id}")
        items = [
            (line, by_line[line].request_id, outcome, 100 * place, 99)
            for place, (line, outcome) in enumerate(outcomes)
        ]
        self.ledger.store_outcomes(submission.shard_id, raw, items)

    def finish(self, submission: Submission) -> None:
        self.ledger.finish_shard(reconciled(submission), [])

    def statuses(self) -> list[Status]:
        return [row.status for row in self.ledger.rows(self.manifest_id, 0, 1000)]

    def asked(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What an outsider's connection reads."""
        return asked(self.ledger.place, query, *values)


def asked(place: LedgerPlace, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What an outsider's connection reads."""
    connection = sqlite3.connect(place.folder / "ledger.db")
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def run_start(uid: str, manifest_id: int) -> RunStart:
    """The beginning of a run."""
    return RunStart(
        uid=uid,
        manifest_id=manifest_id,
        manifest_digest="manifest",
        template_digest="template",
        dataset_digest="dataset",
        version="1.0",
        git_commit=None,
        snapshot="snapshots/1.parquet",
        model="qwen",
        rows=3,
    )


def succeeded(**changes: Any) -> Outcome:
    """A usual answer."""
    values: dict[str, Any] = {
        "status": Status.SUCCEEDED,
        "finish_reason": "stop",
        "input_tokens": 30,
        "output_tokens": 10,
        "model": "qwen",
        "response_id": UUID_ID,
    }
    return Outcome(**(values | changes))


def failed(
    *, retryable: bool = True, message: str = "HTTP status 500", status: Status = Status.FAILED
) -> Outcome:
    """A usual failure."""
    cause = Cause(error_class="server_error", code="500", message=message)
    return Outcome(status=status, cause=cause, response_id=UUID_ID, retryable=retryable)
