"""A shard that the server finds too large goes on as two smaller ones.

The lines are copied byte for byte, so every request keeps its custom_id and its fingerprint. The files are
durable before the ledger hears of them; then one transaction takes the old shard back and places its
requests in the new ones, so a crash leaves either the one or the others. A request that is too large on its
own becomes a failed row with that cause, and the others go on without it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.commands.moments import Cut, Reporter
from runner.commands.retrying import next_slot, planned
from runner.commands.sharding import SealedShard, ShardFiles
from runner.commands.workplace import Workplace
from runner.core.model import Cause, Limits, Outcome, Problem, ProblemKind, Status
from runner.core.splitting import halves
from runner.core.states import Submission
from runner.failpoints import failpoint
from runner.ledger import Ledger, PlannedShard

_NO_LIMITS = Limits(max_file_bytes=2**62, max_requests_per_file=2**62, max_body_bytes=2**62)
_SLACK = 1.25
"""Halves of equal files are never quite equal: one that is a little larger is tried before it is cut."""
TOO_LARGE = Problem(kind=ProblemKind.TOO_LARGE, message="larger than what the server took before")
"""Said of a shard that is cut before it was ever sent."""


@dataclass(slots=True)
class Cutter:
    """Cuts shards for one run, and remembers for the rest of it how much the server takes at most."""

    workplace: Workplace
    ledger: Ledger
    run_id: int
    manifest_id: int
    reporter: Reporter = field(kw_only=True)
    largest_bytes: float = math.inf
    most_requests: float = math.inf

    def is_too_large(self, shard: Submission) -> bool:
        """Whether a shard need not even be tried. A single request always is."""
        is_large = shard.size_bytes > self.largest_bytes or shard.requests > self.most_requests
        return is_large and shard.requests > 1

    def _learn(self, halves: list[SealedShard], problem: Problem) -> None:
        """What is tried next for a shard is tried for those that follow too."""
        if problem.status_code == 413:
            largest = max(half.size_bytes for half in halves)
            self.largest_bytes = min(self.largest_bytes, largest * _SLACK)
        elif problem is not TOO_LARGE:
            most = max(half.requests for half in halves)
            self.most_requests = min(self.most_requests, most * _SLACK)

    def cut(self, given_up: Submission, problem: Problem) -> list[Submission]:
        """The shards that go on for one that was given up, ready to be sent; none for a single request."""
        failpoint("cut.begins")
        folder = self.workplace.place.folder
        entries = {entry.line: entry for entry in self.ledger.expected(given_up.shard_id).values()}
        if given_up.requests == 1:
            too_large = [
                (entry.line, entry.request_id, _too_large(given_up, problem)) for entry in entries.values()
            ]
            self._replace(given_up, problem, [], [], too_large)
            self._tell(given_up, problem, shards=0, failed=len(too_large))
            return []
        sealed: list[SealedShard] = []
        placements: list[tuple[int, int, int]] = []
        written: list[ShardFiles] = []
        slot = next_slot(self.ledger, self.manifest_id, self.run_id)
        with tempfile.TemporaryDirectory(prefix="cut-", dir=folder / "scratch") as scratch:
            try:
                for offset, half in enumerate(_halves(folder / given_up.path)):
                    files = ShardFiles(
                        _NO_LIMITS,
                        folder=folder / "shards",
                        scratch=Path(scratch),
                        owner=self.workplace.file_owner,
                        first_slot=slot + offset,
                    )
                    written.append(files)
                    for number, line in half:
                        place = files.place(line, given_up.not_before_s)
                        placements.append((place.shard, place.line, entries[number].request_id))
                    sealed += files.seal()
                failpoint("cut.sealed")
                new = self._replace(given_up, problem, sealed, placements, [])
            except BaseException:
                for files in written:
                    files.discard()
                raise
        self._learn(sealed, problem)
        self._tell(given_up, problem, shards=len(new), failed=0)
        return new

    def _replace(
        self,
        given_up: Submission,
        problem: Problem,
        sealed: list[SealedShard],
        placements: list[tuple[int, int, int]],
        too_large: list[tuple[int, int, Outcome]],
    ) -> list[Submission]:
        new = self.ledger.replace_shard(
            given_up,
            run_id=self.run_id,
            manifest_id=self.manifest_id,
            shards=self._sent_alike(given_up, planned(tuple(sealed), self.workplace)),
            placements=placements,
            failed=too_large,
            detail=problem.message,
        )
        failpoint("cut.committed")
        if not self.ledger.needs_file(given_up.path):
            (self.workplace.place.folder / given_up.path).unlink(missing_ok=True)
        return new

    def _sent_alike(self, given_up: Submission, parts: list[PlannedShard]) -> list[PlannedShard]:
        """The parts, to be sent as the whole was to be: that may be another manifest's."""
        model = self.ledger.model_of(given_up.shard_id)
        return [
            replace(
                part,
                endpoint=given_up.endpoint,
                completion_window=given_up.completion_window,
                model=model,
                server=given_up.server,
            )
            for part in parts
        ]

    def _tell(self, given_up: Submission, problem: Problem, *, shards: int, failed: int) -> None:
        self.reporter.tell(Cut(slot=given_up.slot, shards=shards, failed=failed, why=problem.message))


def _too_large(shard: Submission, problem: Problem) -> Outcome:
    message = f"the server does not take a file of {shard.size_bytes:,} bytes with this request alone"
    cause = Cause(
        error_class="body_too_large",
        code=str(problem.status_code) if problem.status_code is not None else None,
        message=f"{message}: {problem.message}",
    )
    return Outcome(status=Status.FAILED, cause=cause)


def _halves(path: Path) -> tuple[Iterator[tuple[int, bytes]], Iterator[tuple[int, bytes]]]:
    """Numbered lines of a file in two parts of about equal size. Two walks; memory is one line."""
    with path.open("rb") as file:
        first = halves(map(len, file))
    return _lines(path, 0, first), _lines(path, first, None)


def _lines(path: Path, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if stop is not None and number >= stop:
                return
            if number >= start:
                yield number, line
