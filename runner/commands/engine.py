"""Submit, watch and collect: all shards side by side until every request is accounted for.

The outline, once around::

    drive
      _take        a shard's lock: only one process moves a shard
      _step        core.states.decide -> `sending`, or a look at the batch: one call in a thread
      _landed      a call's reply -> `sending`, or `watching` until every request is accounted for

The engine's own thread makes every decision and every write; worker threads only call the server and
write scratch files. An intent is durable before its call starts, a reply is durable before the next
step. So the process may be killed between any two lines here, and the same command goes on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Container, Iterable

from runner.commands import calls
from runner.commands.ahead import Ahead
from runner.commands.calls import Fetched
from runner.commands.complaints import COMPLAINTS, batches_go_on, complaint_of, refusal
from runner.commands.cutting import Cutter
from runner.commands.extras import Extras, ExtrasSeen, look_at_extras
from runner.commands.interrupts import StopFlag
from runner.commands.options import Pace
from runner.commands.patience import Patience
from runner.commands.precautions import Precautions
from runner.commands.sending import STOPPING, MaySend, Reception, Sender
from runner.commands.tracks import ExtrasStage, Surroundings, Track
from runner.commands.watching import Watcher, refusal_in
from runner.core import states
from runner.core.model import Problem
from runner.core.states import (
    Create,
    DrawFence,
    Poll,
    Rest,
    ScanForBatch,
    ShardState,
    Submission,
    Upload,
    Wait,
)
from runner.core.wire import BatchObject
from runner.errors import (
    InterruptedRunError,
    RunnerError,
    StillRunningError,
)
from runner.ledger import HeldElsewhereError, hold
from runner.provider import ProviderError

TICK_S = 0.25
LEAVE_S = 3.0


class Engine:
    """Drives shards to their end. One instance for one run; see the module for its rules.

    `may_send`: whether this run may buy a batch of a shard; one that it may not is left.
    """

    def __init__(
        self, at: Surroundings, stop: StopFlag, cutter: Cutter, *, may_send: MaySend = lambda _: True
    ) -> None:
        self._at = at
        self._stop = stop
        self._reception = Reception()
        self._tracks: list[Track] = []
        self._ahead = Ahead(at.place)
        self._patience = Patience(at)
        self._watcher = Watcher(at, self._ahead, self._patience)
        self._extras = Extras(at, self._patience)
        self._precautions = Precautions(at)
        self._sender = Sender(
            at,
            cutter,
            self._reception,
            self._tracks,
            patience=self._patience,
            extras=self._extras,
            precautions=self._precautions,
            may_send=may_send,
            start=self._start,
        )
        self._landed_calls: queue.SimpleQueue[tuple[Track, str, object]] = queue.SimpleQueue()
        self._patience_s = LEAVE_S
        self._complaints: list[Submission] = []

    # ------------------------------------------------------------ the loop

    def drive(
        self, submissions: Iterable[Submission], *, pace: Pace, left_s: float | None
    ) -> list[Submission]:
        """Move the shards until all are final, or can be left at this pace; for `left_s` seconds at most.

        Raises InterruptedRunError, StillRunningError (deadline), ProviderRefusedError (key, payment); what
        was reached is in the ledger either way. What else went wrong, `complaint` says afterwards.
        """
        self._tracks[:] = [Track(submission=submission) for submission in submissions]
        deadline_s = None if left_s is None else time.monotonic() + left_s
        self._ahead.begin()
        try:
            while not self._is_over(pace):
                self._check_stop(deadline_s)
                now = self._at.clock()
                for track in () if self._reception.stopping is not None else self._tracks:
                    self._step(track, now)
                self._wait_for_calls()
        except KeyboardInterrupt:
            self._patience_s = 0.0  # the second Ctrl-C: leave at once; an open intent is resolved next time
            raise
        finally:
            self._leave()
            self._ahead.close()
        if self._reception.stopping is not None:
            raise refusal(self._at.provider.name, self._reception.stopping)
        self._complaints += [
            track.submission for track in self._tracks if track.submission.state in COMPLAINTS
        ]
        return self.reached()

    @property
    def sends_from_s(self) -> float:
        """From when on the server wants something sent again: Unix seconds by the wall clock, as what
        outlives this process is told; 0: now."""
        paused_s = self._reception.pause_until_s
        return paused_s + self._at.wall() - self._at.clock() if paused_s else 0.0

    @property
    def was_answered(self) -> bool:
        """Whether the server did what it was asked for, or said why not, in any call."""
        return self._reception.was_answered

    @property
    def unreached(self) -> Problem | None:
        """Why the last call failed, where the server was called and none worked."""
        return None if self._reception.was_answered else self._reception.not_working

    def queued_out(self) -> list[str]:
        """What the server said of its full queue to shards of the last drive: nothing of them was let in."""
        return [track.queued_out for track in self._tracks if track.queued_out is not None]

    def left(self) -> set[int]:
        """The shards of the last drive that this run must not send."""
        return {track.submission.shard_id for track in self._tracks if track.is_left}

    def reached(self) -> list[Submission]:
        """The shards of the last drive as they are now; those that were cut on the way too."""
        return [track.submission for track in self._tracks]

    def _is_over(self, pace: Pace) -> bool:
        if self._reception.stopping is not None:
            return not any(track.is_busy for track in self._tracks)
        now = self._at.clock()
        return all(
            track.submission.state.is_final or track.can_be_left(now, pace) or self._is_held_up(track, pace)
            for track in self._tracks
        )

    def _is_held_up(self, track: Track, pace: Pace) -> bool:
        """In a step: as many batches are open as may be, so this shard's turn is in a later one."""
        if pace is not Pace.STEP or not track.is_in(ShardState.READY) or track.is_busy:
            return False
        return self._sender.open_beside(track) >= self._at.provider.max_open_batches

    def _check_stop(self, deadline_s: float | None) -> None:
        bought = sum(track.is_in(ShardState.SUBMITTED) for track in self._tracks)
        waiting = batches_go_on(bought)
        if self._stop.is_set:
            raise InterruptedRunError(
                f"interrupted; {waiting} at the provider",
                next_step="run the same command again: it goes on from here and pays for nothing twice",
            )
        if deadline_s is not None and time.monotonic() >= deadline_s:
            then = "collects what is there" if bought else "sends what is left"
            raise StillRunningError(
                f"this run is not done; {waiting} at the provider",
                next_step=f"run the same command again later: it {then}",
            )

    def _wait_for_calls(self) -> None:
        """Sleep until a call lands or the tick ends; then record everything that landed."""
        try:
            landed = self._landed_calls.get(timeout=self._tick_s())
        except queue.Empty:
            self._at.tell_progress(self._tracks)
            return
        while True:
            self._landed(*landed)
            try:
                landed = self._landed_calls.get_nowait()
            except queue.Empty:
                return

    def _tick_s(self) -> float:
        return min(TICK_S, max(self._at.provider.poll_interval_s / 4, 0.01))

    def _leave(self) -> None:
        """Give calls that may have bought something a moment to land, record them, let go of the locks."""
        end = time.monotonic() + self._patience_s
        while any(track.is_busy for track in self._tracks) and time.monotonic() < end:
            try:
                self._landed(*self._landed_calls.get(timeout=0.1))
            except queue.Empty:
                if not any(track.submission.state is ShardState.CREATING for track in self._tracks):
                    break
        for track in self._tracks:
            track.lock.close()

    def complaint(self, resolve: str, *, ours: Container[int]) -> RunnerError | None:
        """Shards that were held or refused, as one error; None where there is none. `resolve` is the command
        that shows what can be decided: of the held ones about those that are `ours`."""
        complaints = [
            one for one in self._complaints if one.state is not ShardState.HELD or one.shard_id in ours
        ]
        return complaint_of(complaints, resolve)

    # ------------------------------------------------------------ steps

    def _step(self, track: Track, now: float) -> None:
        if not self._is_ready(track, now):
            return
        if track.wants_extras and track.is_in(ShardState.SUBMITTED):
            self._look_at_extras(track)
            return
        self._act(track, states.decide(track.submission, self._at.provider, now), now)

    def _act(self, track: Track, action: states.Action, now: float) -> None:
        match action:
            case Upload() | Create() | ScanForBatch() | DrawFence():
                self._sender.act(track, action, now)
            case Poll():
                self._poll(track)
            case Wait(until_s):
                track.next_at_s = until_s
            case Rest():
                pass

    def _is_ready(self, track: Track, now: float) -> bool:
        if track.is_busy or track.is_left or now < track.next_at_s or track.submission.state.is_final:
            return False
        return track.is_taken or self._take(track, now)

    def _take(self, track: Track, now: float) -> bool:
        """Become the one process that moves this shard; another's progress is read from the ledger."""
        shard_id = track.submission.shard_id
        try:
            track.lock.enter_context(hold(self._at.place.shard_lock(shard_id)))
            track.is_taken = True
        except HeldElsewhereError:
            track.next_at_s = now + 1.0
        track.submission = self._at.load(shard_id)
        if track.is_taken and track.submission.state in (ShardState.CREATING, ShardState.UNKNOWN):
            self._sender.tell_unknown(track, "an earlier run never learned whether its create arrived", now)
        self._hold_if_fenced_unseen(track)
        if track.is_taken and track.submission.state in (ShardState.SUBMITTED, ShardState.FENCING):
            self._patience.remember(track)
        if track.is_taken and track.is_in(ShardState.SUBMITTED):
            self._extras.remember(track)
        return track.is_taken and not track.submission.state.is_final

    def _hold_if_fenced_unseen(self, track: Track) -> None:
        """Another account sees neither the input file nor a batch of it: that would look like a fence that
        holds, and the shard would be bought once more. With the same key, or in sight, it is looked for."""
        is_fenced = track.submission.state in (ShardState.FENCING, ShardState.FENCED)
        if track.is_taken and is_fenced and self._at.is_of_another_key(track.submission):
            why = "its create was sent with another key, and only that one can tell whether it arrived"
            self._at.save(track, states.held(track.submission, why), "held")

    def _poll(self, track: Track) -> None:
        submission, progress = track.submission, track.progress
        scratch = self._at.place.folder / "scratch"
        self._start(
            track,
            "fetch",
            lambda: calls.fetch(
                self._at.client, submission, self._at.provider, progress, scratch, self._ahead.prepare
            ),
        )

    def _look_at_extras(self, track: Track) -> None:
        ids, shard_id = track.extras, track.submission.shard_id
        scratch, is_last = self._at.place.folder / "scratch", track.extras_stage is ExtrasStage.TO_READ
        self._start(
            track,
            "extras",
            lambda: look_at_extras(self._at.client, ids, scratch, shard_id, is_last=is_last),
        )

    def _start(self, track: Track, name: str, call: Callable[[], object]) -> None:
        """Run one call in a thread of its own; a daemon, so that leaving never waits for a slow server."""
        track.is_busy = True

        def work() -> None:
            try:
                result: object = call()
            except Exception as error:
                result = error
            self._landed_calls.put((track, name, result))

        threading.Thread(target=work, name=f"shard-{track.submission.slot}-{name}", daemon=True).start()

    # ------------------------------------------------------------ replies

    def _landed(self, track: Track, name: str, result: object) -> None:
        track.is_busy = False
        self._reception.heard(result)
        if isinstance(result, ProviderError):
            if result.problem.kind in STOPPING:
                self._reception.stopping = result.problem
            elif name == "stop":
                self._watcher.not_stopped(track, result, self._tracks)
            else:
                self._watcher.troubled(track, result, self._tracks)
            return
        if isinstance(result, BaseException):
            raise result
        self._replied(track, name, result)

    def _replied(self, track: Track, name: str, result: object) -> None:
        match name, result:
            case "fetch", Fetched():
                self._fetch_landed(track, result)
            case "extras", ExtrasSeen():
                self._extras.landed(track, result)
            case "stop", BatchObject():
                track.is_stop_told = True  # the next poll sees what became of it
            case _:
                self._sender.replied(track, name, result)

    def _fetch_landed(self, track: Track, fetched: Fetched) -> None:
        self._watcher.fetched(track, fetched, self._tracks)
        refusals = (error.problem for error in fetched.errors if error.problem.kind in STOPPING)
        self._reception.stopping = next(refusals, self._reception.stopping)
        if track.is_in(ShardState.DONE):
            self._reception.pause(track.retry_after_s, self._at.clock())
            self._reception.stopping = self._reception.stopping or refusal_in(track)
        elif track.is_in(ShardState.SUBMITTED) and self._reception.stopping is None:
            self._sender.stop_if_unwished(track)
