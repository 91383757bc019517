"""Submit, watch and collect: all shards side by side until every request is accounted for.

The outline, once around::

    drive
      _take        a shard's lock: only one process moves a shard
      _step        core.states.decide -> record the intent, start one call in a thread
      _landed      a call's reply -> core.states moves -> ledger.save -> a moment
      _conclude    answers stored; is every request accounted for? -> DONE

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
from runner.commands.cutting import TOO_LARGE, Cutter
from runner.commands.extras import Extras, ExtrasSeen, look_at_extras
from runner.commands.interrupts import StopFlag
from runner.commands.moments import BatchCreated, Trouble, Uploaded
from runner.commands.options import Pace
from runner.commands.patience import Patience
from runner.commands.precautions import UNSEEN, Precautions
from runner.commands.tracks import ExtrasStage, Surroundings, Track
from runner.commands.watching import Watcher, refusal_in
from runner.core import states
from runner.core.model import Accepted, Problem, ProblemKind, Refused, Unknown
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
from runner.failpoints import failpoint
from runner.ledger import CREATE_INTENDED, HeldElsewhereError, WaitKind, hold
from runner.provider import ProviderError

MAX_UPLOADS_AT_ONCE = 4
MAX_UPLOAD_ATTEMPTS = 12
MAX_UNREACHED_ATTEMPTS = 5
"""So often a server is tried that never answered this run: a minute, then a wrong address is likelier."""
TICK_S = 0.25
LEAVE_S = 3.0
MaySend = Callable[[Submission], bool]
_STOPPING = frozenset({ProblemKind.AUTHENTICATION, ProblemKind.PAYMENT, ProblemKind.VOLUME})


class Engine:
    """Drives shards to their end. One instance for one run; see the module for its rules.

    `pause_until_s`: until when (Unix seconds, by the steady clock) the server wants nothing sent.
    `may_send`: whether this run may buy a batch of a shard; one that it may not is left.
    """

    def __init__(
        self, at: Surroundings, stop: StopFlag, cutter: Cutter, *, may_send: MaySend = lambda _: True
    ) -> None:
        self._at = at
        self._stop = stop
        self._cutter = cutter
        self._may_send = may_send
        self.pause_until_s = 0.0
        self._ahead = Ahead(at.place)
        self._patience = Patience(at)
        self._watcher = Watcher(at, self._ahead, self._patience)
        self._extras = Extras(at, self._patience)
        self._precautions = Precautions(at)
        self._tracks: list[Track] = []
        self._landed_calls: queue.SimpleQueue[tuple[Track, str, object]] = queue.SimpleQueue()
        self._stopping: Problem | None = None
        self._was_reached = False
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
        self._tracks = [Track(submission=submission) for submission in submissions]
        deadline_s = None if left_s is None else time.monotonic() + left_s
        self._ahead.begin()
        try:
            while not self._is_over(pace):
                self._check_stop(deadline_s)
                now = self._at.clock()
                for track in () if self._stopping is not None else self._tracks:
                    self._step(track, now)
                self._wait_for_calls()
        except KeyboardInterrupt:
            self._patience_s = 0.0  # the second Ctrl-C: leave at once; an open intent is resolved next time
            raise
        finally:
            self._leave()
            self._ahead.close()
        if self._stopping is not None:
            raise refusal(self._at.provider.name, self._stopping)
        self._complaints += [
            track.submission for track in self._tracks if track.submission.state in COMPLAINTS
        ]
        return self.reached()

    @property
    def sends_from_s(self) -> float:
        """The same by the wall clock, as what outlives this process is told (0: from now on)."""
        ahead_s = self._at.wall() - self._at.clock()
        return self.pause_until_s + ahead_s if self.pause_until_s else 0.0

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
        if self._stopping is not None:
            return not any(track.is_busy for track in self._tracks)
        now = self._at.clock()
        return all(
            track.submission.state.is_final or track.can_be_left(now, pace) or self._is_held_up(track, pace)
            for track in self._tracks
        )

    def _is_held_up(self, track: Track, pace: Pace) -> bool:
        """In a step: as many batches are open as may be, so this shard's turn is in a later one."""
        is_first = track.is_in(ShardState.READY) and not track.is_busy
        return (
            pace is Pace.STEP and is_first and self._open_beside(track) >= self._at.provider.max_open_batches
        )

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
            case Upload() | Create() if now < self.pause_until_s:
                track.next_at_s = self.pause_until_s
            case Upload():
                self._upload(track)
            case Create():
                self._create(track, now)
            case ScanForBatch():
                self._scan(track)
            case DrawFence():
                submission = track.submission
                self._call(track, "fence", lambda: calls.draw_fence(self._at.client, submission))
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
            self._tell_unknown(track, "an earlier run never learned whether its create arrived", now)
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

    def _tell_unknown(self, track: Track, why: str, now: float) -> None:
        settled_s = (track.submission.send_by_s or 0.0) + self._at.provider.settle_s
        what = f"{why}; waiting {max(settled_s - now, 0):.0f} s, then looking for the batch"
        self._at.reporter.tell(Trouble(what=what, slot=track.submission.slot))

    def _upload(self, track: Track) -> None:
        uploading = sum(other.is_busy and other.is_in(ShardState.UPLOADING) for other in self._tracks)
        if uploading >= MAX_UPLOADS_AT_ONCE or self._open_beside(track) >= self._at.provider.max_open_batches:
            return
        if track.uploads == MAX_UPLOAD_ATTEMPTS:  # by this run: what an earlier one met says nothing of today
            raise StillRunningError(
                f"the server did not take shard {track.submission.slot} in {MAX_UPLOAD_ATTEMPTS} attempts: "
                f"{track.submission.problem}",
                next_step="nothing is lost; run the same command again later",
            )
        if self._precautions.is_given_up(track) or self._leaves(track):
            return
        if self._cutter.is_too_large(track.submission):
            self._cut_up(track, states.discarded(track.submission), TOO_LARGE)
            return
        track.uploads += 1
        failpoint("upload.begins")
        self._at.save(track, states.upload_intended(track.submission), "upload intended")
        failpoint("upload.intended")
        submission = track.submission
        path = self._at.place.folder / submission.path

        def sent(sent_bytes: int) -> None:
            track.sent_bytes = sent_bytes

        self._call(
            track, "upload", lambda: calls.upload(self._at.client, path, submission, self._at.provider, sent)
        )

    def _leaves(self, track: Track) -> bool:
        """Let go of a shard that this run must not send; whoever may, can take it."""
        track.is_left = not self._may_send(track.submission)
        if track.is_left:
            track.lock.close()
        return track.is_left

    def _cut_up(self, track: Track, given_up: Submission, problem: Problem) -> None:
        """Smaller shards take the place of this one, unless a person wants none."""
        if self._precautions.is_to_be_let_go(track):
            self._precautions.let_go(track, given_up)
            return
        new = self._cutter.cut(given_up, problem)
        track.submission = given_up
        self._tracks += [Track(submission=submission) for submission in new]

    def _open_beside(self, track: Track) -> int:
        return sum(
            not other.submission.state.is_final and other.submission.state is not ShardState.READY
            for other in self._tracks
            if other is not track and not other.is_left
        )

    def _create(self, track: Track, now: float) -> None:
        if self._precautions.is_given_up(track) or self._leaves(track):
            return
        window_s = states.send_window_s(self._at.provider)
        failpoint("create.begins")
        intended = states.create_intended(track.submission, now, window_s)
        self._at.save(track, intended, CREATE_INTENDED, self._at.key_digest(intended))
        failpoint("create.intended")
        submission = track.submission
        self._call(track, "create", lambda: self._create_in_time(submission))

    def _stop_if_unwished(self, track: Track) -> None:
        """Once a batch is known, and after each look at it: it goes on, though a person cancelled it while it
        was being made, or the server did not take that."""
        batch_id = track.submission.batch_id or ""
        if self._precautions.is_to_be_stopped(track):
            self._call(track, "stop", lambda: self._at.client.cancel_batch(batch_id))

    def _create_in_time(self, submission: Submission) -> Accepted | Refused | Unknown:
        """The last check: an intent that grew old (a sleep, a stopped process) is not sent any more."""
        if self._at.clock() >= (submission.send_by_s or 0.0):
            message = "not sent: too much time went by between the intent and the call"
            return Refused(problem=Problem(kind=ProblemKind.UNREACHABLE, message=message, retry_after_s=0.0))
        return calls.create(self._at.client, submission)

    def _poll(self, track: Track) -> None:
        submission, progress = track.submission, track.progress
        scratch = self._at.place.folder / "scratch"
        self._call(
            track,
            "fetch",
            lambda: calls.fetch(
                self._at.client, submission, self._at.provider, progress, scratch, self._ahead.prepare
            ),
        )

    def _scan(self, track: Track) -> None:
        client, provider, submission = self._at.client, self._at.provider, track.submission
        path, scratch = self._at.place.folder / submission.path, self._at.place.folder / "scratch"
        if submission.state is ShardState.FENCED:
            self._call(
                track, "scan", lambda: calls.scan_after_fence(client, submission, provider, path, scratch)
            )
        else:
            self._call(track, "scan", lambda: calls.scan(client, submission, provider))

    def _look_at_extras(self, track: Track) -> None:
        ids, shard_id = track.extras, track.submission.shard_id
        scratch, is_last = self._at.place.folder / "scratch", track.extras_stage is ExtrasStage.TO_READ
        self._call(
            track,
            "extras",
            lambda: look_at_extras(self._at.client, ids, scratch, shard_id, is_last=is_last),
        )

    def _call(self, track: Track, name: str, call: Callable[[], object]) -> None:
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
        problem = getattr(result, "problem", None)
        self._was_reached |= problem is None or problem.kind is not ProblemKind.UNREACHABLE
        if isinstance(result, ProviderError):
            if result.problem.kind in _STOPPING:
                self._stopping = result.problem
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
            case "upload", Accepted() | Refused() | Unknown():
                self._upload_landed(track, result)
            case "create", Accepted() | Refused() | Unknown():
                self._create_landed(track, result)
            case "scan", (tuple() as matches, bool() as is_complete):
                self._scan_landed(track, matches, is_complete)
            case "fence", str():
                self._fence_landed(track, result)
            case "fetch", Fetched():
                self._fetch_landed(track, result)
            case "extras", ExtrasSeen():
                self._extras.landed(track, result)
            case "stop", BatchObject():
                track.is_stop_told = True  # the next poll sees what became of it
            case _:
                raise AssertionError(f"unexpected reply to {name}: {result!r}")

    def _fetch_landed(self, track: Track, fetched: Fetched) -> None:
        self._watcher.fetched(track, fetched, self._tracks)
        refusals = (error.problem for error in fetched.errors if error.problem.kind in _STOPPING)
        self._stopping = next(refusals, self._stopping)
        if track.is_in(ShardState.DONE):
            self._pause(track.retry_after_s)
            self._stopping = self._stopping or refusal_in(track)
        elif track.is_in(ShardState.SUBMITTED) and self._stopping is None:
            self._stop_if_unwished(track)

    def _pause(self, seconds: float | None) -> None:
        """The longest wait that the server asked for counts, for every shard."""
        self.pause_until_s = max(self.pause_until_s, self._at.clock() + seconds if seconds else 0.0)

    def _upload_landed(self, track: Track, result: Accepted | Refused | Unknown) -> None:
        failpoint("upload.landed")
        if isinstance(result, Accepted):
            self._precautions.refuse_reused_file(track, result.object_id)
            moved = states.upload_accepted(track.submission, result.object_id)
            self._at.save(track, moved, "uploaded")
            failpoint("upload.recorded")
            self._at.reporter.tell(
                Uploaded(
                    slot=moved.slot,
                    file_id=result.object_id,
                    size_bytes=moved.size_bytes,
                    requests=moved.requests,
                )
            )
            return
        self._refused(track, states.upload_failed(track.submission, result.problem, self._at.clock()), result)

    def _create_landed(self, track: Track, result: Accepted | Refused | Unknown) -> None:
        failpoint("create.landed")
        match result:
            case Accepted() if self._precautions.is_reused(track, result.object_id):
                self._precautions.hold_reused(track, result.object_id)
            case Accepted():
                moved = states.create_accepted(track.submission, result.object_id, self._at.clock())
                self._at.save(track, moved, "batch created", result.raw.decode("utf-8", "replace"))
                failpoint("create.recorded")
                self._tell_created(track, is_adopted=False)
                self._stop_if_unwished(track)
            case Refused():
                moved = states.create_refused(track.submission, result.problem, self._at.clock())
                self._refused(track, moved, result)
            case Unknown():
                now = self._at.clock()
                moved = states.create_unknown(track.submission, result.problem, ended_at_s=now)
                self._at.save(track, moved, "create unknown")
                failpoint("create.unknown_recorded")
                self._tell_unknown(
                    track, f"whether a batch was created is unknown ({result.problem.message})", now
                )

    def _refused(self, track: Track, moved: Submission, result: Refused | Unknown) -> None:
        problem = result.problem
        if moved.state is ShardState.DISCARDED:
            self._cut_up(track, moved, problem)
            return
        self._pause(problem.retry_after_s)
        if moved.state is ShardState.REFUSED:
            self._at.ledger.release(moved)
            track.submission = moved
        else:
            self._at.save(track, moved, "sent again later")
        if problem.kind in _STOPPING:
            self._stopping = problem
            return
        if moved.attempt > MAX_UNREACHED_ATTEMPTS and not self._was_reached:
            raise StillRunningError(
                f"{self._at.provider.base_url} can't be reached: {problem.message}",
                next_step="check the network and `model.provider`; the same command goes on from here",
            )
        pause_s = max(moved.not_before_s - self._at.clock(), 0)
        then = "given up" if moved.state is ShardState.REFUSED else f"again in {pause_s:.0f} s"
        self._at.reporter.tell(Trouble(what=f"{problem.message}; {then}", slot=moved.slot))

    def _tell_created(self, track: Track, *, is_adopted: bool) -> None:
        self._at.reporter.tell(
            BatchCreated(
                slot=track.submission.slot,
                batch_id=track.submission.batch_id or "",
                requests=track.submission.requests,
                is_adopted=is_adopted,
            )
        )

    def _scan_landed(self, track: Track, matches: tuple[BatchObject, ...], is_complete: bool) -> None:
        failpoint("scan.landed")
        before = track.submission.state
        moved = states.scanned(
            track.submission,
            matches,
            is_complete=is_complete,
            provider=self._at.provider,
            now_s=self._at.clock(),
        )
        if moved.state is ShardState.READY and not self._precautions.is_of_our_account(track):
            moved = states.held(track.submission, UNSEEN)
        if moved.state is before:
            track.submission = moved
            return
        if moved.state is ShardState.SUBMITTED:
            if self._precautions.is_reused(track, moved.batch_id or ""):
                self._precautions.hold_reused(track, moved.batch_id or "")
                return
            self._extras.found(track, moved, matches)
        self._at.save(track, moved, f"scanned: {moved.state}")
        failpoint("scan.recorded")
        if moved.state is ShardState.SUBMITTED:
            failpoint("adopt.recorded")
            self._tell_created(track, is_adopted=True)
            self._extras.remember(track)
            self._stop_if_unwished(track)

    def _fence_landed(self, track: Track, reply: str) -> None:
        """The file was seen before the fence was tried, so where it stays missing a delete of ours reached
        the server and only its reply was lost."""
        failpoint("fence.landed")
        whole_s, file_id = self._at.patience_s, track.submission.input_file_id or ""
        is_lasting = reply != "deleted" and (
            self._patience.lasted_s(track, WaitKind.FENCE_OPEN, file_id, whole_s) > whole_s
        )
        track.has_deleted |= reply == "deleted"
        if reply == "missing" and is_lasting and not self._precautions.is_of_our_account(track):
            self._at.save(track, states.held(track.submission, UNSEEN), "held")
            return
        if reply == "deleted" or (reply == "missing" and is_lasting):
            self._at.save(track, states.fence_held(track.submission), "fence drawn")
            failpoint("fence.recorded")
            self._patience.end(track, WaitKind.FENCE_OPEN)
        elif is_lasting:
            self._at.save(track, states.held(track.submission, "the input file could not be deleted"), "held")
            self._patience.end(track, WaitKind.FENCE_OPEN)
        else:
            track.next_at_s = self._at.clock() + self._at.reread_pause_s
