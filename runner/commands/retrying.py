"""Another attempt for requests whose failure may pass: new shards of only those requests.

The lines are copied from the shard files that carried them before, byte for byte, so a request keeps its
custom_id and its fingerprint. Where a person cancels, the run that sees it happen sends nothing again, nor
what `on_edit` cancelled; the next one that wants it does, in that same run. What would go beyond
`budget.max_cost` is left to the next run as well, with its own plan.

When they go is a function of the ledger (`core.settling.due_s`: when the attempt failed, how many there
were), stands in the new shard (`not_before_s`), and is never earlier than what a server asked for. So a run
that is killed while it waits goes on waiting for the same moment in the next one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

from runner.commands.moments import Reporter, Retrying, Trouble
from runner.commands.sharding import SealedShard, ShardFiles
from runner.commands.spending import Allowance
from runner.commands.under_way import under_way
from runner.commands.workplace import Workplace
from runner.core.queueing import Room, limit_in, room_after
from runner.core.settling import due_s
from runner.core.states import Submission
from runner.failpoints import failpoint
from runner.ledger import Ledger, PlanMovedError, PlannedShard

T = TypeVar("T")
LOOKS = 3
"""So often it is looked what is to be sent, where other runs send some of it at the same time."""


def planned(
    shards: tuple[SealedShard, ...], workplace: Workplace, *, pause_until_s: float = 0.0
) -> list[PlannedShard]:
    """Sealed files as the ledger records them; those that are sent again wait for `pause_until_s` too."""
    manifest = workplace.manifest
    return [
        PlannedShard(
            slot=shard.slot,
            sha=shard.sha,
            path=Path(shard.path).relative_to(workplace.place.folder).as_posix(),
            size_bytes=shard.size_bytes,
            requests=shard.requests,
            endpoint=manifest.model.endpoint,
            completion_window=manifest.batch.completion_window,
            model=manifest.model.name,
            server=workplace.provider.server,
            not_before_s=max(shard.not_before_s, pause_until_s) if shard.not_before_s else 0.0,
        )
        for shard in shards
    ]


def until_it_stands(send: Callable[[], T], *, reporter: Reporter, otherwise: str) -> T | None:
    """What `send` gives; called again where other runs have sent some of it meanwhile (PlanMovedError). In
    the end it is left, which `otherwise` says in words; None then."""
    for look in range(1, LOOKS + 1):
        try:
            return send()
        except PlanMovedError as moved:
            if look == LOOKS:
                reporter.tell(Trouble(what=f"{otherwise}: {moved.what}"))
    return None


def files_of_more(workplace: Workplace, scratch: Path, first_slot: int) -> ShardFiles:
    """Input files of shards that a run adds to those it has, from this slot on."""
    return ShardFiles(
        workplace.provider.limits,
        folder=workplace.place.folder / "shards",
        scratch=scratch,
        owner=workplace.file_owner,
        first_slot=first_slot,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRequests:
    """Every request worth repeating of those that the shards with these ids carried.

    `began_after`: the last event before the person asked for this run. A wish to cancel that is older is no
    word against it.
    `pause_until_s`: the latest moment (Unix seconds) that the server asked to wait for. `room`: what the
    server lets wait; what is beyond it is left for the next time, and all of it while something waits there
    already.
    """

    workplace: Workplace
    ledger: Ledger
    run_id: int
    manifest_id: int
    shard_ids: Container[int]
    began_after: int
    pause_until_s: float
    room: Room | None
    reporter: Reporter

    def send_again(self) -> list[Submission]:
        """New shards for them; empty for none. Where another run has sent one of them meanwhile, it is looked
        again; in the end they stay as they are."""
        otherwise = "failed requests are not sent again now"
        return until_it_stands(self._once, reporter=self.reporter, otherwise=otherwise) or []

    def _once(self) -> list[Submission]:
        """One look, and what it finds in new shards. Errors: PlanMovedError, and then nothing stays of it."""
        if self.ledger.wishes().is_cancelled(self.manifest_id, self.began_after):
            return []
        if self.room is not None and under_way(self.workplace, self.ledger, self.manifest_id):
            return []
        failpoint("retry.begins")
        folder = self.workplace.place.folder
        with tempfile.TemporaryDirectory(prefix="retry-", dir=folder / "scratch") as scratch:
            first_slot = next_slot(self.ledger, self.manifest_id, self.run_id)
            files = files_of_more(self.workplace, Path(scratch), first_slot)
            try:
                placements = self._placements(files)
                failpoint("retry.copied")
                shards = tuple(files.seal())
            except BaseException:
                files.discard()
                raise
            return self._committed(files, shards, placements) if placements else []

    def _placements(self, files: ShardFiles) -> list[tuple[int, int, int]]:
        """(slot, line, request id) of all that is copied; what is too dear is told."""
        allowance = Allowance(self.workplace, self.ledger, run_id=self.run_id, manifest_id=self.manifest_id)
        again = _lines_again(self.workplace, self.ledger, self.manifest_id, self.shard_ids, self.began_after)
        with closing(again) as lines:
            placements = list(_placed(files, lines, self.room, allowance))
        if allowance.refused:
            what = f"{allowance.refused:,} requests that failed are not sent again by this run"
            self.reporter.tell(Trouble(what=f"{what}: {allowance.text}"))
        return placements

    def _committed(
        self, files: ShardFiles, shards: tuple[SealedShard, ...], placements: list[tuple[int, int, int]]
    ) -> list[Submission]:
        failpoint("retry.sealed")
        new = planned(shards, self.workplace, pause_until_s=self.pause_until_s)
        try:
            again = self.ledger.commit_shards(
                run_id=self.run_id,
                manifest_id=self.manifest_id,
                shards=new,
                placements=placements,
                max_attempts=self.workplace.manifest.retry.attempts,
            )
        except PlanMovedError:
            files.discard()
            raise
        failpoint("retry.committed")
        pause_s = max(max(shard.not_before_s for shard in new) - time.time(), 0.0)
        self.reporter.tell(Retrying(requests=len(placements), shards=len(new), pause_s=round(pause_s, 3)))
        return again


def room_left(
    ledger: Ledger,
    manifest_id: int,
    shard_ids: Container[int],
    before: Room | None,
    queued_out: Sequence[str],
) -> Room | None:
    """What the server lets wait now, after shards came to their end.

    `before`: what it was when they were cut; `queued_out`: what it said to those that it did not let in. A
    process that has seen nothing of that yet takes the limit that one of these shards was told before.
    """
    limits = [limit for limit in map(limit_in, queued_out) if limit is not None]
    if queued_out and not limits:
        return before  # a queue without a number: everything is sent again, later
    after = room_after(before, limit_tokens=min(limits, default=None))
    if after is not None:
        return after
    shard_id, message = ledger.queued_out(manifest_id) or (0, "")
    return room_after(None, limit_tokens=limit_in(message) if shard_id in shard_ids else None)


def tell_waiting(shards: Sequence[PlannedShard], reporter: Reporter) -> None:
    """Say what of a plan must wait, where that is long enough to be noticed."""
    now_s = time.time()
    waiting = [shard for shard in shards if shard.not_before_s > now_s + 1]
    if waiting:
        requests = sum(shard.requests for shard in waiting)
        pause_s = max(shard.not_before_s for shard in waiting) - now_s
        what = f"{requests:,} requests failed a moment ago; they are sent again in {pause_s:.0f} s"
        reporter.tell(Trouble(what=what))


def next_slot(ledger: Ledger, manifest_id: int, run_id: int) -> int:
    """The first slot of a run that no shard has yet."""
    return max((one.slot + 1 for one in ledger.shards(manifest_id) if one.run_id == run_id), default=0)


def _placed(
    files: ShardFiles, lines: Iterable[tuple[bytes, float, int]], room: Room | None, allowance: Allowance
) -> Iterator[tuple[int, int, int]]:
    """(slot, line, request id) of each request that goes into the new shards: all that may be spent for, or
    as many of them as there is room for, but one at least."""
    size_bytes = 0
    for text, due, request_id in lines:
        if not allowance.takes(text):
            continue
        size_bytes += len(text)
        if room is not None and size_bytes > max(room.size_bytes, len(text)):
            return
        place = files.place(text, due)
        yield place.shard, place.line, request_id


def _lines_again(
    workplace: Workplace,
    ledger: Ledger,
    manifest_id: int,
    shard_ids: Container[int],
    began_after: int,
) -> Generator[tuple[bytes, float, int]]:
    """(line, when it is due, request id) of each request worth repeating."""
    cancelled = ledger.wishes().cancelled_since(began_after)
    sources = _Sources(ledger, workplace.place.folder, cancelled=cancelled)
    now_s = time.time()
    with closing(sources):
        for one in chain.from_iterable(ledger.repeatable(manifest_id, workplace.manifest.retry.attempts)):
            text = sources.line(one.shard_id, one.line) if one.shard_id in shard_ids else None
            if text is not None:
                due = due_s(
                    workplace.backoff, failed_at_s=one.failed_at_s, attempts=one.attempts, now_s=now_s
                )
                yield text, due, one.request_id


class _Sources:
    """Lines of earlier shard files, asked for in ascending order; one file open at a time. Those of shards
    that were `cancelled` during this run are left."""

    def __init__(self, ledger: Ledger, folder: Path, *, cancelled: Container[int]) -> None:
        self._ledger = ledger
        self._folder = folder
        self._cancelled = cancelled
        self._shard_id: int | None = None
        self._file: BinaryIO | None = None
        self._lines: Iterator[bytes] = iter(())
        self._next_line = 0

    def line(self, shard_id: int, line: int) -> bytes | None:
        """The line, or None where its shard was cancelled during this run or its file is gone."""
        if shard_id != self._shard_id:
            self._open(shard_id)
        text = None
        while self._next_line <= line:
            text = next(self._lines, None)
            self._next_line += 1
        return text

    def _open(self, shard_id: int) -> None:
        self.close()
        submission = self._ledger.submission(shard_id)
        self._shard_id, self._next_line = shard_id, 0
        if shard_id in self._cancelled:
            self._lines = iter(())
            return
        try:
            self._file = (self._folder / submission.path).open("rb")
        except FileNotFoundError:
            self._lines = iter(())
            return
        self._lines = iter(self._file)

    def close(self) -> None:
        """Close the file that is open, if any."""
        if self._file is not None:
            self._file.close()
            self._file = None
