"""Second batches of one shard: recorded, stopped, and read before the shard is done.

A server, or something between it and us, can carry one create out twice. The best of the batches drives
the shard (`core.states.best_match`); each other one is an incident: its id is durable before anything else
happens, it is told to stop at once, and before the shard ends its output is read as well, because a row
that the driving batch failed may be answered there, and was paid for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.commands.moments import AnswersStored, Trouble
from runner.commands.patience import Patience
from runner.commands.tracks import ExtrasStage, Surroundings, Track
from runner.core.model import Download
from runner.core.settling import grace_left_s
from runner.core.states import Submission, is_cancelling, terminal_word
from runner.core.wire import BatchObject
from runner.ledger import EXTRA_BATCH, EXTRA_OUTPUT, WaitKind
from runner.provider import ProviderError

if TYPE_CHECKING:
    from runner.provider import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtrasSeen:
    """What one look at the extra batches brought. `are_over`: none of them may still change. `are_told`: each
    of them is over, or has been told to stop. `cancelled`: those that have stopped, or are about to."""

    are_over: bool
    are_told: bool = True
    cancelled: tuple[BatchObject, ...] = ()
    downloads: tuple[tuple[str, Download], ...] = ()


def look_at_extras(
    client: Client, batch_ids: Sequence[str], scratch: Path, shard_id: int, *, is_last: bool
) -> ExtrasSeen:
    """Stop those that are live; with `is_last` read their output, as far as it goes. Never raises a
    ProviderError: what can't be had now is asked for again, and holds the shard up for a while only."""
    are_over = are_told = True
    downloads: list[tuple[str, Download]] = []
    cancelled: list[BatchObject] = []
    for batch_id in batch_ids:
        try:
            batch = client.retrieve_batch(batch_id)
            cancelled += [batch] if is_cancelling(batch.status) else []
            if terminal_word(batch.status) is None:
                are_over = False
                client.cancel_batch(batch_id)
            if is_last and batch.output_file_id is not None:
                target = scratch / f"{shard_id}-{len(downloads)}-extra.part"
                download = client.download(batch.output_file_id, target)
                downloads.append((batch.output_file_id, download))
                are_over = are_over and download.is_whole
        except ProviderError:  # a 404 too: it was listed, so a replica is behind
            are_over = are_told = False
    return ExtrasSeen(
        are_over=are_over, are_told=are_told, cancelled=tuple(cancelled), downloads=tuple(downloads)
    )


class Extras:
    """The engine's thread: what is recorded of extra batches, and when they are looked at."""

    def __init__(self, at: Surroundings, patience: Patience) -> None:
        self._at = at
        self._patience = patience

    def remember(self, track: Track) -> None:
        """Those that the ledger knows, of this process or an earlier one, are stopped and read. The batch
        that drives the shard is none of them, whatever an earlier listing made of it."""
        known = self._at.ledger.extra_batches(track.submission.shard_id)
        track.extras = tuple(one for one in known if one != track.submission.batch_id)
        if track.extras:
            track.extras_stage = ExtrasStage.TO_STOP

    def found(self, track: Track, driving: Submission, matches: Sequence[BatchObject]) -> None:
        """What a listing showed beside the batch that is to drive the shard. Recorded before that one is:
        after a crash between the two the listing is read again, later nobody would look for the others."""
        new = tuple(one.batch_id for one in matches if one.batch_id != driving.batch_id)
        self._at.ledger.note_extras(driving, EXTRA_BATCH, new, run_id=self._at.run_id)
        for batch_id in new:
            what = (
                f"the server holds a second batch of this shard: {batch_id}; it is stopped and may be billed"
            )
            self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))

    def landed(self, track: Track, seen: ExtrasSeen) -> None:
        """Take in what their output holds beyond the driving batch's."""
        if track.extras_stage is ExtrasStage.TO_STOP:
            if seen.are_told or self._has_waited(track, WaitKind.EXTRAS_LIVE):
                track.extras_stage = ExtrasStage.STOPPED
            else:
                track.next_at_s = self._at.clock() + self._at.reread_pause_s
            return
        files = [file_id for file_id, _ in seen.downloads]
        self._at.ledger.note_extras(track.submission, EXTRA_OUTPUT, files, run_id=self._at.run_id)
        stored = 0
        for file_id, download in seen.downloads:
            raw = self._at.ledger.raw_file(track.submission.shard_id, "output", file_id)
            if track.book is not None:
                stored += track.book.take_in(download, raw, self._at.place.folder / "raw").stored
        if stored:
            told = AnswersStored(
                slot=track.submission.slot,
                batch_id=track.extras[0],
                stored=stored,
                outstanding=len(track.book.outstanding) if track.book is not None else 0,
            )
            self._at.reporter.tell(told)
        is_read = seen.are_over or self._has_waited(track, WaitKind.EXTRAS_UNREAD)
        if is_read and not self._may_still_answer(track, seen.cancelled):
            track.extras_stage = ExtrasStage.READ
        else:
            track.next_at_s = self._at.clock() + self._at.reread_pause_s

    def _may_still_answer(self, track: Track, cancelled: Sequence[BatchObject]) -> bool:
        """Whether what was in flight when they were cancelled may still come, and something lacks an answer:
        as with the driving batch, it is billed, and would be asked again."""
        is_told, track.is_in_grace = track.is_in_grace, False
        if not cancelled or track.book is None or not track.book.lacks_answers:
            return False
        provider, ids = self._at.provider, ",".join(track.extras)
        lasted_s = self._patience.lasted_s(track, WaitKind.EXTRAS_CANCELLED, ids, provider.cancel_grace_s)
        left_s = max(grace_left_s(one, provider, seen_since_s=0.0, now_s=lasted_s) for one in cancelled)
        track.is_in_grace = left_s > 0
        if track.is_in_grace and not is_told:
            until = time.strftime("%H:%M:%S", time.localtime(self._at.wall() + left_s))
            what = f"a second batch that was stopped may still answer what lacks; it is read until {until}"
            self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))
        return track.is_in_grace

    def _has_waited(self, track: Track, kind: WaitKind) -> bool:
        """Whether they have held the shard up for long enough."""
        whole_s = self._at.patience_s
        return self._patience.lasted_s(track, kind, ",".join(track.extras), whole_s) > whole_s
