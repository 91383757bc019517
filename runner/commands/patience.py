"""What is waited out for shards, noted in the ledger so that the next process goes on with it.

How much counts is decided in `core.lasting`. A process that stays takes a few notes, one that looks once
takes one at most.
"""

from __future__ import annotations

from dataclasses import replace

from runner.commands.tracks import Surroundings, Track
from runner.core.lasting import first_reading, lasting, to_note
from runner.ledger import WaitKind


class Patience:
    """Runs in the engine's thread, for shards whose lock is held."""

    def __init__(self, at: Surroundings) -> None:
        self._at = at

    def remember(self, track: Track) -> None:
        """What earlier processes waited."""
        track.noted = self._at.ledger.waits().noted(track.submission.shard_id)

    def lasted_s(self, track: Track, kind: WaitKind, of: str, whole_s: float) -> float:
        """How long it lasts already, at a look that shows it. `of`: the id it is about; `whole_s`: how long
        it is waited out."""
        now_s = self._at.clock()
        known = track.lasting.get(kind)
        if known is None or known.of != of:
            before = track.noted.get(kind)
            known = lasting(of, before, whole_s=whole_s, now_s=now_s, wall_s=self._at.wall())
        amount_s = to_note(known, whole_s=whole_s, now_s=now_s)
        if amount_s is not None:
            self._note(track, kind, amount_s, of)
            known = replace(known, noted_s=amount_s)
        track.lasting[kind] = known
        return now_s - known.since_s

    def end(self, track: Track, kind: WaitKind) -> None:
        """A look showed otherwise, or it was waited out: what comes of its kind begins anew."""
        track.lasting.pop(kind, None)
        track.readings = None if kind is WaitKind.LACKING else track.readings
        if track.noted.pop(kind, None) is not None:
            self._at.ledger.waits().end(track.submission.shard_id, kind)

    def read(self, track: Track, weight: int) -> int:
        """What the full readings of an ended batch count, this one with its `weight` included. The engine
        sees to it that those of one process are far enough apart."""
        of, known = track.submission.batch_id or "", track.readings
        if known is None or known.of != of:
            known, is_news = first_reading(
                of,
                track.noted.get(WaitKind.LACKING),
                weight=weight,
                pause_s=self._at.reread_pause_s,
                wall_s=self._at.wall(),
            )
        else:
            known, is_news = replace(known, count=known.count + weight), True
        if is_news:
            self._note(track, WaitKind.LACKING, known.count - known.withheld, of)
        track.readings = known
        return known.count

    def _note(self, track: Track, kind: WaitKind, amount: float, of: str) -> None:
        track.noted[kind] = self._at.ledger.waits().note(track.submission.shard_id, kind, amount, of)
