"""Watching a batch: polls and downloads turned into stored answers, until every request is accounted for.

The rule: a word of the server never ends a shard. It ends when each request that was sent has an outcome;
absence counts as one only after a finished batch was read in full several times, because replicas lag
and streams are cut. What was in flight when a batch was cancelled may still be answered, and is billed: until
the provider's grace is over, by the server's own clock or by ours since we saw it, nothing of it is missing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from runner.commands.ahead import Ahead
from runner.commands.calls import Fetched, Progress
from runner.commands.collecting import ShardBook
from runner.commands.moments import AnswersStored, BatchDone, BatchSeen, Trouble
from runner.commands.patience import Patience
from runner.commands.tracks import ExtrasStage, Surroundings, Track
from runner.core import states
from runner.core.lasting import WHOLE_READING
from runner.core.model import Outcome, Problem, ProblemKind
from runner.core.settling import grace_left_s, judge_absence
from runner.core.wire import BatchObject
from runner.failpoints import failpoint
from runner.ledger import WaitKind
from runner.provider import NotFoundYetError, ProviderError

FULL_READS = 4
"""A finished batch that lacks lines is read in full so many times before its rows are unaccounted."""
OVERDUE_AFTER_S = 600
"""A batch that is unfinished so long after its window is told of. Servers tidy up for a while then."""
_LASTING = frozenset({ProblemKind.NOT_FOUND, ProblemKind.INVALID_REQUEST})
"""What keeps a file from being read for good. All else passes, and says nothing about what is in the file."""


class Watcher:
    """Takes what polls bring. Runs in the engine's thread."""

    def __init__(self, at: Surroundings, ahead: Ahead, patience: Patience) -> None:
        self._at = at
        self._ahead = ahead
        self._patience = patience

    def fetched(self, track: Track, fetched: Fetched, tracks: Sequence[Track]) -> None:
        """Record what a poll brought: the batch as seen, its lines, and whether that was all."""
        failpoint("poll.landed")
        track.looks += 1
        track.is_troubled = bool(fetched.errors)
        self._patience.end(track, WaitKind.BATCH_MISSING)
        if not self._is_about(track, fetched.batch):
            track.is_troubled = True
            track.next_at_s = self._at.clock() + self._at.poll_pause_s(tracks)
            return
        self._saw(track, fetched.batch)
        track.book = track.book or ShardBook(self._at.ledger, track.submission.shard_id)
        was_full = track.progress.from_start or track.progress.output_lines == 0
        for read, download in fetched.downloads:
            raw = self._at.ledger.raw_file(track.submission.shard_id, read.kind, read.file_id)
            message = fetched.prepared.get(download.path)
            prepared = None if message is None else self._ahead.unpacked(message)
            tally = track.book.take_in(download, raw, self._at.place.folder / "raw", prepared)
            if read.kind == "output":
                self._ahead.taken_in(download)
                track.progress = Progress(output_lines=read.skip + download.lines)
            if tally.stored:
                self._tell_stored(track, tally.stored)
        for what in self._ahead.told():
            self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))
        for error in fetched.errors:
            self._at.reporter.tell(Trouble(what=error.what, slot=track.submission.slot))
        was_read = all(error.problem.kind in _LASTING for error in fetched.errors)
        is_full = was_full and not fetched.errors and all(one.is_whole for _, one in fetched.downloads)
        self._conclude(track, fetched.batch, tracks, was_read=was_read, is_full=is_full)
        if track.book is not None:
            track.book.rest()

    def _saw(self, track: Track, batch: BatchObject) -> None:
        moved = states.seen(track.submission, batch)
        if moved != track.submission:
            self._at.save(track, moved, "batch seen", batch.status)
            failpoint("seen.recorded")
        self._at.reporter.tell(
            BatchSeen(
                slot=moved.slot,
                batch_id=moved.batch_id or "",
                status=moved.status,
                requests=moved.requests,
                completed=moved.completed,
                failed=moved.failed,
                expires_at_s=moved.expires_at_s,
            )
        )

    def _is_about(self, track: Track, batch: BatchObject) -> bool:
        """Whether the server told of the batch that was asked for. Another one, of the same requests once
        more, may hold their custom_ids: what is in its files and what is absent there says nothing of this
        one."""
        asked = track.submission.batch_id or ""
        if batch.batch_id != asked:
            what = f"asked for batch {asked}, the server told of {batch.batch_id}; it is asked again"
            self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))
        return batch.batch_id == asked

    def _tell_stored(self, track: Track, stored: int) -> None:
        outstanding = len(track.book.outstanding) if track.book is not None else 0
        self._at.reporter.tell(
            AnswersStored(
                slot=track.submission.slot,
                batch_id=track.submission.batch_id or "",
                stored=stored,
                outstanding=outstanding,
            )
        )

    def _conclude(
        self, track: Track, batch: BatchObject, tracks: Sequence[Track], *, was_read: bool, is_full: bool
    ) -> None:
        """Done when every request is accounted for; a finished batch that lacks lines is read again."""
        if track.book is None:
            return
        if track.book.is_complete:
            self._finish(track, batch, [])
            return
        submission = track.submission
        word = states.last_word(submission) or _stuck_cancel(batch)
        if word is None and not states.looks_finished(submission):
            self._patience.end(track, WaitKind.CANCELLED)
            self._patience.end(track, WaitKind.LACKING)
            self._tell_overdue(track, batch)
            track.next_at_s = self._at.clock() + self._at.poll_pause_s(tracks)
            return
        if was_read and self._may_still_answer(track, batch, word):
            track.next_at_s = self._at.clock() + max(self._at.reread_pause_s, self._at.poll_pause_s(tracks))
            return
        track.progress = Progress(output_lines=track.progress.output_lines, from_start=True)
        if word is not None and was_read:
            # A server that never says where a body ends can't be waited for: its reads count half.
            readings = self._patience.read(track, WHOLE_READING if is_full else 1)
            said = (submission.completed or 0) + (submission.failed or 0)
            # No count speaks for what was in flight at a cancel.
            is_over = word != "cancelled" and not submission.is_fenced
            agrees = is_over and submission.total is not None and said <= track.book.accounted
            enough = WHOLE_READING * (2 if agrees else FULL_READS)
            if readings >= enough:
                is_unbegun = _shows_no_work(batch) and not track.book.accounted and not track.extras
                absence = judge_absence(word, batch.errors, is_unbegun=is_unbegun)
                lacking = track.book.outstanding
                self._finish(track, batch, [(one.line, one.request_id, absence) for one in lacking])
                if absence.queued_out and track.is_in(states.ShardState.DONE) and absence.cause is not None:
                    self._tell_queued_out(track, absence.cause.message)
                return
            self._tell_lacking(track, word, (enough - readings + 1) // 2 * self._at.reread_pause_s)
        track.next_at_s = self._at.clock() + self._at.reread_pause_s

    def _tell_queued_out(self, track: Track, message: str) -> None:
        track.queued_out = message
        what = (
            f"the batch was not let in, and nothing of it ran ({message}); "
            "as much as fits is sent again when the others have ended"
        )
        self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))

    def _may_still_answer(self, track: Track, batch: BatchObject, word: str | None) -> bool:
        """Whether the grace after a cancel is running."""
        if word != "cancelled":
            self._patience.end(track, WaitKind.CANCELLED)
            track.is_in_grace = False
            return False
        whole_s = self._at.provider.cancel_grace_s
        lasted_s = self._patience.lasted_s(track, WaitKind.CANCELLED, batch.batch_id, whole_s)
        left_s = grace_left_s(batch, self._at.provider, seen_since_s=0.0, now_s=lasted_s)
        is_told = batch.cancelled_at_s is not None and batch.told_at_s is not None
        track.is_in_grace = left_s > 0 and is_told
        if left_s <= 0:
            return False
        self._tell_lacking(track, word, left_s + FULL_READS * self._at.reread_pause_s)
        return True

    def _tell_lacking(self, track: Track, word: str, wait_s: float) -> None:
        """Once for each batch, where a person would otherwise watch minutes of silence."""
        if track.is_lacking_told or track.book is None:
            return
        track.is_lacking_told = True
        until_s = self._at.wall() + wait_s
        until = time.strftime("%H:%M:%S", time.localtime(until_s))
        what = (
            f"the batch ended ({word}) with {track.book.accounted:,} of "
            f"{track.submission.requests:,} answers; reading again until {until}"
        )
        self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))

    def _tell_overdue(self, track: Track, batch: BatchObject) -> None:
        """Once: a server may finish it hours late, or never; what to do then is for a person to decide."""
        expires_at_s = track.submission.expires_at_s
        late_s = (batch.told_at_s or self._at.wall()) - (expires_at_s or 0.0)
        if track.is_overdue_told or expires_at_s is None or late_s < OVERDUE_AFTER_S:
            return
        track.is_overdue_told = True
        until = time.strftime("%m-%d %H:%M", time.localtime(expires_at_s))
        what = (
            f"the batch's window ended at {until}, and the server still says {batch.status!r}; it is watched "
            "until it ends. `run cancel` gives it up: what is answered is kept, the next run asks the rest"
        )
        self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))

    def _finish(self, track: Track, batch: BatchObject, absent: list[tuple[int, int, Outcome]]) -> None:
        if track.extras_stage is not ExtrasStage.READ:
            track.extras_stage = ExtrasStage.TO_READ  # a second batch may hold what this one lacks
            return
        failpoint("finish.begins")
        if track.book is not None:
            track.blocked, track.retry_after_s = track.book.blocked, track.book.retry_after_s
            if failures := track.book.failures:
                self._at.reporter.tell(Trouble(what=failures, slot=track.submission.slot))
        track.submission = states.reconciled(track.submission)
        self._at.ledger.finish_shard(track.submission, absent, run_id=self._at.run_id)
        track.book = None
        track.lock.close()
        self._at.reporter.tell(
            BatchDone(
                slot=track.submission.slot,
                batch_id=track.submission.batch_id or "",
                status=track.submission.status,
            )
        )

    def troubled(self, track: Track, error: ProviderError, tracks: Sequence[Track]) -> None:
        """A safe call failed. It changes nothing in the shard but its last problem, and it is made again."""
        now = self._at.clock()
        track.looks += 1
        track.is_troubled = True
        if isinstance(error, NotFoundYetError) and self._is_missing_for_good(track):
            why = (
                f"the server no longer knows batch {track.submission.batch_id}: it was deleted by "
                "somebody else, or this key belongs to another account"
            )
            self._at.save(track, states.held(track.submission, why), "held")
            self._patience.end(track, WaitKind.BATCH_MISSING)
            return
        self._at.reporter.tell(Trouble(what=error.what, slot=track.submission.slot))
        track.next_at_s = now + max(error.problem.retry_after_s or 0.0, self._at.poll_pause_s(tracks))

    def not_stopped(self, track: Track, error: ProviderError, tracks: Sequence[Track]) -> None:
        """A batch that is to be stopped was not. That says nothing of the batch itself, a 404 neither; the
        next look tells it to stop once more."""
        if error.what != track.stop_problem:
            track.stop_problem = error.what
            what = f"batch {track.submission.batch_id} is not stopped: {error.what}; each look tries again"
            self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))
        pause_s = max(error.problem.retry_after_s or 0.0, self._at.poll_pause_s(tracks))
        track.next_at_s = max(track.next_at_s, self._at.clock() + pause_s)

    def _is_missing_for_good(self, track: Track) -> bool:
        """Whether a batch that is not found was not for so long that this is believed."""
        batch_id, whole_s = track.submission.batch_id, self._at.patience_s
        if batch_id is None:
            return False
        return self._patience.lasted_s(track, WaitKind.BATCH_MISSING, batch_id, whole_s) > whole_s


def _stuck_cancel(batch: BatchObject) -> str | None:
    """`cancelled`, for a batch that was stopped before it had a line: the Doubleword server has nothing then
    to finish it by, and it stays `cancelling` for ever (API reference, 4.6). The grace after a cancel is
    waited for all the same."""
    is_idle = states.is_cancelling(batch.status) and not (batch.completed or batch.failed)
    return "cancelled" if is_idle else None


def _shows_no_work(batch: BatchObject) -> bool:
    """Whether the server claims no result of any request."""
    has_file = batch.output_file_id is not None or batch.error_file_id is not None
    return not (has_file or batch.completed or batch.failed)


def refusal_in(track: Track) -> Problem | None:
    """What the failures of a shard's requests say about the account: the run stops for it as for a refused
    call."""
    cause = track.blocked.cause if track.blocked is not None else None
    if cause is None:
        return None
    kind = ProblemKind.PAYMENT if cause.error_class == "payment" else ProblemKind.AUTHENTICATION
    return Problem(kind=kind, message=f"requests of batch {track.submission.batch_id}: {cause.message}")
