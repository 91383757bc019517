"""A shard while this process moves it, and what every part of the engine needs to move it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from runner.commands.calls import Progress
from runner.commands.collecting import ShardBook
from runner.commands.moments import Reporter, UploadProgress
from runner.commands.options import Pace
from runner.core.lasting import Lasting, Noted, Readings
from runner.core.model import Outcome, Provider
from runner.core.states import (
    ShardState,
    Submission,
    after_the_clock_was_set_back,
    by_another_clock,
    is_to_be_stopped,
    looks_finished,
)
from runner.ledger import Ledger, LedgerPlace, WaitKind

if TYPE_CHECKING:
    from runner.provider import Client

POLLS_PER_MINUTE = 30
LONG_WAIT_S = 10.0
"""What must wait longer than this is left to the next step."""
LOOKS_TO_STOP = 3
"""Who only submits looks so often at a batch that the server does not stop."""


class ExtrasStage(Enum):
    """How far one is with the extra batches of a shard: to be stopped, stopped, to be read, read."""

    TO_STOP = "to stop"
    STOPPED = "stopped"
    TO_READ = "to read"
    READ = "read"


@dataclass(slots=True, eq=False)
class Track:
    """One shard under way. Everything durable is in `submission`; the rest is rebuilt after a crash.

    `next_at_s`: not before this moment (Unix seconds). `lasting`: what is waited out, `noted` what earlier
    processes waited, `readings` full ones of a finished batch that still lacks lines (see `patience`).
    `uploads`: tried by this process. `looks`: polls so far, `is_troubled` that the last one came to an
    error. `is_in_grace`: what was in flight when the batch was cancelled may still be answered, until a
    moment that the server's own times tell. `is_lacking_told`: a person knows that lines lack;
    `is_overdue_told` that a person knows of a batch that is not done in its window.
    `blocked`: a failure of one of its requests that the account is to blame for; `retry_after_s`: the
    longest wait that a line asks for. `queued_out`: what the server said of its full queue, where it let
    nothing of the batch in. `is_stop_told`: the server has taken a wish to stop its batch; `stop_problem`:
    why it did not, as that was told last. `has_deleted`: it has deleted the input file for this process.
    `is_left`: another manifest's shard, which this run must not send.
    """

    submission: Submission
    lock: ExitStack = field(default_factory=ExitStack)
    is_taken: bool = False
    is_busy: bool = False
    next_at_s: float = 0.0
    book: ShardBook | None = None
    progress: Progress = field(default_factory=Progress)
    looks: int = 0
    is_troubled: bool = False
    lasting: dict[WaitKind, Lasting] = field(default_factory=dict)
    noted: dict[WaitKind, Noted] = field(default_factory=dict)
    readings: Readings | None = None
    is_lacking_told: bool = False
    is_overdue_told: bool = False
    is_in_grace: bool = False
    sent_bytes: int = 0
    uploads: int = 0
    has_deleted: bool = False
    blocked: Outcome | None = None
    retry_after_s: float = 0.0
    queued_out: str | None = None
    is_stop_told: bool = False
    stop_problem: str | None = None
    extras: tuple[str, ...] = ()
    extras_stage: ExtrasStage = ExtrasStage.READ
    is_left: bool = False

    @property
    def wants_extras(self) -> bool:
        """Whether the extra batches are to be looked at now."""
        return self.extras_stage in (ExtrasStage.TO_STOP, ExtrasStage.TO_READ)

    def is_in(self, state: ShardState) -> bool:
        """Whether the shard is in this state."""
        return self.submission.state is state

    def can_be_left(self, now_s: float, pace: Pace) -> bool:
        """Whether a run of this pace is done with it, though it is not final.

        Submitting: bought, and stopped if that is wished, or a repetition that is not due yet, which a later
        run plans anew. A step: looked at, and nothing can be done before a while has gone by. A batch that
        has ended is read until it is accounted for, unless the next reading is a long while off.
        """
        if self.is_left:
            return True
        if self.extras_stage is ExtrasStage.TO_STOP and self.is_taken:
            return False  # a second batch that may be paid for is told to stop first
        waits = self.is_in(ShardState.READY) and self.submission.attempt == 1
        match pace:
            case Pace.DONE:
                return False
            case Pace.SUBMITTED:
                is_bought = self.is_in(ShardState.SUBMITTED) and not self._is_stopping(now_s)
                return is_bought or (waits and now_s < self.submission.not_before_s)
            case Pace.STEP if self.is_in(ShardState.SUBMITTED):
                can_wait = self.is_troubled or self.is_in_grace
                stays_s = LONG_WAIT_S if looks_finished(self.submission) and not can_wait else 0.0
                return self.looks > 0 and now_s + stays_s < self.next_at_s and not self.is_busy
            case Pace.STEP:
                is_elsewhere = not self.is_taken and now_s < self.next_at_s
                return is_elsewhere or now_s + LONG_WAIT_S < max(
                    self.next_at_s, self.submission.not_before_s if waits else 0.0
                )

    def _is_stopping(self, now_s: float) -> bool:
        """Whether its batch is to be told to stop before this process leaves. That is tried for a few looks
        only: each later run does so too."""
        if not is_to_be_stopped(self.submission) or self.is_stop_told:
            return False
        is_elsewhere = not self.is_taken and now_s < self.next_at_s
        return self.is_busy or not (is_elsewhere or self.looks >= LOOKS_TO_STOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the engine works with: server, ledger, listener, clocks (Unix seconds).

    `clock` never jumps (see `commands.clock`); `wall` is the one that the ledger's times are of.
    """

    provider: Provider
    place: LedgerPlace
    ledger: Ledger
    client: Client
    reporter: Reporter
    run_id: int
    clock: Callable[[], float]
    wall: Callable[[], float] = time.time

    def save(self, track: Track, moved: Submission, what: str, detail: str = "") -> None:
        """Record a move durably, its waits by the wall clock; only then is it true in memory."""
        stored = by_another_clock(moved, self.wall() - self.clock())
        self.ledger.save(stored, what=what, detail=detail, run_id=self.run_id)
        track.submission = moved

    def load(self, shard_id: int) -> Submission:
        """A shard as the ledger has it, its waits by the clock that never jumps."""
        wall_s = self.wall()
        found = after_the_clock_was_set_back(self.ledger.submission(shard_id), wall_s)
        return by_another_clock(found, self.clock() - wall_s)

    def key_digest(self, submission: Submission) -> str:
        """What a create-intent of ours says about its key."""
        return self.client.key_digest(submission.run)

    def is_of_another_key(self, submission: Submission) -> bool:
        """Whether the last create-intent was made with a key that is known to be another one."""
        key = self.ledger.key_of_create(submission.shard_id)
        return key not in ("", self.key_digest(submission))

    def is_of_this_key(self, submission: Submission) -> bool:
        """Whether it was surely made with this one; an old journal does not tell a rebuilt ledger."""
        return self.ledger.key_of_create(submission.shard_id) == self.key_digest(submission)

    def tell_progress(self, tracks: Sequence[Track]) -> None:
        """How far the uploads are."""
        for track in tracks:
            if track.is_busy and track.is_in(ShardState.UPLOADING):
                shard = track.submission
                self.reporter.tell(
                    UploadProgress(slot=shard.slot, sent_bytes=track.sent_bytes, size_bytes=shard.size_bytes)
                )

    def poll_pause_s(self, tracks: Sequence[Track]) -> float:
        """The poll interval with jitter, longer where many batches share the minute."""
        interval_s = self.provider.poll_interval_s
        if not self.provider.is_local:
            open_batches = sum(track.is_in(ShardState.SUBMITTED) for track in tracks)
            interval_s = max(interval_s, open_batches * 60 / POLLS_PER_MINUTE)
        return interval_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret

    @property
    def reread_pause_s(self) -> float:
        """Between two full readings of a finished batch: replicas need time to catch up."""
        return max(self.provider.settle_s / 6, 0.05)

    @property
    def patience_s(self) -> float:
        """How long a 404 on a known id may last before it is believed."""
        return max(self.provider.settle_s, 5.0)
